//! The loop of the polling thread: poll under leases, retire them, sleep armed. Virtqueues go with it.
//!
//! It never waits for anything but its own sleep: seats that others serve are left out while
//! polling (their guest is in an exit then, or the worker looks), and slow calls go to the worker.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::fault::Fault;
use super::pass::Pass;
use super::share::{Share, GAP};
use super::sleeper::Sleeper;
use super::watch::Pulse;
use super::window::{Wake, Window};
use super::worker::Message;
use super::LEASE;
use crate::account::trace::cpu_clock;
use crate::coop::clock;
use crate::coop::counters::Event;
use crate::coop::host::Coop;
use crate::coop::seat::Served;
use crate::coop::SidecorePolicy;
use crate::kvm::tsc;

/// Sleeps that show what a wake-up costs before anything else does, and how long each of them is.
const TRIAL_SLEEPS: u32 = 16;
const TRIAL_SLEEP: Duration = Duration::from_micros(200);
/// After so much polling, or one turn that took so long, the thread asks whether it gets its CPU: less than what
/// [`Share`] takes for a gap.
const VERDICTS: Duration = GAP.checked_div(2).expect("not zero");

pub(super) struct Poller<'a> {
    coop: &'a Coop,
    stop: &'a AtomicBool,
    pulse: &'a Pulse,
    sleeper: Sleeper,
    window: Window,
    share: Share,
    fault: Fault,
    /// Whether the last sleep was ended by a doorbell.
    was_rung: bool,
    /// Whether interrupts are still to be raised.
    has_owed: Cell<bool>,
    /// When a guest asked to be heard last, and how many stock paths all had taken by then.
    asked: Option<(Instant, u64)>,
}

impl<'a> Poller<'a> {
    pub(super) fn new(
        coop: &'a Coop,
        stop: &'a AtomicBool,
        sleeper: Sleeper,
        fault: Fault,
    ) -> Self {
        let window = Window::new();
        Self {
            coop,
            stop,
            pulse: &coop.alarm.pulse,
            sleeper,
            window,
            share: Share::default(),
            fault,
            was_rung: false,
            has_owed: Cell::new(false),
            asked: None,
        }
    }

    pub(super) fn run(mut self) {
        let policy = self.coop.options.sidecore.policy;
        let may_poll = policy != SidecorePolicy::Off;
        self.try_sleeping();
        let mut polls = may_poll;
        let mut slept = Duration::ZERO;
        // Whether the last turn was one of those; between two there is a sleep.
        let mut has_waited = false;
        while !self.stop.load(Ordering::Acquire) {
            let rest = self.share.rest(Instant::now());
            if polls && rest.is_none() {
                self.poll(policy);
            }
            let last = self.retire();
            let is_hit = self.is_worth_polling(&last, polls, slept);
            let rest = self.share.rest(Instant::now());
            // A rest does not leave calls behind either: one more look.
            if may_poll && (is_hit && rest.is_none() || last.has_calls) {
                self.raise();
                self.coop.shared.totals.event(Event::LastLookHits, 1);
                (polls, slept) = (is_hit, Duration::ZERO);
                continue;
            }
            if rest.is_some() {
                // Nor does it want to be woken for queues.
                self.coop.queues.stop(Duration::ZERO);
            }
            if !std::mem::replace(&mut has_waited, true) && self.wait_awake(last.next_host_tsc) {
                (polls, slept) = (false, Duration::ZERO);
                continue;
            }
            has_waited = false;
            let nap = rest.or_else(|| self.nap());
            let wake;
            (wake, slept) = self.sleep(nap);
            polls = may_poll && wake == Wake::Nap;
        }
    }

    /// Learns what a wake-up costs here, while the guest is not there yet. Later that shows by itself,
    /// but not to a thread that nobody wakes because it is taken to be quicker than it is.
    fn try_sleeping(&mut self) {
        for _ in 0..TRIAL_SLEEPS {
            let before = own_cpu();
            let alarm = &self.coop.alarm;
            if alarm.set(self.coop.promises(), Some(TRIAL_SLEEP)).is_err() {
                return;
            }
            if self.sleeper.wait(&self.coop.wake) {
                self.was_rung = true;
                return;
            }
            if let Some((_, late)) = alarm.over() {
                self.window.measured(late);
            }
            self.window.cost(own_cpu().saturating_sub(before));
        }
    }

    /// Whether to poll, after a look without a lease.
    fn is_worth_polling(&mut self, last: &Pass, has_polled: bool, slept: Duration) -> bool {
        let is_rung = std::mem::take(&mut self.was_rung);
        if is_rung && !last.is_work && !last.has_missed {
            // Nothing to be seen: what the guest wants is to be heard (`[BELL-6]`).
            let is_likely = self.would_have_heard();
            self.window.asked(is_likely);
            return true;
        }
        // For deadlines that are predicted well, polling would spare nothing; for one that was not,
        // only if it had gone on until then.
        last.has_calls || has_polled && last.is_work || last.has_missed && self.window.missed(slept)
    }

    /// Whether the stock paths since a guest asked last came close enough to each other for a thread that
    /// polls to hear one after the other (`[BELL-6]`). Those of an idle guest do not.
    fn would_have_heard(&mut self) -> bool {
        let seats = self.coop.stations.iter().map(|station| station.seat.lock());
        let paths = seats.filter_map(|seat| seat.as_ref().map(Served::stock_paths));
        let paths = paths.fold(0, u64::wrapping_add);
        let now = Instant::now();
        let Some((before, paths_before)) = self.asked.replace((now, paths)) else {
            return true;
        };
        let new = u32::try_from(paths.wrapping_sub(paths_before)).unwrap_or(u32::MAX);
        now.saturating_duration_since(before) / new.max(1) <= self.window.reach()
    }

    /// Waits for a deadline for which falling asleep and waking up would cost as much CPU time as waiting
    /// awake does; false if there is none.
    fn wait_awake(&self, next_host_tsc: Option<u64>) -> bool {
        let Some(next_host_tsc) = next_host_tsc else {
            return false;
        };
        let reach = clock::cycles(self.sleeper.tsc_khz, self.window.awake());
        if next_host_tsc > tsc::read().saturating_add(reach) {
            return false;
        }
        self.raise();
        while tsc::read() < next_host_tsc {
            std::hint::spin_loop();
        }
        true
    }

    /// How long to sleep at most; as long as nobody comes, if there is no lease to give: deadlines
    /// have alarms of their own, and a guest that misses them rings (`[TIMER-11]`).
    fn nap(&mut self) -> Option<Duration> {
        let may_poll = self.coop.options.sidecore.policy != SidecorePolicy::Off;
        (may_poll && self.coop.any(Served::can_lease)).then(|| self.window.nap())
    }

    /// Looks at all areas under leases until there was no work for a window.
    fn poll(&mut self, policy: SidecorePolicy) {
        // Without a lease and without a queue that has work, polling serves nobody.
        if !self.coop.any(Served::can_lease) && !self.coop.queues.are_hot() {
            return;
        }
        self.pulse.start();
        self.coop.queues.start();
        self.coop.is_polling.store(true, Ordering::Relaxed);
        self.coop.tell_worker(Message::Watch);
        let khz = self.sleeper.tsc_khz;
        let mut window = clock::cycles(khz, self.window.polling());
        let verdicts = clock::cycles(khz, VERDICTS);
        let mut last_work = tsc::read();
        let (mut last_turn, mut calm, mut turns) = (last_work, 0, 0);
        while !self.stop.load(Ordering::Acquire) {
            self.pulse.beat();
            turns += 1;
            let pass = self.turn();
            // By the TSC: a turn that finds nothing is to be short.
            let now = tsc::read();
            let between = now.saturating_sub(std::mem::replace(&mut last_turn, now));
            calm += between;
            if calm >= verdicts {
                // A gap by itself, and what was calm before it by itself.
                let took = [calm - between, between].map(|cycles| clock::time(khz, cycles));
                calm = 0;
                if took.into_iter().any(|time| self.must_rest(time, policy)) {
                    break;
                }
            }
            let idle = now.saturating_sub(last_work);
            if pass.is_work {
                self.window.worked(clock::time(khz, idle));
                window = clock::cycles(khz, self.window.polling());
                last_work = now;
            } else if policy == SidecorePolicy::Adaptive && idle > window {
                break;
            } else {
                std::hint::spin_loop();
            }
        }
        // Short whiles of polling count as well; that it is to rest now the thread finds out next.
        self.must_rest(clock::time(khz, calm), policy);
        self.coop.shared.totals.event(Event::PollTurns, turns);
    }

    /// Turns took so long, or one alone: whether this thread is to stop, because others want its CPU.
    fn must_rest(&mut self, took: Duration, policy: SidecorePolicy) -> bool {
        self.note_gap(took);
        if policy != SidecorePolicy::Adaptive {
            return false;
        }
        let Some(rest) = self.share.turn(took, Instant::now()) else {
            return false;
        };
        let totals = &self.coop.shared.totals;
        totals.event(Event::Rests, 1);
        totals.event(Event::RestMicros, micros(rest));
        true
    }

    /// A thread that was not let run for a lease's time has kept guests waiting, or sent them to their
    /// stock path.
    fn note_gap(&self, between: Duration) {
        let beyond = between.saturating_sub(LEASE);
        if !beyond.is_zero() {
            let totals = &self.coop.shared.totals;
            totals.event(Event::Gaps, 1);
            totals.event(Event::GapMicros, micros(beyond));
            totals.event_max(Event::LongestTurn, micros(between));
        }
    }

    fn turn(&self) -> Pass {
        let mut pass = Pass::default();
        for (vcpu, station) in (0..).zip(&self.coop.stations) {
            self.fault.point(self.stop);
            let Some(mut seat) = station.seat.try_lock() else {
                self.coop.shared.totals.event(Event::SeatBusy, 1);
                continue;
            };
            let Some(served) = seat.as_mut() else {
                continue;
            };
            let now = tsc::read();
            if served.is_quiet(&self.coop.shared, now) {
                continue;
            }
            let found = served.poll(&self.coop.shared, now, LEASE);
            drop(seat);
            if found.has_deferred {
                self.coop.leave_calls(vcpu);
            }
            pass.add(found);
        }
        if self.coop.queues.turn() {
            self.coop.shared.totals.event(Event::QueueTurns, 1);
            pass.is_work = true;
        }
        pass
    }

    /// Ends all leases, each with a last look (`[LEASE-4]`), and promises the next ones; gives the
    /// queues back. Here it waits for who serves an area, but by then it serves nobody any more. What is
    /// due is left to [`Poller::raise`].
    fn retire(&self) -> Pass {
        let mut pass = Pass::default();
        for (vcpu, station) in (0..).zip(&self.coop.stations) {
            let mut seat = station.seat.lock();
            let Some(served) = seat.as_mut() else {
                continue;
            };
            served.set_wake_up(self.window.wake_up());
            let found = served.settle(&self.coop.shared);
            station.promise.set(found.next_host_tsc);
            drop(seat);
            if found.has_deferred {
                self.coop.leave_calls(vcpu);
            }
            pass.add(found);
        }
        pass.is_work |= self.coop.queues.hand_back();
        self.coop.queues.stop(self.window.reach());
        self.pulse.stop(pass.next_host_tsc);
        self.coop.is_polling.store(false, Ordering::Relaxed);
        self.has_owed.set(pass.is_raised);
        pass
    }

    /// Raises what the last looks found due; after the timer is set, where this thread goes to sleep.
    /// A vCPU that shares its CPU runs as soon as it is woken, and the looks that were promised must not
    /// wait for that.
    fn raise(&self) {
        if !self.has_owed.take() {
            return;
        }
        for station in &self.coop.stations {
            if let Some(served) = station.seat.lock().as_mut() {
                served.raise_owed(&self.coop.shared);
            }
        }
    }

    /// Sleeps until a doorbell, the first promise of all or the end of the nap; says which it was, and how
    /// long it took.
    fn sleep(&mut self, nap: Option<Duration>) -> (Wake, Duration) {
        let totals = &self.coop.shared.totals;
        totals.event(Event::Sleeps, 1);
        let asleep = Instant::now();
        let before = self.window.is_shown().then(own_cpu);
        let set = self.coop.alarm.set(self.coop.promises(), nap);
        self.raise();
        let Ok(set) = set else {
            // Cannot fail for a valid time; without a timer there is no sleep.
            return (Wake::Deadline, Duration::ZERO);
        };
        // The end of a nap is a promise as well, for whom there is none.
        if let Some(set) = set.filter(|set| set.wake == Wake::Nap) {
            for station in &self.coop.stations {
                if let Some(served) = station.seat.lock().as_mut() {
                    served.arm(set.host_tsc);
                }
            }
        }
        let is_bell = self.sleeper.wait(&self.coop.wake);
        self.fault.point(self.stop);
        let slept = asleep.elapsed();
        if let Some(before) = before {
            self.window.cost(own_cpu().saturating_sub(before));
        }
        let wake = match self.coop.alarm.over() {
            Some((set, late)) if !is_bell => {
                self.window.measured(late);
                set.wake
            }
            _ => {
                if let Some(late) = self.coop.queues.since_rung() {
                    self.window.measured(late);
                }
                Wake::Bell
            }
        };
        match wake {
            Wake::Bell => totals.event(Event::AsyncBell, 1),
            Wake::Deadline => totals.event(Event::TimerWakes, 1),
            Wake::Nap => totals.event(Event::Naps, 1),
        }
        self.was_rung = wake == Wake::Bell;
        self.window.slept(slept, wake);
        (wake, slept)
    }
}

/// CPU time of this thread.
fn own_cpu() -> Duration {
    Duration::from_nanos(cpu_clock::this_thread_ns())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
