//! The way of a polling thread to the queues of a device.
//!
//! [`PolledDevice`] is what that thread holds of each device: [`PolledDevice::look`] while it polls,
//! [`PolledDevice::hand_back`] when it stops, by whoever stands in for it too. It never waits: a device
//! that somebody else works on is left out, and if it has to be given up just then, the I/O thread is
//! called to do it. What changes hands and why nothing is lost is in `ownership.rs`.
//!
//! Only queues with work are taken over: *hot* ones, that were notified lately or had work when they
//! were polled last. The others are the I/O thread's and cost nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock, TryLockError};

use vmm_sys_util::eventfd::EventFd;

use super::backend::{ring, Backend, SharedBackend};
use super::counters::DeviceCounters;

/// Told of each notification of a queue that could have been polled.
pub trait Kicked: Send + Sync {
    /// The guest has notified the device, which has been served.
    fn kicked(&self);
}

/// Which queues a look takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Those that have work.
    Hot,
    /// All that can be polled.
    All,
}

/// What polling thread, stand-in and I/O thread tell each other about one device.
///
/// All fields are hints or requests; queues change hands under the backend's lock only.
#[derive(Default)]
pub(super) struct PollState {
    /// One for each queue.
    hot: Vec<AtomicBool>,
    /// Whether any queue is the polling thread's. Changes under the backend's lock.
    is_owner: AtomicBool,
    /// A queue that it owns, whose doorbell the I/O thread hears.
    owned: AtomicUsize,
    /// The I/O thread is to take the queues back when it comes next.
    is_given_up: AtomicBool,
    kicked: OnceLock<Arc<dyn Kicked>>,
}

impl PollState {
    pub(super) fn new(nr_queues: usize) -> Self {
        Self {
            hot: (0..nr_queues).map(|_| AtomicBool::new(false)).collect(),
            ..Self::default()
        }
    }

    /// A queue that can be polled was notified.
    pub(super) fn note_kick(&self, queue: usize) {
        let Some(kicked) = self.kicked.get() else {
            return;
        };
        self.set_hot(queue, true);
        kicked.kicked();
    }

    pub(super) fn set_hot(&self, queue: usize, is_hot: bool) {
        if let Some(hot) = self.hot.get(queue) {
            hot.store(is_hot, Ordering::Relaxed);
        }
    }

    fn is_hot(&self, queue: usize) -> bool {
        self.hot
            .get(queue)
            .is_some_and(|hot| hot.load(Ordering::Relaxed))
    }

    fn has_hot(&self) -> bool {
        self.hot.iter().any(|hot| hot.load(Ordering::Relaxed))
    }

    /// The polling thread has taken a queue over; the caller holds the backend's lock.
    pub(super) fn has_taken(&self, queue: usize) {
        self.owned.store(queue, Ordering::Relaxed);
        self.is_owner.store(true, Ordering::Relaxed);
        // Who wanted it given up meant the time before.
        self.is_given_up.store(false, Ordering::Relaxed);
    }

    /// It owns none any more; the caller holds the backend's lock.
    pub(super) fn has_given_back(&self) {
        self.is_owner.store(false, Ordering::Relaxed);
        self.is_given_up.store(false, Ordering::Relaxed);
    }

    /// Whether it owns any.
    pub(super) fn is_owner(&self) -> bool {
        self.is_owner.load(Ordering::Relaxed)
    }

    /// Whether the I/O thread is to take the queues back. Pairs with the store in
    /// [`PolledDevice::hand_back`]; the doorbell between them orders more than enough.
    pub(super) fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Acquire)
    }
}

/// A device as polling threads see it.
#[derive(Clone)]
pub struct PolledDevice {
    backend: SharedBackend,
    doorbells: Arc<[EventFd]>,
    state: Arc<PollState>,
    counters: Arc<DeviceCounters>,
}

impl PolledDevice {
    pub(super) fn new(
        backend: SharedBackend,
        doorbells: Arc<[EventFd]>,
        state: Arc<PollState>,
        counters: Arc<DeviceCounters>,
    ) -> Self {
        Self {
            backend,
            doorbells,
            state,
            counters,
        }
    }

    /// Says who is told of notifications, from now on. Without anybody, no queue becomes hot.
    pub fn connect(&self, kicked: Arc<dyn Kicked>) {
        // A machine has one polling thread; the first one stays.
        let _ = self.state.kicked.set(kicked);
    }

    /// Whether polling would find a queue with work.
    pub fn is_hot(&self) -> bool {
        self.state.has_hot()
    }

    /// Takes the wanted queues over, if they are not taken, and looks at each: what can be served
    /// without waiting is served, for the rest the I/O thread is called. Returns whether there was
    /// anything new.
    pub fn look(&self, wanted: Wanted) -> bool {
        if wanted == Wanted::Hot && !self.state.has_hot() {
            return false;
        }
        let Some(mut backend) = self.try_lock() else {
            return false;
        };
        let mut is_work = false;
        for (queue, doorbell) in self.doorbells.iter().enumerate() {
            if wanted == Wanted::All || self.state.is_hot(queue) {
                is_work |= backend.poll(queue, doorbell);
            }
        }
        is_work
    }

    /// Gives all queues back to the I/O thread. Returns whether one of them has buffers that nobody
    /// has looked at; the I/O thread is called for them.
    ///
    /// Where the device is being worked on, the I/O thread is asked to take the queues back: it is who
    /// works on it, or comes next. It hears the doorbell after whatever it is doing.
    pub fn hand_back(&self) -> bool {
        if !self.state.is_owner() {
            return false;
        }
        if let Some(mut backend) = self.try_lock() {
            return backend.hand_back(&self.doorbells);
        }
        self.state.is_given_up.store(true, Ordering::Release);
        let owned = self.state.owned.load(Ordering::Relaxed);
        if let Some(doorbell) = self.doorbells.get(owned) {
            self.counters.add_own_rings(1);
            ring(doorbell);
        }
        false
    }

    /// Does something while somebody else works on the device.
    #[cfg(test)]
    pub(super) fn while_busy(&self, body: impl FnOnce()) {
        let _backend = super::backend::lock(&self.backend);
        body();
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Backend>> {
        match self.backend.try_lock() {
            Ok(backend) => Some(backend),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
