//! How much either side may send before the other has read it.

use super::*;

#[test]
fn guest_is_sent_what_it_has_room_for() {
    let mut set = Set::new(8);
    let listener = set.listen();
    let mut stream = set.guest_opens(&listener, 7, 100);
    stream.write_all(&[9; 150]).unwrap();
    assert_eq!(set.expect(RW).data, [9; 100]);
    // Asked once.
    set.expect(CREDIT_REQUEST);
    set.expect_nothing();
    for (room, expected) in [
        // It used more than there was, it has less room than before, it has none.
        ((100, 101), None),
        ((10, 50), None),
        ((0, 100), None),
        ((100, 30), Some(30)),
        ((u32::MAX, 130), Some(20)),
    ] {
        let update = Packet {
            room,
            ..Packet::new(7, 5, CREDIT_UPDATE)
        };
        set.send(&update);
        set.rig.run();
        let data = std::iter::from_fn(|| set.receive())
            .filter(|packet| packet.op == RW)
            .map(|packet| packet.data.len());
        let data: Vec<_> = data.collect();
        assert_eq!(data, Vec::from_iter(expected), "{room:?}");
    }
}

/// Data that says where it belongs.
fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len)
        .map(|at| (at * 7 + at / 251) as u8)
        .collect()
}

#[test]
fn guest_that_keeps_to_its_credit_loses_nothing_however_slow_the_reader() {
    let mut set = Set::new(8);
    let listener = set.listen();
    let mut stream = set.guest_opens(&listener, 7, 1 << 20);
    stream.set_nonblocking(true).unwrap();
    let total = 2 << 20;
    let (mut sent, mut forwarded, mut read) = (0, 0, Vec::new());
    let (mut was_out_of_credit, started) = (false, Instant::now());
    while read.len() < total {
        assert!(started.elapsed() < SOON);
        let credit = WINDOW - (sent - forwarded);
        let len = credit.min(total - sent).min(60_000);
        if len > 0 {
            set.send(&Packet::new(7, 5, RW).with(&pattern(sent, len)));
            sent += len;
        } else {
            was_out_of_credit = true;
            // Only now somebody reads, and only some.
            let mut some = [0; 50_000];
            match stream.read(&mut some) {
                Ok(len) => read.extend_from_slice(&some[..len]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        set.rig.run();
        while let Some(packet) = set.receive() {
            assert_eq!(packet.op, CREDIT_UPDATE);
            forwarded = packet.room.1 as usize;
        }
    }
    assert!(was_out_of_credit);
    assert_eq!(read, pattern(0, total));
    assert_eq!(set.counts().cut, 0);
}

#[test]
fn guest_that_overruns_its_credit_is_reset_and_holds_no_more_than_the_window() {
    let mut set = Set::new(8);
    let listener = set.listen();
    let stream = set.guest_opens(&listener, 7, 1 << 20);
    let mut sent = 0;
    let reset = loop {
        set.send(&Packet::new(7, 5, RW).with(&pattern(sent, 60_000)));
        sent += 60_000;
        if let Some(packet) = std::iter::from_fn(|| set.receive()).find(|p| p.op == RST) {
            break packet;
        }
        assert!(sent < 4 << 20, "never reset");
    };
    assert_eq!((reset.src.1, reset.dst.1), (5, 7));
    assert_eq!((set.counts().connections, set.counts().cut), (0, 1));
    drop(stream);
    // Data that is not there is no credit to lie about: the connection ends.
    let _stream = set.guest_opens(&listener, 8, 1 << 20);
    let lie = Packet::new(8, 5, RW).with(&[0; 4000]);
    set.rig.put(OUT, &lie.header());
    set.rig.add(1, &[(OUT, HEADER as u32 + 10, false)]);
    set.rig.notify(1);
    set.expect(RST);
}

#[test]
fn data_of_a_guest_that_has_closed_still_reaches_a_slow_reader() {
    let mut set = Set::new(8);
    let listener = set.listen();
    let stream = set.guest_opens(&listener, 7, 1 << 20);
    // More than the socket holds by itself.
    let (mut sent, mut forwarded) = (0, 0);
    loop {
        let len = (WINDOW - (sent - forwarded)).min(60_000);
        if len == 0 {
            break;
        }
        set.send(&Packet::new(7, 5, RW).with(&pattern(sent, len)));
        sent += len;
        while let Some(packet) = set.receive() {
            forwarded = packet.room.1 as usize;
        }
    }
    let shutdown = Packet {
        flags: 3,
        ..Packet::new(7, 5, SHUTDOWN)
    };
    set.send(&shutdown);
    set.expect_nothing();
    // Linux loses its patience, and so it is heard no more.
    set.send(&Packet::new(7, 5, RST));
    let mut read = Vec::new();
    while read.len() < sent {
        let mut some = [0; 4096];
        let len = (&stream).read(&mut some).unwrap();
        read.extend_from_slice(&some[..len]);
        set.rig.run();
    }
    assert_eq!(read, pattern(0, sent));
    assert!(is_at_end(&stream));
    set.expect_nothing();
    assert_eq!(set.counts().connections, 0);
}
