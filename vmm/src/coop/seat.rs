//! One vCPU's registered area with everything that serves it: rings, timer words, clock.
//!
//! A [`Seat`] is there for each vCPU, empty until it registers. Whoever serves it holds its lock:
//! the vCPU's own thread at a doorbell, the polling thread at a look, the watchdog when that one is
//! late. So the private halves of rings and timer have one user at a time, and emptying the seat
//! under the lock is all that unregistering needs (`[LIFE-2]`).

mod halt;

pub use halt::Halted;

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use coopvirt_spec::code::BrokenReason;
use coopvirt_spec::counter::{GuestCounter, HostCounter, GUEST_COUNTERS, HOST_COUNTERS};
use coopvirt_spec::entry::{Completion, Submission};
use coopvirt_spec::lease;
use coopvirt_spec::mem::{Load, SharedMem, Store};
use coopvirt_spec::page::{at, write_header, AreaLayout};
use coopvirt_spec::ring::HostRing;
use coopvirt_spec::timer::{self, HostTimer, Look, NONE};
use coopvirt_spec::version::Features;

use super::area::Area;
use super::budget::Budget;
use super::clock::GuestClock;
use super::counters::Event;
use super::predict::{Halts, Outcome as Fate, Prediction, Seen};
use super::serve::{carry_out, Context, Outcome, Server, Shared};

/// Deadlines served later than this are counted as late.
const LATE: Duration = Duration::from_millis(1);
/// Values of the idle word (`[PAGE-5]`).
const IDLE_POLLS: u32 = 1;
const IDLE_HALTS: u32 = 2;

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

    /// Counts for the guest's report and for ours.
    pub fn count(&mut self, shared: &Shared, counter: HostCounter, more: u64) {
        let Some(count) = self.counts.get_mut(counter as usize) else {
            return;
        };
        if more == 0 {
            return;
        }
        *count = count.wrapping_add(more);
        self.area
            .store_u64(counter.offset(), *count, Store::Relaxed);
        shared.totals.host(counter, more);
    }

    /// Takes and carries out what submissions there are, until the budget ends. Their completions
    /// become visible together.
    pub fn drain(&mut self, shared: &Shared, budget: &mut Budget, server: Server<'_>) -> u32 {
        let (mut taken, mut refused) = (0, 0);
        let mut context = Context {
            shared,
            vcpu: self.vcpu,
            budget,
            server,
        };
        let mut turn = self.ring.turn(&self.area);
        while context.budget.take_entry() {
            let Some(submission) = turn.take() else {
                break;
            };
            taken += 1;
            match carry_out(&submission, self.features, &mut context) {
                Outcome::Done(done) => {
                    refused += u64::from(done.status().is_error());
                    turn.finish(&submission, done);
                }
                Outcome::Later => self.deferred.push_back(submission),
            }
        }
        drop(turn);
        self.wake_if_broken(shared);
        if taken > 0 {
            let counter = match server {
                Server::Own(_) => HostCounter::TakenBell,
                Server::Polling | Server::Worker => HostCounter::TakenPolling,
            };
            self.count(shared, counter, taken.into());
            self.count(shared, HostCounter::Refused, refused);
        }
        taken
    }

    /// Gives the completion of a call that was taken earlier.
    pub fn finish(&mut self, submission: &Submission, done: Completion) {
        self.ring.finish(&self.area, submission, done);
    }

    /// Hands out a call that was left to others, with the features it was made under.
    pub fn take_deferred(&mut self) -> Option<(Submission, Features)> {
        let submission = self.deferred.pop_front()?;
        Some((submission, self.features))
    }

    /// Carries out calls that were left to others.
    pub fn drain_deferred(&mut self, shared: &Shared, budget: &mut Budget, server: Server<'_>) {
        let mut context = Context {
            shared,
            vcpu: self.vcpu,
            budget,
            server,
        };
        // As many as there are now: who cannot carry one out puts it back.
        for _ in 0..self.deferred.len() {
            if !context.budget.take_entry() {
                return;
            }
            let Some(submission) = self.deferred.pop_front() else {
                return;
            };
            match carry_out(&submission, self.features, &mut context) {
                Outcome::Done(done) => self.ring.finish(&self.area, &submission, done),
                Outcome::Later => self.deferred.push_back(submission),
            }
        }
    }

    /// One look of the polling thread: renews the lease, then looks at ring and deadline
    /// (`[LEASE-2]`).
    pub fn poll(&mut self, shared: &Shared, now_host: u64, lease: Duration) -> Found {
        if self.can_lease() {
            if let Some(timing) = self.timing {
                let (now, cycles) = (timing.clock.at(now_host), timing.clock.cycles(lease));
                lease::renew(&self.area, now, cycles);
                self.is_leased = true;
            }
        }
        let mut found = self.look_at_ring(shared);
        if let Some(timing) = self.timing.filter(|_| self.has_timer()) {
            let seen = self.look_at_deadline(shared, timing);
            found.raised = matches!(seen, Seen::Served(_));
            let wake_up = timing.clock.cycles(self.wake_up);
            found.is_foreseen = found.raised && self.prediction.is_foreseen(wake_up);
            match seen {
                Seen::Served(_) => self.raise_timer(shared, timing, seen),
                // If this thread is kept from looking, the lease ends, but the promise stays, and
                // the worker keeps it: a later deadline needs no stock write.
                Seen::Later(deadline_tsc) => self.timer.arm(&self.area, deadline_tsc),
                Seen::Nothing => {}
            }
        }
        found
    }

    /// [`Served::settle`], and raises the interrupt at once.
    pub fn retire(&mut self, shared: &Shared) -> Found {
        let found = self.settle(shared);
        self.raise_owed(shared);
        found
    }

    /// One look of a thread that is going to sleep. Ends the lease, if there is one, and looks once
    /// more (`[LEASE-4]`); promises the next look (`[TIMER-6]`), which the caller has to make. What is
    /// due then is raised by [`Served::raise_owed`], which the caller has to call before it sleeps or
    /// waits.
    pub fn settle(&mut self, shared: &Shared) -> Found {
        // Promised before the lease ends, so that no moment is without either.
        let mut found = Found::default();
        if self.is_leased {
            found = self.look_and_promise(shared);
            self.is_leased = false;
        }
        let last = lease::revoke(&self.area).take(|| {
            let ring = self.look_at_ring(shared);
            Found {
                taken: ring.taken,
                has_deferred: ring.has_deferred,
                ..self.look_and_promise(shared)
            }
        });
        Found {
            raised: found.raised || last.raised,
            is_foreseen: (found.is_foreseen || !found.raised) && (last.is_foreseen || !last.raised),
            has_missed: found.has_missed || last.has_missed,
            ..last
        }
    }

    /// From now on a wake-up is taken to last so long.
    pub fn set_wake_up(&mut self, wake_up: Duration) {
        self.wake_up = wake_up;
    }

    /// Promises a look at a time when the thread will wake up in any case; of use only if there is
    /// no promise.
    pub fn arm(&mut self, at_host_tsc: u64) {
        if let (true, Some(timing)) = (self.has_timer(), self.timing) {
            if self.timer.armed_tsc() == NONE {
                let at_tsc = timing.clock.at(at_host_tsc);
                self.timer.arm(&self.area, at_tsc);
            }
        }
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

    /// Looks at what the guest says that its vCPU does (`[PAGE-5]`).
    fn look_at_idle(&mut self, shared: &Shared) {
        if !self.features.contains(Features::IDLE) {
            return;
        }
        let idle = self.area.load_u32(at::IDLE, Load::Relaxed);
        if idle == self.idle_seen {
            return;
        }
        self.idle_seen = idle;
        match idle {
            IDLE_POLLS => shared.totals.event(Event::IdlePolls, 1),
            IDLE_HALTS => shared.totals.event(Event::IdleHalts, 1),
            _ => {}
        }
    }

    /// Tells the guest how contended its CPU is, in parts per thousand.
    pub fn hint_contention(&mut self, permille: u32) {
        if self.features.contains(Features::HINTS) && self.broken().is_none() {
            self.area
                .store_u32(at::CONTENTION, permille, Store::Relaxed);
        }
    }

    /// The guest's TSC was rewritten (`[TIMER-9]`): the lease is over, deadlines are read anew.
    pub fn reclock(&mut self, shared: &Shared, timing: Option<Timing>) -> Found {
        self.raise_owed(shared);
        self.timing = timing;
        self.prediction = prediction(self.features);
        self.handed_tsc = NONE;
        self.is_leased = false;
        lease::revoke(&self.area).take(|| {
            let mut found = self.look_at_ring(shared);
            if let Some(timing) = self.timing.filter(|_| self.has_timer()) {
                let look = self.timer.reset(&self.area, timing.clock.now());
                if let Look::Due { deadline_tsc } = look {
                    found.raised = true;
                    self.raise_timer(shared, timing, Seen::Served(deadline_tsc));
                }
            }
            found
        })
    }

    fn look_at_ring(&mut self, shared: &Shared) -> Found {
        self.hint_io(shared);
        self.look_at_idle(shared);
        let mut found = Found::default();
        // Without `SIDECORE` only the vCPU's own doorbell drains its ring (`[BELL-1]`).
        if self.features.contains(Features::SIDECORE) {
            found.taken = self.drain(shared, &mut Budget::turn(), Server::Polling);
        }
        found.has_deferred = !self.deferred.is_empty();
        found
    }

    /// Raises the interrupt of a deadline that a look has found due, if there is one.
    pub fn raise_owed(&mut self, shared: &Shared) {
        if let (Some(deadline_tsc), Some(timing)) = (self.owed_tsc.take(), self.timing) {
            self.raise_timer(shared, timing, Seen::Served(deadline_tsc));
        }
    }

    /// Looks at the deadline and promises the next look. The interrupt comes only after that: its
    /// handler may publish the next deadline at once.
    fn look_and_promise(&mut self, shared: &Shared) -> Found {
        let mut found = Found::default();
        let Some(timing) = self.timing.filter(|_| self.has_timer()) else {
            return found;
        };
        let seen = self.look_at_deadline(shared, timing);
        let now_host = crate::kvm::tsc::read();
        let published = match seen {
            Seen::Later(deadline_tsc) => Some(deadline_tsc),
            Seen::Nothing | Seen::Served(_) => None,
        };
        if self.timer.armed_tsc() == NONE || self.prediction.is_new() {
            let wake_up = timing.clock.cycles(self.wake_up);
            let now = timing.clock.at(now_host);
            if let Some(at_tsc) = self.prediction.promise(now, wake_up, published) {
                self.timer.arm(&self.area, at_tsc);
            }
        }
        if let Some(deadline_tsc) = published {
            // Published under the lease, before a promise that is older.
            self.timer.arm(&self.area, deadline_tsc);
        }
        let is_foreseen = self
            .prediction
            .is_foreseen(timing.clock.cycles(self.wake_up));
        found.has_missed = std::mem::take(&mut self.has_missed) && !is_foreseen;
        if let Seen::Served(deadline_tsc) = seen {
            (found.raised, found.is_foreseen) = (true, is_foreseen);
            self.raise_owed(shared);
            self.owed_tsc = Some(deadline_tsc);
        }
        let armed_tsc = self.timer.armed_tsc();
        if armed_tsc != NONE {
            found.next_host_tsc = Some(timing.clock.host_at(armed_tsc, now_host));
        }
        found
    }

    /// Looks at the guest's timer words and learns from them. A promise that has come due is over
    /// (`[TIMER-5]`).
    fn look_at_deadline(&mut self, shared: &Shared, timing: Timing) -> Seen {
        self.learn_handed_over(timing.clock.now());
        // A count that lies misleads predictions for the one who says it.
        let writes = GuestCounter::DeadlineFallback.offset();
        let stock = self.prediction.stock(
            timing.clock.now(),
            timer::stock_deadline(&self.area),
            self.area.load_u64(writes, Load::Relaxed),
        );
        let (now, armed_tsc) = (timing.clock.now(), self.timer.armed_tsc());
        let is_promised = armed_tsc != NONE && armed_tsc <= now;
        let look = match is_promised {
            true => self.timer.disarm(&self.area, now),
            false => self.timer.look(&self.area, now),
        };
        let seen = match look {
            Look::Idle => Seen::Nothing,
            Look::Later { deadline_tsc } => Seen::Later(deadline_tsc),
            Look::Due { deadline_tsc } => Seen::Served(deadline_tsc),
        };
        let looked = self.prediction.looked(seen, is_promised);
        self.has_missed |= stock.is_some();
        for fate in [stock, looked].into_iter().flatten() {
            shared.totals.event(
                match fate {
                    Fate::Hit => Event::PredictedHit,
                    Fate::Early => Event::PredictedEarly,
                    Fate::Missed => Event::PredictedMissed,
                },
                1,
            );
        }
        seen
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

    fn raise_timer(&mut self, shared: &Shared, timing: Timing, seen: Seen) {
        let Seen::Served(deadline_tsc) = seen else {
            return;
        };
        let late = timing.clock.now().saturating_sub(deadline_tsc);
        if !self.raise_vector(shared) {
            return;
        }
        self.count(shared, HostCounter::TimerRaised, 1);
        let late = timing.clock.time(late);
        shared.totals.late(late);
        if late > LATE {
            self.count(shared, HostCounter::TimerLate, 1);
        }
    }

    /// How many stock paths its guest says to have taken (`[COUNT-1]`).
    pub fn stock_paths(&self) -> u64 {
        let counters = [GuestCounter::DeadlineFallback, GuestCounter::IpiFallback];
        let counts = counters.map(|counter| self.area.load_u64(counter.offset(), Load::Relaxed));
        counts.into_iter().fold(0, u64::wrapping_add)
    }

    /// Adds the guest's counters to the totals, when the area is left or the machine ends.
    pub fn collect(&self, shared: &Shared) {
        for (place, value) in self.guest_counts() {
            shared.totals.guest_at(place, value);
        }
    }

    /// What the guest says that it has done, by place in its table.
    pub fn guest_counts(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        GUEST_COUNTERS.iter().map(|(place, _)| {
            let offset = at::GUEST_COUNTERS + place * 8;
            (*place, self.area.load_u64(offset, Load::Relaxed))
        })
    }

    /// What the host has done for this area, by place in its table.
    pub fn host_counts(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        HOST_COUNTERS
            .iter()
            .filter_map(|(place, _)| Some((*place, *self.counts.get(*place)?)))
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
