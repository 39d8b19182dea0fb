//! Many requests on their way at once, and what ends that: resets, broken rings, drivers that offer
//! more than they may.

use std::fs;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::Arc;

use super::blk_rig::{image, open, put_header, Engine, DATA, ENGINES, HEADER, STATUS};
use super::rig::{Rig, F_EVENT_IDX};
use crate::virtio::{BlkAccess, InFlight};

const WRITE_BYTES: u32 = 4096;

#[derive(Default)]
struct Count(AtomicI64);

impl InFlight for Count {
    fn begins(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn ends(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Offers a write of `byte` to 4 KiB block `block` on queue 0, with buffers of its own.
fn add_write(rig: &mut Rig, block: u64, byte: u8) {
    let (header, status) = (HEADER + block * 32, STATUS + 0x4000 + block);
    let data = DATA + 0x10_0000 + block * u64::from(WRITE_BYTES);
    put_header(rig, header, 1, block * 8);
    rig.put(data, &[byte; WRITE_BYTES as usize]);
    rig.put(status, &[0xee]);
    rig.add(
        0,
        &[
            (header, 16, false),
            (data, WRITE_BYTES, false),
            (status, 1, true),
        ],
    );
}

fn block(content: &[u8], block: usize) -> &[u8] {
    &content[block * WRITE_BYTES as usize..][..WRITE_BYTES as usize]
}

#[test]
fn durable_writes_come_back_in_any_order_and_all_of_them() {
    for engine in ENGINES {
        let file = image(64 * 8);
        let count = Arc::new(Count::default());
        let mut blk = open(&file, BlkAccess::ReadWrite, 1, engine);
        blk.tell(count.clone());
        let mut rig = Rig::new(blk);
        // Without FLUSH, so that each write goes to the medium: none is finished when submitted.
        rig.start(F_EVENT_IDX, 256);
        for round in 1..4u8 {
            for index in 0..64 {
                add_write(&mut rig, index, round + index as u8);
            }
            rig.notify(0);
            (0..64).for_each(|_| assert_eq!(rig.wait_used(0).1, 1));
            assert_eq!(rig.take_used(0), None);
            assert_eq!(rig.get::<64>(STATUS + 0x4000), [0; 64]);
            let content = fs::read(file.as_path()).unwrap();
            for index in 0..64usize {
                let expected = [round + index as u8; WRITE_BYTES as usize];
                assert_eq!(block(&content, index), expected, "{engine:?}");
            }
        }
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn reset_waits_for_what_is_in_flight_and_answers_none_of_it() {
    let file = image(64 * 8);
    let count = Arc::new(Count::default());
    let mut blk = open(&file, BlkAccess::ReadWrite, 1, Engine::Uring);
    blk.tell(count.clone());
    let mut rig = Rig::new(blk);
    let mut most = 0;
    for round in 1..6u8 {
        rig.start(0, 256);
        (0..64).for_each(|index| add_write(&mut rig, index, round));
        // The doorbell, one turn of the I/O thread, and no more.
        let gpa = rig.notify_gpa(0);
        assert!(rig.doorbells.ring(gpa));
        rig.run_once();
        most = most.max(count.0.load(Ordering::Relaxed));
        rig.set_status(0);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        // All that was taken is on the disk when the reset is done ...
        let content = fs::read(file.as_path()).unwrap();
        (0..64).for_each(|index| assert_eq!(block(&content, index), [round; WRITE_BYTES as usize]));
        // ... and nothing is told afterwards: the memory is the driver's again.
        let statuses = rig.get::<64>(STATUS + 0x4000);
        let told = std::iter::from_fn(|| rig.take_used(0)).count();
        assert_eq!(statuses.iter().filter(|&&status| status == 0).count(), told);
        rig.run();
        assert_eq!(rig.get::<64>(STATUS + 0x4000), statuses);
        assert_eq!(rig.take_used(0), None);
    }
    assert!(most > 0, "no reset found anything in flight");
}

#[test]
fn driver_that_offers_a_chain_again_and_again_keeps_bounded_requests_in_flight() {
    let file = image(8);
    let count = Arc::new(Count::default());
    let mut blk = open(&file, BlkAccess::ReadWrite, 1, Engine::Uring);
    blk.tell(count.clone());
    let mut rig = Rig::new(blk);
    rig.start(0, 256);
    put_header(&rig, HEADER, 1, 0);
    let ring = rig.queues[0];
    let chain = [(HEADER, 16, 1, 1), (DATA, 4096, 1, 2), (STATUS, 1, 2, 0)];
    for (index, descriptor) in (0..).zip(chain) {
        ring.describe(&rig.ram, index, descriptor);
    }
    let gpa = rig.notify_gpa(0);
    for _ in 0..4 {
        // The same head a whole queue's size of times, whether it came back or not.
        let ram = rig.ram.clone();
        (0..256).for_each(|_| rig.queues[0].offer(&ram, 0));
        rig.doorbells.ring(gpa);
        rig.run_once();
        let in_flight = count.0.load(Ordering::Relaxed);
        assert!((0..=256).contains(&in_flight), "{in_flight}");
    }
    rig.set_status(0);
    assert_eq!(count.0.load(Ordering::Relaxed), 0);
}

#[test]
fn queue_that_breaks_does_not_lose_what_was_in_flight() {
    let file = image(64 * 8);
    let mut rig = Rig::new(open(&file, BlkAccess::ReadWrite, 1, Engine::Uring));
    rig.start(0, 256);
    (0..8).for_each(|index| add_write(&mut rig, index, 0x77));
    // A chain without a byte for the status.
    rig.add(0, &[(HEADER, 16, false)]);
    rig.notify(0);
    assert_eq!(rig.status(), 15 | 0x40);
    rig.set_status(0);
    let content = fs::read(file.as_path()).unwrap();
    (0..8).for_each(|index| assert_eq!(block(&content, index), [0x77; WRITE_BYTES as usize]));
}

#[test]
fn device_that_is_dropped_with_requests_in_flight_waits_for_them() {
    let file = image(64 * 8);
    let mut rig = Rig::new(open(&file, BlkAccess::ReadWrite, 1, Engine::Uring));
    rig.start(0, 256);
    (0..64).for_each(|index| add_write(&mut rig, index, 0x55));
    let gpa = rig.notify_gpa(0);
    assert!(rig.doorbells.ring(gpa));
    rig.run_once();
    drop(rig);
    let content = fs::read(file.as_path()).unwrap();
    (0..64).for_each(|index| assert_eq!(block(&content, index), [0x55; WRITE_BYTES as usize]));
}
