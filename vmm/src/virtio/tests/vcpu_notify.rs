//! Notifications in the vCPU's own thread: what it serves, what it leaves, who receives when, and that
//! nothing is lost or touched too late on the way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use vmm_sys_util::tempfile::TempFile;

use super::blk_rig::{open, put_header, Engine, DATA, ENGINES, HEADER, STATUS};
use super::rig::{Rig, Ring, F_EVENT_IDX, F_VERSION_1};
use crate::virtio::{BlkAccess, DeviceCounts, Kicked, NotifyPolicy};

const READ: u32 = 0;
const WRITE: u32 = 1;
const GET_ID: u32 = 8;
const PAGE: u32 = 4096;
/// As in `receiver.rs`, which tests what they mean.
const STREAK: u64 = 16;
const CREDIT: u64 = 16;
const LONE_BYTES: u32 = 64 << 10;

/// A disk of 512 KiB, in memory or in the page cache, whose sectors hold their number.
fn disk(engine: Engine, policy: NotifyPolicy) -> (Rig, TempFile) {
    let file = match engine {
        Engine::Sync => TempFile::new_in("/dev/shm".as_ref()).expect("/dev/shm is a tmpfs"),
        Engine::Uring => TempFile::new().unwrap(),
    };
    let content: Vec<u8> = (0..1024).flat_map(|sector| [sector as u8; 512]).collect();
    std::fs::write(file.as_path(), content).unwrap();
    let mut blk = open(&file, BlkAccess::ReadWrite, 1, engine);
    blk.receive_by(policy);
    let mut rig = Rig::new(blk);
    rig.start(F_EVENT_IDX, 16);
    (rig, file)
}

fn in_memory(policy: NotifyPolicy) -> (Rig, TempFile) {
    disk(Engine::Sync, policy)
}

/// A request, published but not notified.
fn add(rig: &mut Rig, kind: u32, sector: u64, bytes: u32) {
    put_header(rig, HEADER, kind, sector);
    rig.put(STATUS, &[0xee]);
    let data = (DATA, bytes, kind != WRITE);
    rig.add(0, &[(HEADER, 16, false), data, (STATUS, 1, true)]);
    // A driver that wants an interrupt for whatever is used next.
    let ring = rig.queues[0];
    let used_event = ring.avail + 4 + 2 * u64::from(ring.size);
    rig.put(used_event, &ring.used_index.to_le_bytes());
}

/// Reads a page and says whether its vCPU has served it; checks what was read.
fn read(rig: &mut Rig, sector: u64) -> bool {
    rig.put(DATA, &[0x55; 512]);
    add(rig, READ, sector, PAGE);
    rig.notify_only(0);
    let is_served = rig.take_used(0).is_some();
    if !is_served {
        rig.wait_used(0);
    }
    assert_eq!((rig.get(STATUS), rig.get(DATA)), ([0], [sector as u8; 512]));
    is_served
}

fn write(rig: &mut Rig) {
    rig.put(DATA, &[7; 512]);
    add(rig, WRITE, 7, 512);
    rig.notify_only(0);
    assert_eq!(rig.take_used(0), None, "never by a vCPU");
    rig.wait_used(0);
    assert_eq!(rig.get(STATUS), [0]);
}

/// Moves the BAR, and the driver's idea of it.
fn move_bar(rig: &mut Rig) {
    let by = 0x1_0000;
    rig.set_config(0x10, &(rig.bar as u32 + by).to_le_bytes());
    rig.bar = u64::from(rig.config4(0x10));
    rig.msix_table += u64::from(by);
    rig.msix_pending += u64::from(by);
}

fn counts(rig: &Rig) -> DeviceCounts {
    rig.counters.counts()
}

#[test]
fn small_read_is_served_by_the_vcpu_with_its_interrupt_before_it_goes_on() {
    for engine in ENGINES {
        for size in [512, PAGE, LONE_BYTES] {
            let (mut rig, _file) = disk(engine, NotifyPolicy::Vcpu);
            assert!(rig.doorbells.addresses().is_empty(), "nothing is bound");
            add(&mut rig, READ, 5, size);
            assert!(rig.notify_only(0), "exits");
            assert_eq!(rig.interrupts.take(1), 1);
            assert_eq!(rig.take_used(0), Some((0, size + 1)));
            assert_eq!((rig.get(STATUS), rig.get(DATA)), ([0], [5; 512]));
            let counts = counts(&rig);
            assert_eq!((counts.notifies, counts.interrupts), (1, 1));
            assert_eq!(counts.notifies_served_by_vcpu, 1);
            assert_eq!(counts.notifies_left_by_vcpu, 0);
        }
    }
}

#[test]
fn what_may_wait_or_takes_long_or_comes_together_is_left() {
    for engine in ENGINES {
        let (mut rig, file) = disk(engine, NotifyPolicy::Vcpu);
        write(&mut rig);
        assert_eq!(std::fs::read(file.as_path()).unwrap()[7 * 512], 7);
        add(&mut rig, READ, 0, LONE_BYTES + 512);
        rig.notify_only(0);
        assert_eq!(rig.take_used(0), None, "too large");
        rig.wait_used(0);
        add(&mut rig, GET_ID, 0, 20);
        add(&mut rig, GET_ID, 0, 20);
        rig.notify_only(0);
        assert_eq!(rig.take_used(0), None, "two");
        rig.wait_used(0);
        rig.wait_used(0);
        rig.run();
        let now = counts(&rig);
        assert_eq!(now.requests, 4);
        // A ring signals the doorbell too, when something has come back.
        assert!(now.notifies == 3 || engine == Engine::Uring, "{now:?}");
        assert_eq!(now.notifies_left_by_vcpu, 3);
        assert_eq!(now.notifies_served_by_vcpu, 0);
        // A notification for nothing is one that is served.
        rig.notify_only(0);
        assert_eq!(counts(&rig).notifies_served_by_vcpu, 1);
    }
}

#[test]
fn vcpu_does_not_wait_for_a_busy_device_and_has_the_io_thread_look() {
    let (mut rig, _file) = in_memory(NotifyPolicy::Vcpu);
    // Any holder of the lock will do.
    let polled = rig.polled.clone().expect("a disk can be polled");
    polled.while_busy(|| {
        add(&mut rig, GET_ID, 0, 20);
        rig.notify_only(0);
        assert_eq!(rig.take_used(0), None);
    });
    rig.run();
    assert!(rig.take_used(0).is_some());
    assert!(read(&mut rig, 3), "and then serves again");
    assert_eq!(counts(&rig).notifies_left_by_vcpu, 1);
}

#[test]
fn lone_small_reads_bring_the_vcpu_and_what_it_cannot_serve_the_io_thread() {
    for engine in ENGINES {
        let (mut rig, _file) = disk(engine, NotifyPolicy::Auto);
        let notify = rig.notify_gpa(0);
        for sector in 0..STREAK {
            assert_eq!(rig.doorbells.addresses(), [notify]);
            assert!(!read(&mut rig, sector), "{engine:?}: by the I/O thread");
        }
        assert!(rig.doorbells.addresses().is_empty(), "{engine:?}");
        (0..100).for_each(|sector| assert!(read(&mut rig, sector)));
        for _ in 0..CREDIT {
            assert!(rig.doorbells.addresses().is_empty());
            write(&mut rig);
            rig.run();
        }
        assert_eq!(rig.doorbells.addresses(), [notify]);
        assert!(!read(&mut rig, 9));
        rig.run();
        let counts = counts(&rig);
        assert_eq!(counts.receiver_changes, 2);
        let is_exact = counts.notifies == counts.requests;
        assert!(is_exact || engine == Engine::Uring, "{counts:?}");
        assert_eq!(counts.notifies_served_by_vcpu, 100);
        assert_eq!(counts.notifies_left_by_vcpu, CREDIT);
    }
}

#[test]
fn writes_and_large_and_many_reads_never_bring_the_vcpu() {
    let (mut rig, _file) = in_memory(NotifyPolicy::Auto);
    let notify = rig.notify_gpa(0);
    for _ in 0..4 * STREAK {
        write(&mut rig);
        add(&mut rig, READ, 0, LONE_BYTES + 512);
        rig.notify(0);
        rig.wait_used(0);
        add(&mut rig, READ, 0, PAGE);
        add(&mut rig, READ, 0, PAGE);
        rig.notify(0);
        rig.wait_used(0);
        rig.wait_used(0);
        assert_eq!(rig.doorbells.addresses(), [notify]);
    }
    assert_eq!(counts(&rig).receiver_changes, 0);
}

#[test]
fn moved_and_removed_addresses_are_heard_where_they_are_only() {
    let (mut rig, _file) = in_memory(NotifyPolicy::Vcpu);
    let before = rig.notify_gpa(0);
    let bar = rig.bar;
    move_bar(&mut rig);
    assert_ne!(rig.bar, bar);
    assert!(!rig.notifies.hear(before));
    assert!(rig.notifies.hear(rig.notify_gpa(0)) && read(&mut rig, 4));
    // Decoding off, and on again.
    rig.set_config(4, &[0, 0]);
    let now = before - bar + rig.bar;
    assert!(!rig.notifies.hear(now));
    rig.set_config(4, &[6, 0]);
    assert!(rig.notifies.hear(now));
    // A reset, and the same address with the next driver.
    rig.set_status(0);
    assert!(!rig.notifies.hear(now));
    rig.start(0, 16);
    assert!(read(&mut rig, 1));
    let notifies = rig.notifies.clone();
    drop(rig);
    assert!(!notifies.hear(now), "removed");
}

#[test]
fn receiver_that_was_found_stays_over_a_move_and_a_reset() {
    let (mut rig, _file) = in_memory(NotifyPolicy::Auto);
    (0..STREAK).for_each(|sector| assert!(!read(&mut rig, sector)));
    move_bar(&mut rig);
    assert!(rig.doorbells.addresses().is_empty() && read(&mut rig, 1));
    rig.start(F_EVENT_IDX, 16);
    assert!(rig.doorbells.addresses().is_empty() && read(&mut rig, 2));
    // Where no eventfd can be bound, the vCPU hears what the I/O thread shall receive.
    rig.doorbells.refuse.store(true, Ordering::Relaxed);
    for _ in 0..CREDIT {
        write(&mut rig);
        rig.run();
    }
    assert!(rig.doorbells.addresses().is_empty());
    assert!(read(&mut rig, 3));
}

#[test]
fn device_that_is_reset_while_its_notify_is_on_the_way_touches_nothing() {
    let (mut rig, _file) = in_memory(NotifyPolicy::Vcpu);
    let ring = rig.queues[0];
    add(&mut rig, READ, 7, PAGE);
    let gpa = rig.notify_gpa(0);
    let notifies = rig.notifies.clone();
    let polled = rig.polled.clone().expect("a disk can be polled");
    // Left because the device is busy; the reset comes before the I/O thread does.
    std::thread::scope(|scope| {
        polled.while_busy(|| {
            scope.spawn(|| notifies.hear(gpa)).join().unwrap();
        });
    });
    rig.set_status(0);
    let before: [u8; 0x3000] = rig.get(ring.descriptors);
    rig.run();
    assert!(rig.get::<0x3000>(ring.descriptors) == before);
    assert_eq!(rig.get(STATUS), [0xee]);
}

#[test]
fn masked_interrupt_of_a_read_stays_pending() {
    let (mut rig, _file) = in_memory(NotifyPolicy::Vcpu);
    let control = rig.msix_table + 16 + 12;
    rig.write(control, &1u32.to_le_bytes());
    assert!(read(&mut rig, 2));
    assert_eq!(rig.interrupts.take(1), 0);
    assert_eq!(rig.read::<1>(rig.msix_pending), [2]);
    rig.write(control, &0u32.to_le_bytes());
    assert_eq!(rig.interrupts.take(1), 1);
}

#[test]
fn bad_chain_breaks_the_queue_in_the_vcpus_thread_too() {
    let (mut rig, _file) = in_memory(NotifyPolicy::Vcpu);
    // No byte for the status.
    rig.add(0, &[(HEADER, 16, false)]);
    rig.notify_only(0);
    assert_eq!(rig.status(), 15 | 0x40);
    add(&mut rig, READ, 1, PAGE);
    rig.notify_only(0);
    rig.run();
    assert_eq!(rig.get(STATUS), [0xee]);
    // An index that cannot be right is the I/O thread's to find out.
    rig.start(0, 16);
    let avail = rig.queues[0].avail;
    rig.put(avail + 2, &0x8000u16.to_le_bytes());
    rig.notify_only(0);
    assert_eq!(rig.status(), 15);
    rig.run();
    assert_eq!(rig.status(), 15 | 0x40);
    let ring = Ring::new(0, 16);
    rig.negotiate(F_VERSION_1);
    rig.enable_msix();
    rig.put(ring.descriptors, &[0; 0x3000]);
    rig.queues = vec![ring];
    rig.set_up_queue(0, &ring);
    rig.set_status(15);
    assert!(read(&mut rig, 1), "a reset helps");
}

#[derive(Default)]
struct Count(AtomicU64);

impl Kicked for Count {
    fn kicked(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn polling_thread_is_told_of_each_and_keeps_its_queue() {
    let (mut rig, _file) = in_memory(NotifyPolicy::Vcpu);
    let polled = rig.polled.clone().expect("a disk can be polled");
    let count = Arc::new(Count::default());
    polled.connect(count.clone());
    assert!(read(&mut rig, 1) && polled.is_hot());
    write(&mut rig);
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
    // It takes the queue; a notification from before comes late.
    rig.look();
    add(&mut rig, READ, 2, PAGE);
    rig.notify_only(0);
    assert_eq!(rig.take_used(0), None);
    assert!(rig.look(), "its to find");
    assert!(rig.take_used(0).is_some());
    rig.run();
    assert!(!rig.hand_back());
    assert!(read(&mut rig, 3));
    assert_eq!(counts(&rig).notifies_left_by_vcpu, 2);
}
