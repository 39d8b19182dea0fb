//! When a vCPU polls before it halts, and what it says about it (`[PAGE-5]`).
//!
//! A halt costs two changes of worlds and the time until the vCPU runs again; whoever wakes it pays
//! for an interrupt as well. Polling costs the time polled, and nothing else if work comes meanwhile.
//! [`IdlePolicy`] decides between the two for one vCPU. It is arithmetic over time stamps and has no
//! constant that is a time: everything is in proportion to the halt's cost, which it measures, so that
//! it is the same on a machine whose code runs twenty times slower against its clock.
//!
//! Called by an idle loop with interrupts off: [`IdlePolicy::enter`], then [`IdlePolicy::polled`] or
//! [`IdlePolicy::halted`], by what it has said. One wait for work may take several rounds of this,
//! because interrupts that bring none end a halt too; it polls in the first round only.

use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::mem::{Load, SharedMem};
use coopvirt_spec::page::{at, Idle};
use coopvirt_spec::version::Features;

use crate::platform::Cpu;
use crate::session::Session;

/// No timer is set.
pub const NO_TIMER: u64 = u64::MAX;

/// How far polling reaches at most, in halts' costs: what is waited for longer is not worth it.
const REACH: u64 = 16;
/// How much polling in vain a short wait pays for, in halts' costs: what a halt would have cost the
/// two sides, with some weight on latency.
const GAIN: u64 = 4;
/// How much can be saved up, in halts' costs. After so much vain polling it ends, until work comes
/// soon again.
const SAVINGS: u64 = 64;
/// A wait that was shorter than the window takes one part of so many of the difference: a longer window costs nothing
/// while work comes in time, and what was waited for longest is mostly a tick on the other side. Between two of these
/// lie hundreds of quick answers, thousands on a quick machine.
const FORGETS: u64 = 4096;
/// Contention from which on nothing is polled, in parts per thousand: above what a machine's own
/// housekeeping takes.
const CONTENDED_PERMILLE: u32 = 20;
/// The first guess of a halt's cost, in exits: to the host, its scheduler twice, and back.
const EXITS_PER_HALT: u64 = 4;
/// How many exits it takes to fall asleep: a timer that is due before is not slept for.
const EXITS_TO_SLEEP: u64 = 2;
/// So many halts ended by a timer give the first measured cost: the least of them.
const FIRST_SAMPLES: u32 = 8;
/// So many halts without polling give the polling back to the host. Each change is an exit, so it is
/// taken away again only where both would poll for the same work.
const HALTS_UNTIL_HOST_POLLS: u32 = 64;

/// What the host says that has to do with waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Time that this vCPU lately waited for a CPU of the host, in parts per thousand.
    pub contention_permille: u32,
    /// Requests of this machine that devices have in flight.
    pub io_in_flight: u32,
}

impl Hints {
    /// Whether others want the CPU.
    pub const fn is_contended(self) -> bool {
        self.contention_permille >= CONTENDED_PERMILLE
    }
}

/// How to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Poll until there is work, or the TSC has this value; then ask again.
    Poll {
        /// When to give up.
        until_tsc: u64,
    },
    /// Halt.
    Halt,
}

/// What was done, for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdleCounters {
    /// Waits that began with polling.
    pub polls: u64,
    /// Of these, how many found work.
    pub hits: u64,
    /// Halts.
    pub halts: u64,
    /// Time spent polling: CPU time burnt, in steps of the TSC.
    pub polled_tsc: u64,
    /// Of this, what found no work.
    pub vain_tsc: u64,
    /// Waits that did not poll because others wanted the CPU.
    pub contended: u64,
}

/// What one vCPU has learnt about its waits. All times are steps of the TSC.
#[derive(Clone, Debug)]
pub struct IdlePolicy {
    /// What a halt costs, from the end of what is waited for until this vCPU runs; zero: unknown.
    halt_cost: u64,
    /// The least of the first samples of it, and how many there were.
    first: (u64, u32),
    /// What it takes to fall asleep.
    sleep_cost: u64,
    /// How long to poll.
    window: u64,
    /// How much may still be polled in vain.
    savings: u64,
    /// When the wait under way began.
    since: Option<u64>,
    /// Whether it has polled, and how long in vain.
    has_polled: bool,
    spent: u64,
    /// When the round under way began, and when its timer is due.
    round: (u64, u64),
    /// Halts since this vCPU polled last, and whether the host is to poll after them.
    halts_in_a_row: u32,
    host_polls: bool,
    /// Whether somebody else's work has just ended a long wait, and whether that is taken for the
    /// beginning of an exchange: until it was none, and then until there was one.
    is_fresh: bool,
    trusts_fresh: bool,
    counters: IdleCounters,
}

impl Default for IdlePolicy {
    fn default() -> Self {
        Self::new()
    }
}

impl IdlePolicy {
    /// Knows nothing: halts, until it has seen what that costs.
    pub const fn new() -> Self {
        Self {
            halt_cost: 0,
            first: (u64::MAX, 0),
            sleep_cost: 0,
            window: 0,
            savings: 0,
            since: None,
            has_polled: false,
            spent: 0,
            round: (0, NO_TIMER),
            halts_in_a_row: 0,
            host_polls: false,
            is_fresh: false,
            trusts_fresh: true,
            counters: IdleCounters {
                polls: 0,
                hits: 0,
                halts: 0,
                polled_tsc: 0,
                vain_tsc: 0,
                contended: 0,
            },
        }
    }

    /// Makes a first guess from the measured time of one exit that the host answers at once.
    pub fn guess(&mut self, exit_tsc: u64) {
        self.sleep_cost = exit_tsc.saturating_mul(EXITS_TO_SLEEP);
        if self.halt_cost == 0 {
            self.halt_cost = exit_tsc.saturating_mul(EXITS_PER_HALT);
        }
    }

    /// What was done so far.
    pub const fn counters(&self) -> IdleCounters {
        self.counters
    }

    /// What a halt is taken to cost.
    pub const fn halt_cost_tsc(&self) -> u64 {
        self.halt_cost
    }

    /// What an exit takes that the host answers at once; zero: unknown.
    pub const fn exit_tsc(&self) -> u64 {
        self.sleep_cost / EXITS_TO_SLEEP
    }

    /// How long the next wait may poll, if nothing speaks against it.
    pub fn window_tsc(&self) -> u64 {
        self.window.min(self.savings)
    }

    /// Whether the host should poll after a halt: this vCPU has not done so for long, and has not
    /// polled in vain since.
    pub const fn wants_host_polling(&self) -> bool {
        self.host_polls
    }

    /// There is nothing to do, and the next timer is due at `due_tsc`.
    pub fn enter(&mut self, now_tsc: u64, due_tsc: u64, hints: Hints) -> Plan {
        self.round = (now_tsc, due_tsc);
        if self.since.is_none() {
            self.since = Some(now_tsc);
            self.has_polled = false;
            self.spent = 0;
        }
        if self.has_polled {
            return self.halt();
        }
        // Once per wait, whatever comes of it: this loop must not be a busy one.
        self.has_polled = true;
        if hints.is_contended() {
            self.counters.contended += 1;
            return self.halt();
        }
        let mut length = self.window_tsc();
        if length == 0 && self.is_fresh && self.trusts_fresh {
            // Who gave us work now may answer soon. Paid for by exchanges of before, if there were any.
            self.trusts_fresh = false;
            length = self.halt_cost.min(self.savings);
        }
        if hints.io_in_flight > 0 {
            // Something will come, and a device takes about as long as we do.
            length = length.max(self.halt_cost);
        }
        if due_tsc.saturating_sub(now_tsc) <= self.sleep_cost {
            // Until it is due, and then the interrupt has its way, too.
            length = length.max(self.sleep_cost.saturating_mul(2));
        }
        if length == 0 {
            return self.halt();
        }
        self.counters.polls += 1;
        self.halts_in_a_row = 0;
        Plan::Poll {
            until_tsc: now_tsc.saturating_add(length),
        }
    }

    /// The round that [`Plan::Poll`] began is over.
    pub fn polled(&mut self, now_tsc: u64, has_work: bool) {
        let spent = now_tsc.saturating_sub(self.round.0);
        self.counters.polled_tsc = self.counters.polled_tsc.saturating_add(spent);
        if has_work {
            self.counters.hits += 1;
            self.end(now_tsc);
            return;
        }
        self.counters.vain_tsc = self.counters.vain_tsc.saturating_add(spent);
        // The halt comes next.
        self.host_polls = false;
        // It may take more than there is: the end of a window is noticed a little late.
        self.spent = spent.min(self.savings);
        self.savings -= self.spent;
        self.window -= self.window / 4;
        if self.window < self.halt_cost / 4 {
            self.window = 0;
        }
    }

    /// The round that [`Plan::Halt`] began is over: an interrupt has been handled.
    pub fn halted(&mut self, now_tsc: u64, has_work: bool) {
        let (began, due) = self.round;
        // What the timer has woken shows what a halt costs. One that was due before is no measure.
        if due > began && now_tsc >= due {
            self.learn_cost(now_tsc - due);
        }
        if has_work {
            self.end(now_tsc);
        }
    }

    fn halt(&mut self) -> Plan {
        self.counters.halts += 1;
        self.halts_in_a_row = self.halts_in_a_row.saturating_add(1);
        if self.halts_in_a_row >= HALTS_UNTIL_HOST_POLLS {
            self.host_polls = true;
        }
        Plan::Halt
    }

    /// Follows the lower samples: the higher ones hold what the interrupt's handler did, or another
    /// vCPU on the same CPU, and that polling would not save.
    fn learn_cost(&mut self, sample: u64) {
        let (least, count) = self.first;
        if count < FIRST_SAMPLES {
            self.first = (least.min(sample), count + 1);
            if count + 1 == FIRST_SAMPLES {
                self.halt_cost = self.first.0.max(self.sleep_cost);
            }
            return;
        }
        let cost = self.halt_cost;
        if sample < cost {
            self.halt_cost -= (cost - sample) / 4;
        } else {
            let bounded = sample.min(cost.saturating_mul(2));
            self.halt_cost = cost.saturating_add((bounded - cost) / 64);
        }
    }

    /// The wait has ended with work.
    fn end(&mut self, now_tsc: u64) {
        let Some(since) = self.since.take() else {
            return;
        };
        self.is_fresh = false;
        if now_tsc >= self.round.1 {
            // The timer's doing: it was known to come, polling longer would not have been wiser.
            return;
        }
        let length = now_tsc.saturating_sub(since);
        let reach = self.halt_cost.saturating_mul(REACH);
        if length > reach {
            self.is_fresh = true;
            return;
        }
        self.trusts_fresh = true;
        let gain = self.halt_cost.saturating_mul(GAIN);
        let most = self.halt_cost.saturating_mul(SAVINGS);
        // What was too short a poll for this wait was a good try: it is not charged.
        let paid = gain.saturating_add(self.spent);
        self.savings = self.savings.saturating_add(paid).min(most);
        let wanted = length.saturating_mul(2).min(reach);
        if wanted >= self.window {
            self.window = wanted;
        } else {
            self.window -= (self.window - wanted) / FORGETS;
        }
    }
}

impl<C: Cpu> Session<C> {
    /// Says what this vCPU does, if the host wants to know.
    pub fn say_idle(&mut self, idle: Idle) {
        if let Some((_, mem)) = self.with_feature(Features::IDLE) {
            idle.write(mem);
        }
    }

    /// What the host says; zeros if it says nothing.
    pub fn hints(&mut self) -> Hints {
        let Some((_, mem)) = self.with_feature(Features::HINTS) else {
            return Hints::default();
        };
        // Relaxed: hints, on which nothing depends but which of two correct ways is taken.
        Hints {
            contention_permille: mem.load_u32(at::CONTENTION, Load::Relaxed),
            io_in_flight: mem.load_u32(at::IO_IN_FLIGHT, Load::Relaxed),
        }
    }

    /// Counts a wait that ended without a halt, for the host's report.
    pub fn count_polled(&mut self) {
        self.count(GuestCounter::IdlePolled, 1);
    }

    /// Counts a halt, for the host's report.
    pub fn count_halted(&mut self) {
        self.count(GuestCounter::IdleHalted, 1);
    }
}
