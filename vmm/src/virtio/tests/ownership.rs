//! Models of a queue that changes hands, or is looked at by whoever notifies: no buffer is lost, in any
//! interleaving with a driver.
//!
//! The driver publishes two buffers and notifies as the standard says; the polling thread takes the
//! queue over or has it, looks, and gives it back; the I/O thread comes only if it was called. What is
//! run is `ownership.rs` itself, on memory that loom orders as weakly as the language allows.

use std::convert::Infallible;

use loom::sync::atomic::{fence, AtomicU16, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::virtio::ownership::{hand_back, take_over, RingWords};

const QUIET_BEHIND: u16 = 0x4000;
const NO_NOTIFY: u16 = 1;
const BUFFERS: u16 = 2;

/// What is wrong with the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    None,
    /// We make no fence.
    OwnFence,
    /// The driver makes none.
    DriverFence,
    /// What the last look found is forgotten.
    LastLook,
    /// A vCPU that finds the device busy calls nobody.
    BusyDevice,
}

/// The words of a ring that both sides look at, and the doorbell: an eventfd, whose rings add up.
struct Ring {
    avail: AtomicU16,
    /// `avail_event`, or the flags of the used ring.
    wish: AtomicU16,
    uses_event_idx: bool,
    defect: Defect,
    bell: Mutex<bool>,
}

impl Ring {
    /// Empty, and the driver is to notify if `is_asked`.
    fn new(uses_event_idx: bool, is_asked: bool, defect: Defect) -> Self {
        let quiet = match uses_event_idx {
            true => 0_u16.wrapping_sub(QUIET_BEHIND),
            false => NO_NOTIFY,
        };
        Self {
            avail: AtomicU16::new(0),
            wish: AtomicU16::new(if is_asked { 0 } else { quiet }),
            uses_event_idx,
            defect,
            bell: Mutex::new(false),
        }
    }

    fn ring(&self) {
        *self.bell.lock().expect("not poisoned") = true;
    }

    /// The driver: publishes the buffers one by one, as `virtqueue_kick` does (virtio 1.2, 2.7.13).
    fn publish(&self) {
        for old in 0..BUFFERS {
            if self.publish_one(old) {
                self.ring();
            }
        }
    }

    /// Publishes the buffer of index `old`. Returns whether the driver has to notify.
    fn publish_one(&self, old: u16) -> bool {
        let new = old + 1;
        self.avail.store(new, Ordering::Release);
        if self.defect != Defect::DriverFence {
            fence(Ordering::SeqCst);
        }
        let wish = self.wish.load(Ordering::Relaxed);
        match self.uses_event_idx {
            // vring_need_event of the standard (2.7.10).
            true => new.wrapping_sub(wish).wrapping_sub(1) < new.wrapping_sub(old),
            false => wish & NO_NOTIFY == 0,
        }
    }

    /// Whoever looks takes all that there is.
    fn look(&self, next: &mut u16) {
        *next = self.avail.load(Ordering::Acquire);
    }

    /// The queue goes back; the I/O thread is called if need be.
    fn give_back(&self, next: u16) {
        let Ok(has_buffers) = hand_back(self, next);
        if has_buffers && self.defect != Defect::LastLook {
            self.ring();
        }
    }
}

impl RingWords for Ring {
    type Error = Infallible;

    fn suppress(&self, next: u16) -> Result<(), Infallible> {
        let quiet = match self.uses_event_idx {
            true => next.wrapping_sub(QUIET_BEHIND),
            false => NO_NOTIFY,
        };
        self.wish.store(quiet, Ordering::Relaxed);
        Ok(())
    }
    fn ask(&self, next: u16) -> Result<(), Infallible> {
        let wish = if self.uses_event_idx { next } else { 0 };
        self.wish.store(wish, Ordering::Relaxed);
        Ok(())
    }
    fn fence(&self) {
        if self.defect != Defect::OwnFence {
            fence(Ordering::SeqCst);
        }
    }
    fn avail(&self) -> Result<u16, Infallible> {
        Ok(self.avail.load(Ordering::Acquire))
    }
}

/// The polling thread plays `body` from an index of taken buffers to another while the driver publishes.
fn play(ring: Ring, body: impl FnOnce(&Ring, &mut u16) + Send + 'static) {
    let ring = Arc::new(ring);
    let poller = {
        let ring = ring.clone();
        thread::spawn(move || {
            let mut next = 0;
            body(&ring, &mut next);
            next
        })
    };
    ring.publish();
    let mut next = poller.join().expect("the polling thread ends");
    // The I/O thread sleeps until it is called.
    if *ring.bell.lock().expect("not poisoned") {
        ring.look(&mut next);
    }
    assert_eq!(next, BUFFERS, "a buffer is lost");
}

/// It owns the queue, looks, and goes to sleep.
fn goes_to_sleep(uses_event_idx: bool, defect: Defect) {
    play(Ring::new(uses_event_idx, false, defect), |ring, next| {
        ring.look(next);
        ring.give_back(*next);
    });
}

/// It was stopped before it looked, and somebody else gives the queue back for it.
fn is_stood_in_for(uses_event_idx: bool, defect: Defect) {
    play(Ring::new(uses_event_idx, false, defect), |ring, next| {
        ring.give_back(*next);
    });
}

/// It takes the queue over, looks, and gives it back at once.
fn comes_and_goes(uses_event_idx: bool, defect: Defect) {
    play(Ring::new(uses_event_idx, true, defect), |ring, next| {
        let Ok(_has_buffers) = take_over(ring, *next);
        ring.look(next);
        ring.give_back(*next);
    });
}

/// What the backend's lock protects.
#[derive(Default)]
struct Backend {
    next: u16,
    is_polled: bool,
}

/// The I/O thread, called meanwhile, looks at the queue whoever owns it; the lock of the backend is
/// between the two. Where it is its own it asks to be notified of what comes next, as `run_batch` does,
/// which is the same as a hand-back.
fn is_called_in_between(uses_event_idx: bool, defect: Defect) {
    let ring = Arc::new(Ring::new(uses_event_idx, true, defect));
    let backend = Arc::new(Mutex::new(Backend::default()));
    let poller = {
        let (ring, backend) = (ring.clone(), backend.clone());
        thread::spawn(move || {
            {
                let mut backend = backend.lock().expect("not poisoned");
                backend.is_polled = true;
                let Ok(_has_buffers) = take_over(&*ring, backend.next);
            }
            let mut backend = backend.lock().expect("not poisoned");
            backend.is_polled = false;
            ring.give_back(backend.next);
        })
    };
    let io = {
        let (ring, backend) = (ring.clone(), backend.clone());
        thread::spawn(move || {
            if !std::mem::take(&mut *ring.bell.lock().expect("not poisoned")) {
                return;
            }
            let mut backend = backend.lock().expect("not poisoned");
            loop {
                ring.look(&mut backend.next);
                if backend.is_polled || hand_back(&*ring, backend.next) == Ok(false) {
                    break;
                }
            }
        })
    };
    ring.publish();
    poller.join().expect("the polling thread ends");
    io.join().expect("the I/O thread ends");
    let mut backend = backend.lock().expect("not poisoned");
    if *ring.bell.lock().expect("not poisoned") {
        ring.look(&mut backend.next);
    }
    assert_eq!(backend.next, BUFFERS, "a buffer is lost");
}

/// A vCPU's thread looks at the queue of which its driver has just notified, as `VcpuNotify` does.
fn hear(ring: &Ring, backend: &Mutex<Backend>) {
    let Ok(mut backend) = backend.try_lock() else {
        if ring.defect != Defect::BusyDevice {
            ring.ring();
        }
        return;
    };
    match ring
        .avail
        .load(Ordering::Acquire)
        .wrapping_sub(backend.next)
    {
        0 => {}
        1 => {
            backend.next += 1;
            ring.give_back(backend.next);
        }
        _ => ring.ring(),
    }
}

/// Two vCPUs publish a buffer each, by turns, and serve what they notify of. The I/O thread comes when
/// both are done.
fn is_served_by_who_notifies(uses_event_idx: bool, defect: Defect) {
    let ring = Arc::new(Ring::new(uses_event_idx, true, defect));
    let backend = Arc::new(Mutex::new(Backend::default()));
    // The driver's own lock, under which it publishes, but does not notify.
    let published = Arc::new(Mutex::new(0));
    let vcpu = {
        let (ring, backend, published) = (ring.clone(), backend.clone(), published.clone());
        move || {
            let notifies = {
                let mut published = published.lock().expect("not poisoned");
                *published += 1;
                ring.publish_one(*published - 1)
            };
            if notifies {
                hear(&ring, &backend);
            }
        }
    };
    let other = thread::spawn(vcpu.clone());
    vcpu();
    other.join().expect("the other vCPU goes on");
    let mut backend = backend.lock().expect("not poisoned");
    if *ring.bell.lock().expect("not poisoned") {
        ring.look(&mut backend.next);
    }
    assert_eq!(backend.next, BUFFERS, "a buffer is lost");
}

type Body = fn(bool, Defect);
const BODIES: [Body; 5] = [
    is_served_by_who_notifies,
    goes_to_sleep,
    is_stood_in_for,
    comes_and_goes,
    is_called_in_between,
];

/// Explores all interleavings; what the first failing one said, if any fails.
fn explore(body: Body, uses_event_idx: bool, defect: Defect) -> Result<(), String> {
    let run = move || {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || body(uses_event_idx, defect));
    };
    std::thread::spawn(run).join().map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        text.or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default()
    })
}

#[test]
fn no_buffer_is_lost_when_a_queue_changes_hands() {
    for body in BODIES {
        for uses_event_idx in [false, true] {
            assert_eq!(explore(body, uses_event_idx, Defect::None), Ok(()));
        }
    }
}

#[test]
fn the_model_fails_without_either_fence_the_last_look_or_the_ring_of_a_busy_device() {
    for uses_event_idx in [false, true] {
        for (body, defect) in [
            (goes_to_sleep as Body, Defect::OwnFence),
            (goes_to_sleep, Defect::DriverFence),
            (goes_to_sleep, Defect::LastLook),
            (is_served_by_who_notifies, Defect::BusyDevice),
        ] {
            let said = explore(body, uses_event_idx, defect);
            let said = said.expect_err("the model does not see this defect");
            assert!(
                said.contains("is lost"),
                "failed for another reason: {said}"
            );
        }
    }
}
