//! The transport: status, features, queues, vectors, doorbells.

use std::sync::atomic::Ordering;

use super::rig::{Rig, Ring, BUFFERS, F_EVENT_IDX, F_VERSION_1};
use crate::virtio::Rng;

const NEEDS_RESET: u8 = 0x40;

fn rig() -> Rig {
    Rig::new(Rng::new())
}

/// One request of 16 bytes; returns whether it was answered.
fn works(rig: &mut Rig) -> bool {
    rig.add(0, &[(BUFFERS, 16, true)]);
    rig.notify(0);
    rig.take_used(0).is_some()
}

#[test]
fn device_works_after_the_whole_handshake_and_after_another() {
    let mut rig = rig();
    for features in [0, F_EVENT_IDX] {
        rig.start(features, 16);
        assert!(works(&mut rig));
        assert_eq!(rig.interrupts.take(1), 1);
        assert_eq!(rig.interrupts.take(0), 0);
    }
}

/// A kernel that starts another one in its place clears the bit, and nothing writes into its successor's memory.
#[test]
fn without_bus_master_nothing_is_answered_until_a_driver_begins_anew() {
    let mut rig = rig();
    rig.start(0, 16);
    assert!(works(&mut rig), "a driver that never set the bit");
    rig.set_config(4, &6u16.to_le_bytes());
    assert!(works(&mut rig));
    rig.put(BUFFERS, &[7; 16]);
    rig.set_config(4, &2u16.to_le_bytes());
    assert!(!works(&mut rig));
    rig.set_config(4, &6u16.to_le_bytes());
    assert!(!works(&mut rig), "its successor has not begun");
    assert_eq!(rig.get::<16>(BUFFERS), [7; 16]);
    rig.start(0, 16);
    assert!(works(&mut rig));
}

#[test]
fn features_not_offered_or_without_version_1_are_not_accepted() {
    let rig = rig();
    assert_eq!(rig.offered_features(), F_VERSION_1 | F_EVENT_IDX | 1 << 28);
    for features in [0, F_EVENT_IDX, F_VERSION_1 | 1 << 40, F_VERSION_1 | 1] {
        rig.set_status(0);
        rig.set_status(1);
        rig.set_status(3);
        rig.set_features(features);
        rig.set_status(11);
        assert_eq!(rig.status(), 3, "{features:#x}");
        rig.set_status(15);
        assert_eq!(rig.status(), 3, "{features:#x}");
    }
}

#[test]
fn features_are_fixed_once_accepted() {
    let mut rig = rig();
    rig.negotiate(F_VERSION_1);
    rig.set_features(F_VERSION_1 | F_EVENT_IDX);
    rig.write(rig.common(8), &0u32.to_le_bytes());
    assert_eq!(rig.read4(rig.common(12)), 0);
    rig.write(rig.common(8), &7u32.to_le_bytes());
    rig.write(rig.common(0), &7u32.to_le_bytes());
    assert_eq!(
        (rig.read4(rig.common(12)), rig.read4(rig.common(4))),
        (0, 0)
    );
}

#[test]
fn status_bits_come_in_order_and_go_only_by_reset() {
    let mut rig = rig();
    for (written, expected) in [
        (2, 0),
        (8, 0),
        (4, 0),
        (NEEDS_RESET, 0),
        (1, 1),
        (15, 3),
        (1, 3),
    ] {
        rig.set_status(written);
        assert_eq!(rig.status(), expected, "after writing {written}");
    }
    rig.set_status(3 | 0x80);
    assert_eq!(rig.status(), 0x83);
    rig.negotiate(F_VERSION_1);
    rig.set_status(11 | 0x80);
    rig.set_status(15 | 0x80);
    assert_eq!(
        rig.status(),
        11 | 0x80,
        "a device that failed does not start"
    );
}

#[test]
fn queue_registers_are_writable_only_between_features_and_driver_ok() {
    let mut rig = rig();
    let ring = Ring::new(0, 16);
    rig.set_up_queue(0, &ring);
    assert_eq!(rig.read4(rig.common(0x20)), 0);
    rig.start(0, 16);
    rig.write(rig.common(0x20), &0x7000u32.to_le_bytes());
    rig.write(rig.common(0x18), &4u16.to_le_bytes());
    rig.write(rig.common(0x1c), &0u16.to_le_bytes());
    assert_eq!(rig.read4(rig.common(0x20)), 0x1000);
    assert_eq!(rig.read2(rig.common(0x18)), 16);
    assert_eq!(rig.read2(rig.common(0x1c)), 1);
    assert!(works(&mut rig));
}

#[test]
fn queue_that_does_not_exist_has_size_zero_and_swallows_writes() {
    let mut rig = rig();
    rig.negotiate(F_VERSION_1);
    rig.set_up_queue(9, &Ring::new(0, 16));
    for register in (0x18..0x38).step_by(2) {
        assert_eq!(rig.read2(rig.common(register)), 0, "{register:#x}");
    }
    rig.set_up_queue(0xffff, &Ring::new(0, 16));
    assert_eq!(rig.read2(rig.common(0x16)), 0xffff);
}

#[test]
fn reset_restores_every_register() {
    let mut rig = rig();
    let registers = |rig: &Rig| {
        (0..0x40)
            .step_by(4)
            .map(|register| rig.read4(rig.common(register)))
            .collect::<Vec<_>>()
    };
    rig.set_status(0);
    let fresh = registers(&rig);
    rig.start(F_EVENT_IDX, 16);
    assert_ne!(registers(&rig), fresh);
    rig.set_status(0);
    assert_eq!(registers(&rig), fresh);
    assert!(rig.doorbells.addresses().is_empty());
    rig.notify(0);
    assert_eq!(rig.take_used(0), None);
}

#[test]
fn queues_that_cannot_be_used_need_a_reset() {
    let good = Ring::new(0, 16);
    let bad = [
        Ring { size: 0, ..good },
        Ring { size: 3, ..good },
        Ring { size: 512, ..good },
        Ring {
            descriptors: 0x1001,
            ..good
        },
        Ring {
            avail: 0x2001,
            ..good
        },
        Ring {
            used: 0x3002,
            ..good
        },
        Ring {
            descriptors: 0xc000_0000,
            ..good
        },
        Ring {
            avail: u64::MAX - 1,
            ..good
        },
        Ring {
            used: u64::MAX - 3,
            ..good
        },
        Ring {
            used: super::rig::RAM_BYTES - 4,
            ..good
        },
    ];
    let mut rig = rig();
    for ring in bad {
        rig.negotiate(F_VERSION_1);
        rig.enable_msix();
        rig.write(rig.common(0x10), &0u16.to_le_bytes());
        rig.set_up_queue(0, &ring);
        rig.interrupts.take(0);
        rig.set_status(15);
        assert_eq!(rig.status(), 15 | NEEDS_RESET, "{ring:?}");
        assert_eq!(rig.interrupts.take(0), 1, "{ring:?}");
        rig.notify(0);
    }
    rig.start(0, 16);
    assert!(works(&mut rig));
}

#[test]
fn notify_before_driver_ok_does_nothing_and_is_not_needed_after() {
    let mut rig = rig();
    rig.notify(0);
    rig.negotiate(F_VERSION_1);
    rig.queues = vec![Ring::new(0, 16)];
    rig.set_up_queue(0, &rig.queues[0].clone());
    rig.add(0, &[(BUFFERS, 16, true)]);
    rig.notify(0);
    assert_eq!(rig.take_used(0), None);
    rig.set_status(15);
    rig.run();
    assert!(rig.take_used(0).is_some());
}

#[test]
fn notify_works_without_ioeventfds_too() {
    let mut rig = rig();
    rig.doorbells.refuse.store(true, Ordering::Relaxed);
    rig.start(0, 16);
    assert!(rig.doorbells.addresses().is_empty());
    assert!(works(&mut rig));
}

#[test]
fn doorbells_follow_the_bar() {
    let mut rig = rig();
    rig.start(0, 16);
    let first = rig.doorbells.addresses();
    assert_eq!(first, [rig.notify_gpa(0)]);
    rig.bar += 0x8000;
    rig.set_config(0x10, &(rig.bar as u32).to_le_bytes());
    assert_eq!(rig.doorbells.addresses(), [first[0] + 0x8000]);
    assert!(works(&mut rig));
    rig.set_config(0x04, &0u16.to_le_bytes());
    assert!(rig.doorbells.addresses().is_empty());
    rig.set_config(0x04, &6u16.to_le_bytes());
    assert!(works(&mut rig));
}

#[test]
fn vector_that_does_not_exist_reads_back_as_none() {
    let rig = rig();
    for (vector, expected) in [(0, 0), (1, 1), (2, 0xffff), (0x800, 0xffff)] {
        for register in [0x10, 0x1a] {
            rig.write(rig.common(register), &u16::to_le_bytes(vector));
            assert_eq!(rig.read2(rig.common(register)), expected);
        }
    }
}

#[test]
fn interrupt_is_suppressed_as_the_driver_asks() {
    let mut rig = rig();
    rig.start(0, 16);
    rig.put(rig.queues[0].avail, &1u16.to_le_bytes());
    assert!(works(&mut rig));
    assert_eq!(rig.interrupts.take(1), 0, "flag");
    rig.start(F_EVENT_IDX, 16);
    // The driver wants to hear of the third used buffer.
    let used_event = rig.queues[0].avail + 4 + 16 * 2;
    rig.put(used_event, &2u16.to_le_bytes());
    let raised: Vec<u64> = (0..4)
        .map(|_| {
            assert!(works(&mut rig));
            rig.interrupts.take(1)
        })
        .collect();
    assert_eq!(raised, [0, 0, 1, 0], "event index");
}

#[test]
fn device_asks_for_notifications_again_when_it_is_idle() {
    let mut rig = rig();
    rig.start(0, 16);
    assert!(works(&mut rig));
    assert_eq!(rig.get::<2>(rig.queues[0].used), [0, 0]);
    rig.start(F_EVENT_IDX, 16);
    assert!(works(&mut rig));
    // avail_event: the index up to which the device has seen chains.
    assert_eq!(rig.get::<2>(rig.queues[0].used + 4 + 16 * 8), [1, 0]);
}

#[test]
fn isr_is_cleared_by_reading_it() {
    let mut rig = rig();
    rig.start(0, 16);
    assert!(works(&mut rig));
    let isr = rig.bar + u64::from(rig.structures[&3]);
    assert_eq!(rig.read::<1>(isr), [1]);
    assert_eq!(rig.read::<1>(isr), [0]);
}

#[test]
fn ring_indices_wrap() {
    let mut rig = rig();
    rig.start(F_EVENT_IDX, 4);
    for _ in 0..70_000 / 64 {
        (0..64).for_each(|_| assert!(works(&mut rig)));
    }
}
