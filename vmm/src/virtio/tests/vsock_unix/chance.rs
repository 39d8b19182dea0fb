//! Packets by chance.

use super::*;

/// Packets of any kind for few ports, while the host's side does what it likes. Nothing panics, nothing
/// spins, every reset has a reason, and there are never more connections than the limit.
#[test]
fn packets_by_chance_are_harmless() {
    let mut resets = 0;
    for seed in 0..20 {
        let mut set = Set::new(16);
        let listener = set.listen();
        listener.set_nonblocking(true).unwrap();
        let mut dice = Dice(seed);
        let mut streams: Vec<UnixStream> = Vec::new();
        let mut seen = vec![(1, 5)];
        for _ in 0..600 {
            let (guest, host) = dice.pick(&seen);
            let mut packet = Packet::new(guest, host, dice.below(9) as u16);
            match dice.below(12) {
                0 => packet.src.0 = dice.roll(),
                1 => packet.dst.0 = dice.roll(),
                2 => packet.kind = dice.roll() as u16,
                3 => packet.op = dice.roll() as u16,
                4 => packet.dst.1 = dice.roll() as u32,
                5 => packet.src.1 = dice.below(4) as u32,
                _ => {}
            }
            packet.flags = dice.pick(&[0, 1, 2, 3, u32::MAX, 0, 0, 0]);
            packet.room = (
                dice.pick(&[0, 1, 100, 1 << 18, u32::MAX]),
                dice.pick(&[0, 1, 100, u32::MAX, dice.0 as u32]),
            );
            let len = dice.pick(&[0, 1, 100, 60_000]);
            packet.data = vec![7; len];
            let is_reset = packet.op == RST;
            let queued = set.rig.take_used(0);
            assert_eq!(queued, None, "all was fetched");
            set.send(&packet);
            let mut answers = Vec::new();
            while let Some(answer) = set.receive() {
                if answer.op == REQUEST {
                    seen.push((answer.dst.1, answer.src.1));
                }
                answers.push(answer);
            }
            let was_reset = answers.iter().filter(|answer| answer.op == RST).count();
            resets += was_reset;
            if is_reset && packet.src.0 == u64::from(CID) {
                let to_it = |answer: &&Packet| {
                    let ports = (answer.dst.1, answer.src.1);
                    answer.op == RST && ports == (packet.src.1, packet.dst.1)
                };
                let answered = answers.iter().find(to_it);
                assert_eq!(answered, None, "a reset for {packet:?}");
            }
            match dice.below(8) {
                0 => {
                    if let Ok(mut stream) = UnixStream::connect(set.path(None)) {
                        stream.set_nonblocking(true).unwrap();
                        let line = dice.pick(&["CONNECT 1\n", "CONNECT 2\nmore", "CONN", "\n"]);
                        let _ = stream.write_all(line.as_bytes());
                        streams.push(stream);
                    }
                }
                1 if !streams.is_empty() => {
                    let index = dice.below(streams.len() as u64) as usize;
                    streams.swap_remove(index);
                }
                2 | 3 => {
                    for mut stream in &streams {
                        let _ = stream.write(&[1; 300]);
                        let _ = stream.read(&mut [0; 50_000]);
                    }
                }
                _ => {}
            }
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true).unwrap();
                streams.push(stream);
            }
            set.rig.run();
            while let Some(packet) = set.receive() {
                if packet.op == REQUEST {
                    seen.push((packet.dst.1, packet.src.1));
                }
            }
            assert!(set.counts().connections <= 512);
        }
        assert_eq!(set.rig.status(), 15);
        set.rig.set_status(0);
        assert_eq!(set.counts().connections, 0);
    }
    assert!(resets > 100, "{resets}");
}
