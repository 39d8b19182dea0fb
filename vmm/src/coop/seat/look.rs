//! Looks at one vCPU's area: under a lease, at its end, and at a promised time.
//!
//! Whoever promises the next look has to make it (`[TIMER-6]`); an interrupt comes only after what follows from it is
//! promised, because its handler may publish the next deadline at once.

use std::time::Duration;

use coopvirt_spec::counter::{GuestCounter, HostCounter};
use coopvirt_spec::lease;
use coopvirt_spec::mem::{Load, SharedMem};
use coopvirt_spec::page::at;
use coopvirt_spec::timer::{self, Look, NONE};
use coopvirt_spec::version::Features;

use super::{prediction, Found, Served, Timing};
use crate::coop::budget::Budget;
use crate::coop::counters::Event;
use crate::coop::predict::{Outcome as Fate, Seen};
use crate::coop::serve::{Server, Shared};

/// Deadlines served later than this are counted as late.
const LATE: Duration = Duration::from_millis(1);
/// Values of the idle word (`[PAGE-5]`).
const IDLE_POLLS: u32 = 1;
const IDLE_HALTS: u32 = 2;

impl Served {
    /// One look of the polling thread: renews the lease, then looks at ring and deadline (`[LEASE-2]`). Needless as long
    /// as [`Served::is_quiet`].
    pub fn poll(&mut self, shared: &Shared, now_host: u64, lease: Duration) -> Found {
        let words = self.words();
        let found = self.look(shared, now_host, lease);
        self.glanced(words, now_host, lease);
        found
    }

    fn look(&mut self, shared: &Shared, now_host: u64, lease: Duration) -> Found {
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
        self.forget_glance();
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

    /// The guest's TSC was rewritten (`[TIMER-9]`): the lease is over, deadlines are read anew.
    pub fn reclock(&mut self, shared: &Shared, timing: Option<Timing>) -> Found {
        self.raise_owed(shared);
        self.timing = timing;
        self.prediction = prediction(self.features);
        self.handed_tsc = NONE;
        self.is_leased = false;
        self.forget_glance();
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
    pub(super) fn look_at_deadline(&mut self, shared: &Shared, timing: Timing) -> Seen {
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

    pub(super) fn raise_timer(&mut self, shared: &Shared, timing: Timing, seen: Seen) {
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
}
