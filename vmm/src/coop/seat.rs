//! One vCPU's registered area with everything that serves it: rings, timer words, clock.
//!
//! A [`Seat`] is there for each vCPU, empty until it registers. Whoever serves it holds its lock:
//! the vCPU's own thread at a doorbell, the polling thread at a look, the watchdog when that one is
//! late. So the private halves of rings and timer have one user at a time, and emptying the seat
//! under the lock is all that unregistering needs (`[LIFE-2]`).

mod calls;
mod counts;
mod glance;
mod halt;
mod look;

pub use halt::Halted;

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use coopvirt_spec::code::BrokenReason;
use coopvirt_spec::counter::HOST_COUNTERS;
use coopvirt_spec::entry::Submission;
use coopvirt_spec::mem::{SharedMem, Store};
use coopvirt_spec::page::{at, write_header, AreaLayout};
use coopvirt_spec::ring::HostRing;
use coopvirt_spec::timer::{self, HostTimer, NONE};
use coopvirt_spec::version::Features;

use super::area::Area;
use super::clock::GuestClock;
use super::counters::Event;
use super::predict::{Halts, Prediction};
use super::serve::Shared;

/// What time means to an area: only with it can a lease be given or a deadline be served.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The vCPU's clock.
    pub clock: GuestClock,
}

/// A registered area and the host's private half of it.
pub struct Served {
    vcpu: u8,
    area: Area,
    ring: HostRing,
    timer: HostTimer,
    features: Features,
    timing: Option<Timing>,
    prediction: Prediction,
    /// Whether a lease was given and not ended.
    is_leased: bool,
    glance: glance::Glance,
    has_missed: bool,
    /// A deadline that is served but for its interrupt.
    owed_tsc: Option<u64>,
    /// What the guest was told last of requests in flight, and what it said last of its vCPU.
    io_told: u32,
    idle_seen: u32,
    /// How long the thread that serves deadlines takes to wake up.
    wake_up: Duration,
    /// The deadline that the local APIC's timer was set to at the last halt; none once it is over.
    handed_tsc: u64,
    halts: Halts,
    counts: [u64; HOST_COUNTERS.len()],
    /// Whether the guest was woken because its area is broken.
    is_wake_raised: bool,
    /// Taken, but left to the memory worker. Bounded: each has a completion slot reserved.
    deferred: VecDeque<Submission>,
}

/// What a look found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Submissions taken.
    pub taken: u32,
    /// Timer interrupts raised.
    pub raised: bool,
    /// The same, for a deadline that a thread that sleeps would have served as well.
    pub is_foreseen: bool,
    /// When the next look is promised, in the host's TSC.
    pub next_host_tsc: Option<u64>,
    /// Whether the guest made a stock write for a deadline that was predicted later, and the next one will
    /// not be foreseen any better.
    pub has_missed: bool,
    /// Whether calls were left to the memory worker.
    pub has_deferred: bool,
}

impl Found {
    /// Whether there was something to do that a thread that sleeps could not have done as well.
    pub fn is_work(&self) -> bool {
        self.taken > 0 || self.raised && !self.is_foreseen
    }
}

impl Served {
    /// Begins to serve an area: writes its header and clears the host's lines (`[REG-5]`).
    pub fn new(vcpu: u8, area: Area, features: Features, timing: Option<Timing>) -> Self {
        let layout = AreaLayout::DEFAULT;
        write_header(&area, layout, features, vcpu.into());
        Self {
            vcpu,
            area,
            ring: HostRing::new(layout),
            timer: HostTimer::new(),
            features,
            timing,
            prediction: prediction(features),
            is_leased: false,
            glance: glance::Glance::default(),
            has_missed: false,
            owed_tsc: None,
            io_told: 0,
            idle_seen: 0,
            wake_up: Duration::ZERO,
            handed_tsc: NONE,
            halts: Halts::default(),
            counts: [0; HOST_COUNTERS.len()],
            is_wake_raised: false,
            deferred: VecDeque::new(),
        }
    }

    /// Why the area is broken, if it is.
    pub fn broken(&self) -> Option<BrokenReason> {
        self.ring.broken()
    }

    /// The features that its guest negotiated.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Frequency of its clock, if it has one.
    pub fn khz(&self) -> Option<u64> {
        self.timing.map(|timing| timing.clock.khz())
    }

    /// Whether a lease may be given.
    pub fn can_lease(&self) -> bool {
        self.features.contains(Features::SIDECORE)
            && self.timing.is_some()
            && self.broken().is_none()
    }

    /// Whether a lease was given and not ended.
    pub fn is_leased(&self) -> bool {
        self.is_leased
    }

    /// Whether its deadlines can be served.
    pub fn can_time(&self) -> bool {
        self.has_timer() && self.timing.is_some()
    }

    /// Whether deadlines are served.
    fn has_timer(&self) -> bool {
        self.features.contains(Features::TIMER) && self.broken().is_none()
    }

    /// From now on a wake-up is taken to last so long.
    pub fn set_wake_up(&mut self, wake_up: Duration) {
        self.wake_up = wake_up;
    }

    /// Tells the guest how many requests devices have in hand, if that has changed.
    pub fn hint_io(&mut self, shared: &Shared) {
        let now = shared.io_in_flight.load(Ordering::Relaxed);
        if now == self.io_told || !self.features.contains(Features::HINTS) {
            return;
        }
        if self.broken().is_none() {
            self.area.store_u32(at::IO_IN_FLIGHT, now, Store::Relaxed);
            self.io_told = now;
        }
    }

    /// Tells the guest how contended its CPU is, in parts per thousand.
    pub fn hint_contention(&mut self, permille: u32) {
        if self.features.contains(Features::HINTS) && self.broken().is_none() {
            self.area
                .store_u32(at::CONTENTION, permille, Store::Relaxed);
        }
    }

    /// A guest that sleeps until a deadline which nobody will serve has to wake up and notice
    /// (`[LIFE-7]`).
    fn wake_if_broken(&mut self, shared: &Shared) {
        if self.is_wake_raised || self.broken().is_none() {
            return;
        }
        self.is_wake_raised = true;
        shared.totals.event(Event::Broken, 1);
        if self.features.contains(Features::TIMER) {
            self.raise_vector(shared);
        }
    }

    /// Raises what the guest has named, if that can be a vector (`[TIMER-1]`); says whether it did.
    fn raise_vector(&self, shared: &Shared) -> bool {
        let Some(vector) = timer::vector(&self.area) else {
            return false;
        };
        match self.broken() {
            None => shared.raise(self.vcpu.into(), vector),
            // Its guest need not look at anything in it any more.
            Some(_) => shared.effects.raise(self.vcpu.into(), vector),
        }
    }
}

/// What is expected of a guest of which nothing is known yet.
fn prediction(features: Features) -> Prediction {
    match features.contains(Features::SIDECORE) {
        true => Prediction::default(),
        false => Prediction::thrifty(),
    }
}

/// Where a vCPU's area is served, if it has one.
#[derive(Default)]
pub struct Seat(Mutex<Option<Served>>);

impl Seat {
    /// Waits for whoever serves it now: for one bounded look, or one exit's worth of work.
    pub fn lock(&self) -> MutexGuard<'_, Option<Served>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The seat if nobody serves it now.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, Option<Served>>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
