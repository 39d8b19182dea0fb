//! Peers, drivers and sockets that go away, and limits.

use super::*;

#[test]
fn peer_that_dies_ends_the_guests_connection() {
    let mut set = Set::new(8);
    let listener = set.listen();
    // With data that nobody has read: a reset.
    let stream = set.guest_opens(&listener, 7, 1 << 20);
    set.send(&Packet::new(7, 5, RW).with(b"unread"));
    drop(stream);
    set.expect(RST);
    assert_eq!(set.counts().connections, 0);
    // Without: an end, after what it has said; and writes that go nowhere meanwhile.
    let mut stream = set.guest_opens(&listener, 8, 1 << 20);
    stream.write_all(b"last words").unwrap();
    drop(stream);
    set.send(&Packet::new(8, 5, RW).with(b"too late"));
    assert_eq!(set.expect(RW).data, b"last words");
    assert_eq!(set.expect(SHUTDOWN).flags, 3);
    set.send(&Packet::new(8, 5, RST));
    // Before the guest has answered.
    let (stream, request) = set.host_asks(3);
    drop(stream);
    set.expect(RST);
    set.send(&Packet::new(3, request.src.1, RESPONSE));
    set.expect(RST);
    assert_eq!(set.counts().connections, 0);
}

#[test]
fn what_is_half_open_for_too_long_ends() {
    let mut set = Set::with_patience(8, Duration::from_millis(1));
    let silent = UnixStream::connect(set.path(None)).unwrap();
    silent
        .set_read_timeout(Some(Duration::from_millis(10)))
        .unwrap();
    let started = Instant::now();
    while !is_at_end(&silent) {
        set.rig.run();
        assert!(started.elapsed() < SOON);
    }
    // No answer to a request.
    let (_asks, request) = set.host_asks(3);
    let reset = set.wait();
    assert_eq!((reset.op, reset.src.1), (RST, request.src.1));
    // No end after an end.
    let listener = set.listen();
    drop(set.guest_opens(&listener, 7, 100));
    set.expect(SHUTDOWN);
    let reset = set.wait();
    assert_eq!((reset.op, reset.dst.1), (RST, 7));
    assert_eq!((set.counts().connections, set.counts().cut), (0, 2));
}

#[test]
fn connections_have_a_limit() {
    // Both ends of each are in this process.
    let limit = getrlimit(Resource::Nofile);
    let more = Rlimit {
        current: Some(limit.maximum.map_or(4096, |maximum| maximum.min(4096))),
        ..limit
    };
    setrlimit(Resource::Nofile, more).unwrap();
    let mut set = Set::new(8);
    let listener = set.listen();
    let mut streams = Vec::new();
    for guest in 0..512 {
        streams.push(set.guest_opens(&listener, guest, 100));
    }
    assert_eq!(set.counts().connections, 512);
    set.send(&Packet::new(999, 5, REQUEST));
    assert_eq!(set.expect(RST).dst.1, 999);
    let stream = UnixStream::connect(set.path(None)).unwrap();
    set.expect_nothing();
    assert!(is_at_end(&stream));
    // One that ends makes room for another.
    set.send(&Packet::new(0, 5, RST));
    assert!(is_at_end(&streams[0]));
    set.guest_opens(&listener, 999, 100);
}

#[test]
fn guest_that_fetches_no_answers_is_not_heard_until_it_does() {
    let mut set = Set::new(0);
    for number in 0..256_u32 {
        set.send(&Packet::new(number, 1, RW));
    }
    set.rig.put(OUT, &Packet::new(256, 1, RW).header());
    set.rig.add(1, &[(OUT, HEADER as u32, false)]);
    set.rig.notify(1);
    assert_eq!(set.rig.take_used(1), None);
    set.give(8);
    for number in 0..=256 {
        assert_eq!(set.expect(RST).dst.1, number);
    }
    assert!(set.rig.take_used(1).is_some());
    set.expect_nothing();
}

#[test]
fn reset_closes_everything_and_nobody_is_taken_without_a_driver() {
    let mut set = Set::new(8);
    let listener = set.listen();
    let (asks, _) = set.host_asks(3);
    let greets = UnixStream::connect(set.path(None)).unwrap();
    let open = set.guest_opens(&listener, 7, 100);
    set.rig.set_status(0);
    for stream in [&asks, &greets, &open] {
        set.rig.run();
        assert!(is_closed(stream));
    }
    assert_eq!(set.counts().connections, 0);
    let early = UnixStream::connect(set.path(None)).unwrap();
    set.rig.run();
    assert!(is_at_end(&early));
    set.rig.start(0, RING);
    set.buffers.clear();
    set.give(8);
    set.guest_opens(&listener, 7, 100);
}

#[test]
fn paths_that_cannot_be_listened_on_are_refused_and_ours_goes_with_the_device() {
    let folder = TempDir::new().unwrap();
    let path = folder.as_path().join("s");
    let device = UnixVsock::open(CID, &path).unwrap();
    let again = UnixVsock::open(CID, &path).err();
    assert!(matches!(again, Some(UnixVsockError::InUse { .. })));
    drop(device);
    assert!(!path.exists());
    std::fs::write(&path, b"").unwrap();
    let again = UnixVsock::open(CID, &path).err();
    assert!(matches!(again, Some(UnixVsockError::NotASocket { .. })));
}
