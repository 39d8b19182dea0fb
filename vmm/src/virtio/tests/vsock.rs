//! The socket device: which queues leave this process, and that a reset takes them back. Who serves
//! them is written down here; the kernel itself serves in the tests with guests.

use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::rig::{Dice, Rig, Ring, BUFFERS, RAM_BYTES};
use crate::virtio::vsock::DataServer;
use crate::virtio::{HandedQueue, QueueError, Vsock};

const CID: u32 = 0x1234_5678;
const NEEDS_RESET: u8 = 0x40;
const F_SEQPACKET: u64 = 1 << 1;
const EVENTS: usize = 2;

/// What the server was told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Start {
        features: u64,
        queues: Vec<usize>,
        rings: Vec<[u64; 3]>,
    },
    Stop,
}

struct Server {
    told: Arc<Mutex<Vec<Told>>>,
    errors: Arc<EventFd>,
    features: u64,
    refuses: bool,
}

impl DataServer for Server {
    fn features(&self) -> u64 {
        self.features
    }
    fn errors(&self) -> Arc<EventFd> {
        self.errors.clone()
    }
    fn start(&mut self, features: u64, queues: &[HandedQueue<'_>]) -> Result<(), QueueError> {
        self.told.lock().unwrap().push(Told::Start {
            features,
            queues: queues.iter().map(|queue| queue.index).collect(),
            rings: queues
                .iter()
                .map(|queue| [queue.descriptors, queue.avail, queue.used])
                .collect(),
        });
        if self.refuses {
            return Err(QueueError::Backend("no".into()));
        }
        Ok(())
    }
    fn stop(&mut self) {
        self.told.lock().unwrap().push(Told::Stop);
    }
}

/// A device whose server takes what it is given.
pub(super) fn vsock_with_server() -> Vsock {
    let server = Server {
        told: Arc::default(),
        errors: Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()),
        features: F_SEQPACKET,
        refuses: false,
    };
    Vsock::new(CID, Box::new(server))
}

struct Set {
    rig: Rig,
    told: Arc<Mutex<Vec<Told>>>,
    errors: Arc<EventFd>,
}

impl Set {
    fn new(features: u64, refuses: bool) -> Self {
        let told = Arc::default();
        let errors = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        let server = Server {
            told: Arc::clone(&told),
            errors: errors.clone(),
            features,
            refuses,
        };
        let rig = Rig::new(Vsock::new(CID, Box::new(server)));
        Self { rig, told, errors }
    }

    fn take_told(&self) -> Vec<Told> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

#[test]
fn guest_reads_its_cid_as_64_bits() {
    let set = Set::new(0, false);
    assert_eq!(
        set.rig.read(set.rig.device(0)),
        u64::from(CID).to_le_bytes()
    );
    assert_eq!(set.rig.read(set.rig.device(8)), [0; 4]);
}

#[test]
fn packets_are_offered_only_where_the_server_has_them() {
    for features in [0, F_SEQPACKET] {
        let set = Set::new(features | 1 << 26, false);
        let own = set.rig.offered_features() & 0xff_ffff;
        assert_eq!(own, 1 | features);
    }
}

#[test]
fn server_gets_both_queues_of_data_and_gives_them_back_at_a_reset() {
    let mut set = Set::new(F_SEQPACKET, false);
    set.rig.start(F_SEQPACKET, 16);
    let rings = set.rig.queues[..2].iter();
    let rings: Vec<_> = rings
        .map(|ring| [ring.descriptors, ring.avail, ring.used])
        .collect();
    let start = || Told::Start {
        features: 1 << 32 | F_SEQPACKET,
        queues: vec![0, 1],
        rings: rings.clone(),
    };
    let told = set.take_told();
    assert_eq!(told.last(), Some(&start()));
    set.rig.set_status(0);
    assert_eq!(set.take_told(), [Told::Stop]);
    assert_eq!(set.rig.status(), 0);
    set.rig.start(F_SEQPACKET, 16);
    assert_eq!(set.take_told().last(), Some(&start()));
}

#[test]
fn event_buffers_stay_where_they_are() {
    let mut set = Set::new(0, false);
    set.rig.start(0, 16);
    for _ in 0..8 {
        set.rig.add(EVENTS, &[(BUFFERS, 4, true)]);
    }
    for _ in 0..3 {
        set.rig.notify(2);
    }
    assert_eq!(set.rig.take_used(EVENTS), None);
    assert_eq!(set.rig.status(), 15);
}

#[test]
fn server_that_refuses_or_gives_up_needs_a_reset() {
    let mut set = Set::new(0, true);
    set.rig.negotiate(1 << 32);
    set.rig.enable_msix();
    for index in 0..3 {
        set.rig.set_up_queue(index, &Ring::new(index, 16));
    }
    set.rig.set_status(15);
    assert_eq!(set.rig.status(), 15 | NEEDS_RESET);

    let mut set = Set::new(0, false);
    set.rig.start(0, 16);
    set.take_told();
    set.errors.write(1).unwrap();
    set.rig.run();
    assert_eq!(set.rig.status(), 15 | NEEDS_RESET);
    // Stopped before anybody else hears of it, and well again after the reset.
    assert_eq!(set.take_told(), [Told::Stop]);
    set.rig.start(0, 16);
    assert!(matches!(set.take_told().last(), Some(Told::Start { .. })));
}

#[test]
fn half_a_pair_or_a_ring_outside_of_memory_is_not_handed_over() {
    let mut outside = Ring::new(1, 16);
    outside.used = RAM_BYTES;
    for second in [None, Some(outside)] {
        let mut set = Set::new(0, false);
        set.rig.negotiate(1 << 32);
        set.rig.enable_msix();
        set.rig.set_up_queue(0, &Ring::new(0, 16));
        if let Some(ring) = second {
            set.rig.set_up_queue(1, &ring);
        }
        set.rig.set_status(15);
        assert_eq!(set.rig.status(), 15 | NEEDS_RESET);
        let told = set.take_told();
        assert!(told.iter().all(|told| *told == Told::Stop), "{told:?}");
    }
}

/// Whatever a driver sets up, in whatever order: the server gets both rings, inside of memory, or none.
#[test]
fn rings_set_up_by_chance_are_handed_over_whole_or_not_at_all() {
    let mut set = Set::new(0, false);
    let mut dice = Dice(1);
    let mut starts = 0;
    for _ in 0..3_000 {
        set.rig.negotiate(1 << 32);
        set.rig.enable_msix();
        for _ in 0..dice.below(6) {
            let index = dice.pick(&[0, 1, 1, 2]);
            let mut ring = Ring::new(index, dice.pick(&[16, 16, 16, 256, 0, 3]));
            let part = dice.below(12) as usize;
            let wild = dice.pick(&[RAM_BYTES - 16, RAM_BYTES, 0, 1, u64::MAX - 0xff]);
            if let Some(address) =
                [&mut ring.descriptors, &mut ring.avail, &mut ring.used].get_mut(part)
            {
                **address = wild;
            }
            set.rig.set_up_queue(index, &ring);
        }
        set.rig.set_status(15);
        set.rig.notify(dice.below(3) as u16);
        for told in set.take_told() {
            let Told::Start { queues, rings, .. } = told else {
                continue;
            };
            assert_eq!(queues, [0, 1]);
            let addresses = rings.iter().flatten();
            assert!(
                addresses.clone().all(|&address| address < RAM_BYTES),
                "{rings:x?}"
            );
            starts += 1;
        }
    }
    assert!(starts > 100, "{starts}");
    set.rig.start(0, 16);
}
