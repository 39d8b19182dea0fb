//! Guests that mean harm, or are merely broken: nothing panics, nothing hangs, and a reset helps.

use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::machines::{machines, serving, Kind};
use super::rig::{
    put_descriptor, Dice, Rig, Ring, BUFFERS, F_EVENT_IDX, F_VERSION_1, INDIRECT, MMIO_BASE,
    MMIO_LEN, NEXT, RAM_BYTES, WRITE,
};
use crate::bus::BusDevice;
use crate::pci::{BarWindow, ConfigPorts, EcamWindow};
use crate::virtio::Wanted;

const NEEDS_RESET: u8 = 0x40;
/// Generous: debug builds on a busy machine.
const SOON: Duration = Duration::from_secs(200);

fn garbage(dice: &mut Dice) -> ([u8; 8], usize) {
    let value = match dice.below(4) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << dice.below(64),
        _ => dice.roll(),
    };
    (value.to_le_bytes(), dice.pick(&[1, 2, 4, 8, 3, 7]))
}

#[test]
fn garbage_in_every_register_is_harmless() {
    let started = Instant::now();
    for (seed, mut machine) in (1..).zip(machines()) {
        let rig = &mut machine.rig;
        let mut dice = Dice(seed);
        let mut ports = ConfigPorts::new(rig.root.clone());
        let mut ecam = EcamWindow::new(rig.root.clone());
        let mut bars = BarWindow::new(rig.root.clone());
        for round in 0..40_000 {
            let (bytes, len) = garbage(&mut dice);
            let (device, offset): (&mut dyn BusDevice, u64) = match dice.below(8) {
                0 => (&mut ports, dice.below(8)),
                1 => (&mut ecam, dice.below(256 << 20)),
                2 | 3 => (&mut ecam, 1 << 15 | dice.below(256)),
                4 => (&mut bars, dice.below(MMIO_LEN)),
                5 => (&mut bars, dice.below(0x40)),
                6 => (&mut bars, 0x3000 + dice.below(0x40)),
                _ => (&mut bars, 0x4000 + dice.below(0x1040)),
            };
            device.write(offset, &bytes[..len]);
            let mut data = [0; 8];
            device.read(offset, &mut data[..len]);
            if round % 64 == 0 {
                rig.set_config(0x04, &[6, 0]);
                rig.set_config(0x10, &(MMIO_BASE as u32).to_le_bytes());
                rig.run();
            }
        }
        machine.assert_recovers();
    }
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

#[test]
fn every_config_and_bar_offset_takes_every_width() {
    for mut machine in machines() {
        let rig = &mut machine.rig;
        for value in [0u8, 0xff, 0x5a] {
            for len in [1, 2, 4, 8, 16] {
                let mut data = vec![value; len];
                for offset in 0..4096u16 {
                    rig.root.config_write(0, 1, 0, offset, &data);
                    rig.root.config_read(0, 1, 0, offset, &mut data);
                    data.fill(value);
                }
                rig.set_config(0x04, &[2, 0]);
                rig.set_config(0x10, &(MMIO_BASE as u32).to_le_bytes());
                for offset in 0..0x6000 {
                    rig.root.mmio_write(MMIO_BASE + offset, &data);
                    rig.root.mmio_read(MMIO_BASE + offset, &mut data);
                    data.fill(value);
                }
            }
        }
        machine.assert_recovers();
    }
}

/// Runs a started device with a ring that `corrupt` made bad, and expects the latch.
fn assert_breaks(what: &str, corrupt: impl Fn(&mut Rig)) {
    for (features, is_polled) in [
        (0, false),
        (F_EVENT_IDX, false),
        (0, true),
        (F_EVENT_IDX, true),
    ] {
        for mut machine in serving() {
            let rig = &mut machine.rig;
            rig.start(features, 16);
            if is_polled {
                // Taken over before, so that it is found without anybody's doing.
                rig.look();
            }
            corrupt(rig);
            if is_polled {
                rig.look();
                rig.run();
            }
            rig.notify(0);
            assert_eq!(rig.status(), 15 | NEEDS_RESET, "{what}");
            assert_eq!(rig.interrupts.take(0), 1, "{what}: told once");
            // Latched: a good chain changes nothing now.
            rig.add(0, &[(BUFFERS, 16, false), (BUFFERS + 0x100, 16, true)]);
            rig.notify(0);
            assert!(!is_polled || !rig.look(), "{what}");
            assert_eq!(rig.take_used(0), None, "{what}");
            machine.assert_recovers();
        }
    }
}

fn offer_raw(rig: &mut Rig, descriptors: &[(u64, u32, u16, u16)]) {
    let ram = rig.ram.clone();
    for (index, &descriptor) in (0..).zip(descriptors) {
        rig.queues[0].describe(&ram, index, descriptor);
    }
    rig.queues[0].offer(&ram, 0);
}

#[test]
fn malformed_chains_break_the_queue() {
    let buffer = BUFFERS;
    let table = BUFFERS + 0x8000;
    assert_breaks("loop of one", |rig| {
        offer_raw(rig, &[(buffer, 16, NEXT, 0)])
    });
    assert_breaks("loop of two", |rig| {
        offer_raw(
            rig,
            &[(buffer, 16, NEXT | WRITE, 1), (buffer, 16, NEXT | WRITE, 0)],
        );
    });
    assert_breaks("next is out of the table", |rig| {
        offer_raw(rig, &[(buffer, 16, NEXT, 16)])
    });
    assert_breaks("head is out of the table", |rig| {
        let ram = rig.ram.clone();
        rig.queues[0].offer(&ram, 16);
    });
    assert_breaks("head is far out of the table", |rig| {
        let ram = rig.ram.clone();
        rig.queues[0].offer(&ram, 0xffff);
    });
    for address in [RAM_BYTES, RAM_BYTES - 8, MMIO_BASE, u64::MAX, u64::MAX - 15] {
        assert_breaks("buffer outside of memory", |rig| {
            offer_raw(rig, &[(address, 16, WRITE, 0)]);
        });
    }
    assert_breaks("huge length", |rig| {
        offer_raw(rig, &[(buffer, u32::MAX, WRITE, 0)])
    });
    assert_breaks("total past 4 GiB", |rig| {
        offer_raw(
            rig,
            &[(0, 3 << 20, NEXT | WRITE, 1), (0, u32::MAX, WRITE, 0)],
        );
    });
    assert_breaks("readable after writable", |rig| {
        offer_raw(rig, &[(buffer, 16, NEXT | WRITE, 1), (buffer, 16, 0, 0)]);
    });
    assert_breaks("indirect table of a strange size", |rig| {
        offer_raw(rig, &[(table, 17, INDIRECT, 0)]);
    });
    assert_breaks("empty indirect table", |rig| {
        offer_raw(rig, &[(table, 0, INDIRECT, 0)])
    });
    assert_breaks("huge indirect table", |rig| {
        offer_raw(rig, &[(table, 0xffff_fff0, INDIRECT, 0)]);
    });
    assert_breaks("indirect table outside of memory", |rig| {
        offer_raw(rig, &[(MMIO_BASE, 16, INDIRECT, 0)]);
    });
    assert_breaks("indirect table in an indirect table", |rig| {
        put_descriptor(&rig.ram, table, (table, 16, INDIRECT, 0));
        offer_raw(rig, &[(table, 16, INDIRECT, 0)]);
    });
    assert_breaks("loop in an indirect table", |rig| {
        put_descriptor(&rig.ram, table, (buffer, 16, NEXT, 0));
        offer_raw(rig, &[(table, 16 * 1000, INDIRECT, 0)]);
    });
    assert_breaks("chain longer than any queue", |rig| {
        // The largest queue of any device.
        let most = 1024_u16;
        for index in 0..most {
            let next = (buffer, 1, NEXT | WRITE, index + 1);
            put_descriptor(&rig.ram, table + u64::from(index) * 16, next);
        }
        let last = table + u64::from(most) * 16;
        put_descriptor(&rig.ram, last, (buffer, 1, WRITE, 0));
        offer_raw(rig, &[(table, 16 * (u32::from(most) + 1), INDIRECT, 0)]);
    });
    for jump in [17u16, 0x7fff, 0x8000, 0xffff] {
        assert_breaks("avail index jumps", |rig| {
            rig.put(rig.queues[0].avail + 2, &jump.to_le_bytes());
        });
    }
}

#[test]
fn broken_queue_leaves_the_others_alone() {
    for mut machine in serving() {
        let rig = &mut machine.rig;
        if rig.read2(rig.common(0x12)) == 1 {
            continue;
        }
        rig.start(0, 16);
        rig.put(rig.queues[0].avail + 2, &0x8000u16.to_le_bytes());
        rig.notify(0);
        assert_eq!(rig.status(), 15 | NEEDS_RESET);
        rig.add(1, &[(BUFFERS, 16, false), (BUFFERS + 0x100, 16, true)]);
        rig.notify(1);
        assert!(rig.take_used(1).is_some());
    }
}

#[test]
fn zero_length_buffers_are_allowed_anywhere() {
    for mut machine in serving() {
        let rig = &mut machine.rig;
        rig.start(0, 16);
        for address in [0, BUFFERS, RAM_BYTES, u64::MAX] {
            rig.add(
                0,
                &[
                    (address, 0, false),
                    (BUFFERS, 16, false),
                    (BUFFERS, 0, true),
                ],
            );
            rig.add(
                0,
                &[
                    (address, 0, true),
                    (BUFFERS + 0x100, 16, true),
                    (address, 0, true),
                ],
            );
        }
        rig.notify(0);
        // Only a block request without a status byte has no answer.
        let is_blk = matches!(machine.kind, Kind::BlkSync | Kind::BlkUring);
        assert_eq!(rig.status() & NEEDS_RESET != 0, is_blk);
        machine.assert_recovers();
    }
}

#[test]
fn rings_on_top_of_each_other_and_of_the_buffers_are_harmless() {
    let started = Instant::now();
    for mut machine in machines() {
        let rig = &mut machine.rig;
        for overlap in [0u64, 2, 4, 64] {
            rig.start(F_EVENT_IDX, 16);
            rig.negotiate(F_VERSION_1 | F_EVENT_IDX);
            for index in 0..rig.queues.len() {
                let mut ring = rig.queues[index];
                ring.avail = ring.descriptors + overlap;
                ring.used = ring.descriptors + (overlap & !3);
                rig.set_up_queue(u16::try_from(index).unwrap(), &ring);
                rig.queues[index] = ring;
            }
            rig.set_status(15);
            let at = rig.queues[0].descriptors;
            for _ in 0..20 {
                rig.add(0, &[(at, 512, true), (at, 64, true)]);
                rig.notify(0);
            }
        }
        machine.assert_recovers();
    }
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

#[test]
fn random_rings_are_harmless_and_take_bounded_time() {
    let started = Instant::now();
    for (seed, mut machine) in (100..).zip(machines()) {
        let mut dice = Dice(seed);
        for round in 0..1_500 {
            let rig = &mut machine.rig;
            rig.start(
                dice.pick(&[0, F_EVENT_IDX]),
                dice.pick(&[1, 2, 16, 256, 1024]),
            );
            let queue = dice.below(rig.queues.len() as u64) as usize;
            let ring = rig.queues[queue];
            for index in 0..ring.size {
                let address = match dice.below(8) {
                    0 => dice.roll(),
                    1 => ring.descriptors + dice.below(0x3000),
                    _ => BUFFERS + dice.below(0x10_0000),
                };
                let len = match dice.below(8) {
                    0 => dice.roll() as u32,
                    1 => 16 * dice.below(300) as u32,
                    _ => dice.below(0x1000) as u32,
                };
                let flags = dice.pick(&[0, NEXT, NEXT, WRITE, NEXT | WRITE, INDIRECT, 7, 0xfff8]);
                let next = dice.below(u64::from(ring.size) + 2) as u16;
                ring.describe(&rig.ram, index, (address, len, flags, next));
                rig.put(ring.avail + 4 + u64::from(index) * 2, &next.to_le_bytes());
            }
            let nr = dice.below(u64::from(ring.size) + 1) as u16;
            rig.put(ring.avail + 2, &nr.to_le_bytes());
            rig.put(
                ring.avail + 4 + u64::from(ring.size) * 2,
                &dice.roll().to_le_bytes()[..2],
            );
            match dice.below(3) {
                0 => rig.notify(u16::try_from(queue).unwrap()),
                1 => {
                    // Bounded, whatever the ring says.
                    for _ in 0..4 {
                        rig.look();
                    }
                    rig.run();
                }
                _ => {
                    rig.look();
                    rig.hand_back();
                    rig.run();
                }
            }
            if round % 100 == 0 {
                machine.assert_recovers();
            }
        }
    }
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

#[test]
fn reset_while_the_io_thread_works_stops_everything() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let stop = AtomicBool::new(false);
    for mut machine in machines() {
        let rig = &mut machine.rig;
        stop.store(false, Ordering::Relaxed);
        rig.start(F_EVENT_IDX, 1024);
        let queue = rig.queues.len() - 1;
        let root = rig.root.clone();
        let ram = rig.ram.clone();
        let polled = rig.polled.clone();
        let status = rig.common(0x14);
        let ring = rig.queues[queue];
        for index in 0..256 {
            ring.describe(&ram, index, (BUFFERS, 64, WRITE, 0));
        }
        std::thread::scope(|scope| {
            // A vCPU that offers chains without end.
            scope.spawn(|| {
                let mut index = 0u16;
                while !stop.load(Ordering::Relaxed) {
                    index = index.wrapping_add(1);
                    ram.write_obj(index, GuestAddress(ring.avail + 2)).unwrap();
                    std::thread::yield_now();
                }
            });
            // A thread that polls, and gives up now and then.
            scope.spawn(|| {
                for turn in 0_u32.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    if let Some(polled) = &polled {
                        polled.look(Wanted::All);
                        if turn % 16 == 0 {
                            polled.hand_back();
                        }
                    }
                    std::thread::yield_now();
                }
            });
            // A vCPU that resets in the middle of it.
            let resetter = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                assert!(root.mmio_write(status, &[0]));
                // From here on the device must not touch memory.
                let used = GuestAddress(ring.used + 2);
                let before: u16 = ram.read_obj(used).unwrap();
                std::thread::sleep(Duration::from_millis(20));
                assert_eq!(ram.read_obj::<u16>(used).unwrap(), before);
                stop.store(true, Ordering::Relaxed);
            });
            while !resetter.is_finished() {
                let gpa = rig.bar + 0x3000 + queue as u64 * 4;
                rig.write(gpa, &[0; 2]);
                rig.run_once();
            }
        });
        machine.assert_recovers();
    }
}

#[test]
fn queue_that_changes_after_it_is_ready_stays_as_it_was() {
    for mut machine in serving() {
        let rig = &mut machine.rig;
        rig.start(0, 16);
        for queue in 0..rig.queues.len() as u16 {
            for size in [0, 1, 8, 256, 1024, 0xffff] {
                let other = Ring::new(queue + 8, size);
                rig.set_up_queue(queue, &other);
                rig.write(rig.common(0x1c), &0u16.to_le_bytes());
            }
            assert_eq!(rig.read2(rig.common(0x18)), 16);
            assert_eq!(rig.read2(rig.common(0x1c)), 1);
        }
        let queue = rig.queues.len() - 1;
        rig.add(queue, &[(BUFFERS, 16, false), (BUFFERS + 0x100, 16, true)]);
        rig.notify(queue as u16);
        assert!(rig.take_used(queue).is_some(), "{:?}", machine.kind);
        assert_eq!(rig.status(), 15);
    }
}

#[test]
fn vectors_that_do_not_exist_are_not_taken() {
    for mut machine in machines() {
        let rig = &mut machine.rig;
        let nr_vectors = u16::from_le_bytes(rig.config(rig.msix_cap + 2)) % 0x800 + 1;
        let nr_queues = rig.read2(rig.common(0x12));
        assert_eq!(
            nr_vectors,
            nr_queues + 1,
            "one for each queue and one for the device"
        );
        for started in [false, true] {
            if started {
                rig.start(0, 16);
            }
            for vector in [nr_vectors, nr_vectors + 1, 0x7ff, 0x800, 0xfffe] {
                for queue in 0..nr_queues {
                    rig.write(rig.common(0x16), &queue.to_le_bytes());
                    rig.write(rig.common(0x1a), &vector.to_le_bytes());
                    assert_eq!(rig.read2(rig.common(0x1a)), 0xffff);
                }
                rig.write(rig.common(0x10), &vector.to_le_bytes());
                assert_eq!(rig.read2(rig.common(0x10)), 0xffff);
            }
        }
        // Served all the same, without a word.
        let queue = rig.queues.len() - 1;
        rig.add(queue, &[(BUFFERS, 16, false), (BUFFERS + 0x100, 16, true)]);
        rig.notify(queue as u16);
        for line in 0..u32::from(nr_vectors) {
            assert_eq!(rig.interrupts.take(line), 0, "{:?}", machine.kind);
        }
        // Behind the table there is nothing.
        let rig = &mut machine.rig;
        for entry in [u64::from(nr_vectors), u64::from(nr_vectors) + 1, 0x7ff] {
            let at = rig.msix_table + entry * 16;
            if rig.root.mmio_write(at, &[0xff; 4]) {
                let mut data = [0xee; 4];
                rig.root.mmio_read(at, &mut data);
                assert_ne!(data, [0xff; 4], "{:?}: entry {entry}", machine.kind);
            }
        }
        machine.assert_recovers();
    }
}

#[test]
fn bar_that_moves_over_memory_is_not_there() {
    for mut machine in machines() {
        let rig = &mut machine.rig;
        rig.start(0, 16);
        rig.put(BUFFERS, &[7; 64]);
        let ecam = 0xe000_0000;
        let local_apic = 0xfee0_0000;
        for base in [
            0,
            BUFFERS,
            RAM_BYTES - 0x8000,
            RAM_BYTES,
            ecam,
            local_apic,
            0xffff_8000,
        ] {
            rig.set_config(0x10, &(base as u32).to_le_bytes());
            assert!(rig.doorbells.addresses().is_empty(), "{base:#x}");
            for offset in [0, 0x14, 0x3000, 0x4000] {
                let mut data = [0; 4];
                assert!(!rig.root.mmio_read(base + offset, &mut data), "{base:#x}");
                assert!(!rig.root.mmio_write(base + offset, &[0x5a; 4]), "{base:#x}");
                assert!(!rig.root.mmio_read(MMIO_BASE + offset, &mut data));
            }
            // The driver that has lost its device, and the I/O thread.
            rig.run();
            assert_eq!(rig.get::<64>(BUFFERS), [7; 64]);
        }
        machine.assert_recovers();
    }
}
