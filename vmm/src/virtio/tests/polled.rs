//! Queues that a polling thread owns: drivers need not notify, and nothing is lost or touched too late
//! when the queue changes hands, is reset, moved or broken.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use vmm_sys_util::tempfile::TempFile;

use super::blk_rig::{image, open, put_header, Engine, DATA, ENGINES, HEADER, STATUS};
use super::rig::{Rig, Ring, F_EVENT_IDX, F_VERSION_1};
use crate::virtio::{Blk, BlkAccess, Console, Kicked, Rng, Wanted};

const READ: u32 = 0;
const WRITE: u32 = 1;
const GET_ID: u32 = 8;

/// A disk whose file is memory.
fn in_memory(nr_sectors: u8) -> (Blk, TempFile) {
    let file = TempFile::new_in("/dev/shm".as_ref()).expect("/dev/shm is a tmpfs");
    let content: Vec<u8> = (0..nr_sectors).flat_map(|sector| [sector; 512]).collect();
    std::fs::write(file.as_path(), content).unwrap();
    let blk = open(&file, BlkAccess::ReadWrite, 1, Engine::Sync);
    assert!(blk.is_in_memory());
    (blk, file)
}

/// A request of one sector, published but not notified.
fn add(rig: &mut Rig, kind: u32, sector: u64) {
    put_header(rig, HEADER, kind, sector);
    rig.put(STATUS, &[0xee]);
    let is_read = kind != WRITE;
    let bytes = if kind == GET_ID { 20 } else { 512 };
    rig.add(
        0,
        &[
            (HEADER, 16, false),
            (DATA, bytes, is_read),
            (STATUS, 1, true),
        ],
    );
}

#[test]
fn driver_need_not_notify_while_the_queue_is_polled_and_has_to_afterwards() {
    for features in [0, F_EVENT_IDX] {
        let (blk, _file) = in_memory(8);
        let mut rig = Rig::new(blk);
        rig.start(features, 16);
        assert!(!rig.look(), "nothing there yet");
        for sector in 0..8_u8 {
            add(&mut rig, READ, sector.into());
            assert!(!rig.would_notify(0, features), "sector {sector}");
            assert!(rig.look());
            assert!(rig.take_used(0).is_some(), "served in the look");
            assert_eq!((rig.get(STATUS), rig.get(DATA)), ([0], [sector; 512]));
            // One that wants an interrupt gets it.
            let used = rig.queues[0].used_index;
            let used_event = rig.queues[0].avail + 4 + 2 * 16;
            rig.put(used_event, &used.to_le_bytes());
            assert_eq!(rig.interrupts.take(1), 1);
            assert!(!rig.look(), "once");
        }
        assert!(!rig.hand_back());
        add(&mut rig, READ, 1);
        assert!(rig.would_notify(0, features));
        assert!(!rig.hand_back(), "it is not the poller's any more");
        rig.notify(0);
        assert!(rig.take_used(0).is_some());
        let counts = rig.counters.counts();
        assert_eq!((counts.requests, counts.notifies), (9, 1));
        assert_eq!((counts.polled_finds, counts.interrupts), (8, 9));
        assert_eq!((counts.take_overs, counts.hand_backs), (1, 1));
    }
}

#[test]
fn buffers_that_nobody_has_looked_at_are_found_when_the_queue_is_given_back() {
    for features in [0, F_EVENT_IDX] {
        let (blk, _file) = in_memory(8);
        let mut rig = Rig::new(blk);
        rig.start(features, 16);
        rig.look();
        add(&mut rig, READ, 3);
        // Nobody notifies: the driver was asked not to.
        assert!(rig.hand_back());
        assert_eq!(rig.take_used(0), None);
        rig.run();
        assert!(rig.take_used(0).is_some());
        assert_eq!(rig.counters.counts().notifies, 0);
    }
}

#[test]
fn device_that_is_busy_is_given_back_by_the_io_thread() {
    let (blk, _file) = in_memory(8);
    let mut rig = Rig::new(blk);
    rig.start(F_EVENT_IDX, 16);
    rig.look();
    let polled = rig.polled.clone().expect("a disk can be polled");
    polled.while_busy(|| {
        add(&mut rig, READ, 3);
        assert!(!rig.look() && !rig.hand_back(), "neither waits");
        assert_eq!(rig.take_used(0), None);
    });
    rig.run();
    assert!(rig.take_used(0).is_some(), "called, and looked");
    add(&mut rig, READ, 4);
    assert!(
        rig.would_notify(0, F_EVENT_IDX),
        "the queue is its own again"
    );
    // The polling thread comes back and has not to be told.
    assert!(rig.look());
    assert!(rig.take_used(0).is_some());
    let counts = rig.counters.counts();
    assert_eq!((counts.take_overs, counts.hand_backs), (2, 1));
    assert_eq!(counts.notifies, 0);
}

#[test]
fn what_cannot_be_copied_is_left_to_the_io_thread_once() {
    for engine in ENGINES {
        let file = image(8);
        let mut rig = Rig::new(open(&file, BlkAccess::ReadWrite, 1, engine));
        rig.start(F_EVENT_IDX, 16);
        rig.put(DATA, &[0x77; 512]);
        rig.look();
        add(&mut rig, WRITE, 5);
        assert!(rig.look());
        assert!(!rig.look() && !rig.look(), "it was called");
        assert_eq!(rig.take_used(0), None);
        rig.wait_used(0);
        assert_eq!(rig.get(STATUS), [0]);
        let content = std::fs::read(file.as_path()).unwrap();
        assert_eq!(content[5 * 512..6 * 512], [0x77; 512]);
        // And back: what can be served at once is.
        add(&mut rig, GET_ID, 0);
        assert!(!rig.would_notify(0, F_EVENT_IDX));
        assert!(rig.look());
        assert!(rig.take_used(0).is_some());
        assert_eq!(rig.counters.counts().requests, 2);
    }
}

#[test]
fn all_indices_of_a_ring_pass_without_a_notification() {
    let (blk, _file) = in_memory(1);
    let mut rig = Rig::new(blk);
    rig.start(F_EVENT_IDX, 16);
    rig.look();
    for round in 0..70_000 {
        add(&mut rig, GET_ID, 0);
        assert!(!rig.would_notify(0, F_EVENT_IDX), "round {round}");
        assert!(rig.look());
        assert!(rig.take_used(0).is_some());
    }
}

#[test]
fn look_takes_a_bounded_number_of_chains_and_one_interrupt_tells_of_them() {
    let (blk, _file) = in_memory(1);
    let mut rig = Rig::new(blk);
    rig.start(0, 256);
    rig.look();
    for _ in 0..80 {
        add(&mut rig, GET_ID, 0);
    }
    let mut taken = Vec::new();
    while rig.look() {
        taken.push(std::iter::from_fn(|| rig.take_used(0)).count());
        assert_eq!(rig.interrupts.take(1), 1);
    }
    assert_eq!(taken, [32, 32, 16]);
}

#[test]
fn reset_takes_the_queue_from_its_poller_and_a_moved_ring_is_found() {
    let (blk, _file) = in_memory(8);
    let mut rig = Rig::new(blk);
    for place in 0..3_u16 {
        rig.negotiate(F_VERSION_1 | F_EVENT_IDX);
        rig.enable_msix();
        let ring = Ring::new(place, 16);
        rig.put(ring.descriptors, &[0; 0x3000]);
        rig.queues = vec![ring];
        assert!(!rig.look(), "not set up");
        rig.set_up_queue(0, &ring);
        assert!(!rig.look(), "not live");
        rig.set_status(15);
        rig.run();
        assert!(!rig.look());
        add(&mut rig, READ, place.into());
        assert!(rig.look());
        assert!(rig.take_used(0).is_some());
        assert_eq!(rig.get(DATA), [place as u8; 512]);
        // Published, and then the driver gives up: its memory is its own again.
        add(&mut rig, READ, 7);
        rig.set_status(0);
        let before: [u8; 0x3000] = rig.get(ring.descriptors);
        assert!(!rig.look() && !rig.hand_back());
        rig.run();
        assert!(rig.get::<0x3000>(ring.descriptors) == before);
        assert_eq!(rig.get(STATUS), [0xee]);
    }
}

#[test]
fn queues_that_wait_for_the_host_are_not_polled() {
    // The receiving queue of a console; requests for random bytes are left.
    let (console, input, _output) = Console::new(Box::new(std::io::sink())).unwrap();
    let mut rig = Rig::new(console);
    rig.start(F_EVENT_IDX, 16);
    rig.look();
    assert_eq!(rig.counters.counts().take_overs, 1);
    rig.add(0, &[(DATA, 64, true)]);
    assert!(!rig.look());
    rig.add(1, &[(DATA, 64, false)]);
    assert!(rig.look());
    assert!(rig.take_used(1).is_some());
    input.push(b"typed");
    rig.run();
    assert_eq!(rig.take_used(0), Some((0, 5)));

    let mut rig = Rig::new(Rng::new());
    rig.start(F_EVENT_IDX, 16);
    rig.look();
    rig.add(0, &[(DATA, 64, true)]);
    assert!(rig.look());
    assert_eq!(rig.take_used(0), None);
    rig.run();
    assert_eq!(rig.take_used(0), Some((0, 64)));
}

#[derive(Default)]
struct Count(AtomicU64);

impl Kicked for Count {
    fn kicked(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn only_queues_with_work_are_taken_over_if_so_wanted() {
    let (blk, _file) = in_memory(8);
    let mut rig = Rig::new(blk);
    let polled = rig.polled.clone().expect("a disk can be polled");
    rig.start(F_EVENT_IDX, 16);
    assert!(!polled.is_hot(), "nobody wants to know");
    let count = Arc::new(Count::default());
    polled.connect(count.clone());
    add(&mut rig, READ, 1);
    assert!(!polled.look(Wanted::Hot));
    rig.notify(0);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert!(polled.is_hot() && rig.take_used(0).is_some());
    // Once with work, so that it stays hot; once without.
    add(&mut rig, READ, 1);
    assert!(polled.look(Wanted::Hot));
    assert!(!polled.hand_back() && polled.is_hot());
    assert!(!polled.look(Wanted::Hot));
    assert!(!polled.hand_back() && !polled.is_hot());
    assert_eq!(rig.counters.counts().take_overs, 2);
    assert!(!polled.look(Wanted::Hot));
    assert_eq!(rig.counters.counts().take_overs, 2);
}
