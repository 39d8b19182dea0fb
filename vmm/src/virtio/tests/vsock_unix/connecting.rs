//! Connections from either side, and how they end.

use super::*;

#[test]
fn program_of_the_host_reaches_the_guest_and_both_close() {
    let mut set = Set::new(8);
    let (mut stream, request) = set.host_asks(1234);
    let host = request.src.1;
    // What it says before it is joined waits.
    stream.write_all(b"early").unwrap();
    set.expect_nothing();
    set.send(&Packet::new(1234, host, RESPONSE));
    let line = format!("OK {host}\n");
    assert_eq!(read_exact(&stream, line.len()), line.as_bytes());
    assert_eq!(set.expect(RW).data, b"early");
    set.send(&Packet::new(1234, host, RW).with(b"hello"));
    assert_eq!(read_exact(&stream, 5), b"hello");
    assert_eq!(
        (set.counts().connections, set.counts().opened_by_host),
        (1, 1)
    );
    // Half of it, then all.
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(set.expect(SHUTDOWN).flags, 2);
    set.send(&Packet::new(1234, host, RW).with(b"still there"));
    assert_eq!(read_exact(&stream, 11), b"still there");
    drop(stream);
    assert_eq!(set.expect(SHUTDOWN).flags, 3);
    set.send(&Packet::new(1234, host, RST));
    set.expect_nothing();
    assert_eq!((set.counts().connections, set.counts().cut), (0, 0));
}

#[test]
fn program_is_closed_if_the_guest_does_not_listen_or_the_line_is_none() {
    let mut set = Set::new(8);
    let (stream, request) = set.host_asks(9);
    set.send(&Packet::new(9, request.src.1, RST));
    assert!(is_at_end(&stream));
    for line in ["CONNECT\n", "hello\n", "CONNECT 1x\n", &"1".repeat(32)] {
        let mut stream = UnixStream::connect(set.path(None)).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        set.expect_nothing();
        // With its line unread, the end is an error.
        assert!(is_closed(&stream), "{line}");
    }
    assert_eq!((set.counts().connections, set.counts().refused), (0, 5));
    // A line in pieces is one.
    let mut stream = UnixStream::connect(set.path(None)).unwrap();
    for piece in ["CON", "NECT", " 7", "7\n"] {
        set.expect_nothing();
        stream.write_all(piece.as_bytes()).unwrap();
    }
    assert_eq!(set.expect(REQUEST).dst.1, 77);
}

#[test]
fn guest_reaches_who_listens_and_nobody_else() {
    let mut set = Set::new(8);
    let listener = set.listen();
    let mut stream = set.guest_opens(&listener, 1000, 1 << 20);
    set.send(&Packet::new(1000, 5, RW).with(b"from the guest"));
    assert_eq!(read_exact(&stream, 14), b"from the guest");
    stream.write_all(b"from the host").unwrap();
    assert_eq!(set.expect(RW).data, b"from the host");
    // It closes: the host reads to the end, the guest gets its reset.
    set.send(&Packet::new(1000, 5, RW).with(b"last"));
    let shutdown = Packet {
        flags: 3,
        ..Packet::new(1000, 5, SHUTDOWN)
    };
    set.send(&shutdown);
    set.expect(RST);
    assert_eq!(read_exact(&stream, 4), b"last");
    assert!(is_at_end(&stream));
    // The same port again, and a port where nobody is.
    drop(set.guest_opens(&listener, 1000, 1 << 20));
    set.send(&Packet::new(1001, 6, REQUEST));
    let refused = loop {
        let packet = set.wait();
        if packet.op != SHUTDOWN {
            break packet;
        }
    };
    assert_eq!((refused.op, refused.src.1, refused.dst.1), (RST, 6, 1001));
    assert_eq!((set.counts().opened_by_guest, set.counts().refused), (2, 1));
}

/// `rig.run` panics if the I/O thread never gets idle.
#[test]
fn guest_shuts_one_direction_and_the_other_goes_on() {
    let mut set = Set::new(8);
    let listener = set.listen();
    for (guest, flags) in [(7, 2), (8, 1)] {
        let mut stream = set.guest_opens(&listener, guest, 1 << 20);
        let shutdown = Packet {
            flags,
            ..Packet::new(guest, 5, SHUTDOWN)
        };
        set.send(&shutdown);
        set.send(&shutdown);
        if flags == 2 {
            assert!(is_at_end(&stream));
            stream.write_all(b"answer").unwrap();
            assert_eq!(set.expect(RW).data, b"answer");
        } else {
            assert!(stream.write_all(b"answer").is_err());
            set.send(&Packet::new(guest, 5, RW).with(b"more"));
            assert_eq!(read_exact(&stream, 4), b"more");
        }
        drop(stream);
        let ended = Packet {
            flags: 3,
            ..Packet::new(guest, 5, SHUTDOWN)
        };
        set.send(&ended);
        while set.wait().op != RST {}
    }
    assert_eq!(set.counts().connections, 0);
}

#[test]
fn strangers_are_reset_and_a_reset_never_is() {
    let mut set = Set::new(8);
    for op in [RESPONSE, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST, 0, 99] {
        set.send(&Packet::new(1, 2, op));
        let reset = set.expect(RST);
        assert_eq!((reset.src.1, reset.dst.1), (2, 1), "{op}");
    }
    set.send(&Packet::new(1, 2, RST));
    // Nobody that an answer would reach.
    let mut other = Packet::new(1, 2, RW);
    other.src.0 = 41;
    set.send(&other);
    set.expect_nothing();
    // Sequenced packets, which are not offered.
    let seqpacket = Packet {
        kind: 2,
        ..Packet::new(1, 5, REQUEST)
    };
    set.rig.put(OUT, &seqpacket.header());
    set.rig.add(1, &[(OUT, HEADER as u32, false)]);
    set.rig.notify(1);
    let (head, len) = set.rig.take_used(0).unwrap();
    assert_eq!(len, HEADER as u32);
    let [op, _] = set.rig.get(set.buffers[&head] + 30);
    assert_eq!(op, RST as u8);
}
