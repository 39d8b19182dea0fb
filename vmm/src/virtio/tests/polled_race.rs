//! A driver that notifies only if it is asked to, a polling thread that comes and goes, or notifications
//! that change their receiver, and the I/O thread, all at once: every request is answered.
//!
//! What the model in `ownership.rs` says of the order of two stores and two loads, this says of the
//! code around them, as far as chance finds it.

use std::sync::atomic::{fence, AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::tempfile::TempFile;

use super::blk_rig::{open, Engine, DATA, HEADER, STATUS};
use super::rig::{Dice, Rig, Ring, F_EVENT_IDX, NEXT, WRITE};
use crate::virtio::{BlkAccess, NotifyPolicy, Wanted};

const ROUNDS: u64 = 4_000;
const SECTORS: u64 = 8;
const NO_NOTIFY: u16 = 1;
/// Generous: debug builds on a busy machine.
const ANSWERED: Duration = Duration::from_secs(60);

/// The driver's side of queue 0, with one request at a time.
struct Driver<'a> {
    ram: &'a GuestMemoryMmap<()>,
    ring: Ring,
    uses_event_idx: bool,
    kick: &'a dyn Fn(),
    nr_kicks: u64,
    /// In which rounds it writes.
    writes: fn(u64, &mut Dice) -> bool,
}

impl Driver<'_> {
    fn load(&self, gpa: u64) -> u16 {
        self.ram.load(GuestAddress(gpa), Ordering::Acquire).unwrap()
    }

    /// Publishes the request at descriptor 0, notifies if it is to, and waits for the answer.
    fn request(&mut self, is_write: bool, sector: u64) {
        let flags = if is_write { NEXT } else { NEXT | WRITE };
        self.ring.describe(self.ram, 1, (DATA, 512, flags, 2));
        let header = [u64::from(is_write), sector];
        self.ram.write_obj(header, GuestAddress(HEADER)).unwrap();
        self.ram.write_obj(0xee_u8, GuestAddress(STATUS)).unwrap();
        fence(Ordering::SeqCst);
        let old = self.ring.avail_index;
        self.ring.offer(self.ram, 0);
        fence(Ordering::SeqCst);
        let new = self.ring.avail_index;
        let notifies = if self.uses_event_idx {
            let event = self.load(self.ring.used + 4 + 8 * u64::from(self.ring.size));
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.load(self.ring.used) & NO_NOTIFY == 0
        };
        if notifies {
            self.nr_kicks += 1;
            (self.kick)();
        }
        let start = Instant::now();
        while self.load(self.ring.used + 2) != new {
            assert!(start.elapsed() < ANSWERED, "request {new} is lost");
            thread::yield_now();
        }
    }

    fn run(&mut self) {
        for (index, part) in [
            (HEADER, 16, NEXT, 1),
            (DATA, 512, 0, 2),
            (STATUS, 1, WRITE, 0),
        ]
        .into_iter()
        .enumerate()
        {
            self.ring.describe(self.ram, index as u16, part);
        }
        let mut dice = Dice(7);
        for round in 0..ROUNDS {
            let sector = dice.below(SECTORS);
            // Writes are the I/O thread's work, whoever owns the queue.
            let is_write = (self.writes)(round, &mut dice);
            if is_write {
                let content = [sector as u8; 512];
                self.ram.write_slice(&content, GuestAddress(DATA)).unwrap();
            }
            self.request(is_write, sector);
            let status: u8 = self.ram.read_obj(GuestAddress(STATUS)).unwrap();
            let mut data = [0; 512];
            self.ram.read_slice(&mut data, GuestAddress(DATA)).unwrap();
            assert!(status == 0 && data == [sector as u8; 512], "round {round}");
        }
    }
}

#[test]
fn no_request_is_lost_while_the_queue_changes_hands() {
    for features in [0, F_EVENT_IDX] {
        let file = TempFile::new_in("/dev/shm".as_ref()).expect("/dev/shm is a tmpfs");
        let content: Vec<u8> = (0..SECTORS as u8)
            .flat_map(|sector| [sector; 512])
            .collect();
        std::fs::write(file.as_path(), content).unwrap();
        let mut blk = open(&file, BlkAccess::ReadWrite, 1, Engine::Sync);
        blk.receive_by(NotifyPolicy::Thread);
        let mut rig = Rig::new(blk);
        rig.start(features, 16);
        let polled = rig.polled.clone().expect("a disk can be polled");
        let (doorbells, gpa, ram) = (rig.doorbells.clone(), rig.notify_gpa(0), rig.ram.clone());
        let kick = || assert!(doorbells.ring(gpa));
        let ring = rig.queues[0];
        let stop = AtomicBool::new(false);
        let nr_kicks = thread::scope(|scope| {
            scope.spawn(|| {
                let mut dice = Dice(features);
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..dice.below(100) {
                        polled.look(Wanted::All);
                    }
                    polled.hand_back();
                    // Now and then long enough that the driver goes on without it.
                    if dice.below(8) == 0 {
                        thread::sleep(Duration::from_micros(dice.below(500)));
                    }
                }
                polled.hand_back();
            });
            let driver = thread::Builder::new();
            let kick: &(dyn Fn() + Sync) = &kick;
            let driver = driver.spawn_scoped(scope, move || {
                let mut driver = Driver {
                    ram: &ram,
                    ring,
                    uses_event_idx: features & F_EVENT_IDX != 0,
                    kick: &|| kick(),
                    nr_kicks: 0,
                    writes: |_, dice| dice.below(4) == 0,
                };
                driver.run();
                driver.nr_kicks
            });
            let driver = driver.expect("a thread");
            while !driver.is_finished() {
                rig.run_once();
                thread::yield_now();
            }
            stop.store(true, Ordering::Relaxed);
            driver.join().expect("the driver is content")
        });
        rig.run();
        let counts = rig.counters.counts();
        eprintln!("{nr_kicks} notifies of {ROUNDS} requests; {counts:?}");
        assert_eq!(counts.requests, ROUNDS);
        assert!(
            counts.take_overs > 0 && counts.polled_finds > 0,
            "{counts:?}"
        );
        assert_eq!(counts.take_overs, counts.hand_backs);
    }
}

/// Reads for long enough to pay, then writes for long enough to give up.
fn in_turns(round: u64, _dice: &mut Dice) -> bool {
    round % 340 >= 300
}

#[test]
fn no_request_is_lost_while_its_notifies_change_their_receiver() {
    for (features, has_poller) in [(0, false), (F_EVENT_IDX, false), (F_EVENT_IDX, true)] {
        let file = TempFile::new_in("/dev/shm".as_ref()).expect("/dev/shm is a tmpfs");
        let content: Vec<u8> = (0..SECTORS as u8)
            .flat_map(|sector| [sector; 512])
            .collect();
        std::fs::write(file.as_path(), content).unwrap();
        let mut rig = Rig::new(open(&file, BlkAccess::ReadWrite, 1, Engine::Sync));
        rig.start(features, 16);
        let polled = rig.polled.clone().expect("a disk can be polled");
        let (doorbells, notifies, root) = (
            rig.doorbells.clone(),
            rig.notifies.clone(),
            rig.root.clone(),
        );
        let (gpa, ram, ring) = (rig.notify_gpa(0), rig.ram.clone(), rig.queues[0]);
        // As KVM and `dispatch` do: whatever changes in between, somebody hears it.
        let kick =
            || assert!(doorbells.ring(gpa) || notifies.hear(gpa) || root.mmio_write(gpa, &[0, 0]));
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            if has_poller {
                scope.spawn(|| {
                    let mut dice = Dice(features);
                    while !stop.load(Ordering::Relaxed) {
                        (0..dice.below(20)).for_each(|_| {
                            polled.look(Wanted::All);
                        });
                        polled.hand_back();
                        thread::sleep(Duration::from_micros(dice.below(5_000)));
                    }
                });
            }
            let kick: &(dyn Fn() + Sync) = &kick;
            let driver = scope.spawn(move || {
                let mut driver = Driver {
                    ram: &ram,
                    ring,
                    uses_event_idx: features & F_EVENT_IDX != 0,
                    kick: &|| kick(),
                    nr_kicks: 0,
                    writes: in_turns,
                };
                driver.run();
            });
            while !driver.is_finished() {
                rig.run_once();
                thread::yield_now();
            }
            stop.store(true, Ordering::Relaxed);
            driver.join().expect("the driver is content");
        });
        rig.run();
        let counts = rig.counters.counts();
        eprintln!("{counts:?}");
        assert_eq!(counts.requests, ROUNDS);
        assert!(
            has_poller || counts.notifies_served_by_vcpu > ROUNDS / 4,
            "{counts:?}"
        );
        assert!(has_poller || counts.receiver_changes > 2, "{counts:?}");
    }
}
