//! Ticks that an idle loop takes by itself, without its host (`[TIMER-2]`).
//!
//! A vCPU that runs when its tick is due has to exit to be interrupted. Two vCPUs that answer each other
//! come into their idle loops all the time, mostly a little after that. So the deadline that such a
//! vCPU publishes for its tick lies behind the tick by a *grace*; if it comes into its idle loop before
//! that, it finds the tick due and calls the handler, without an exit. Else the host raises the
//! interrupt, late by the grace: what a wake-up from a halt was measured to take, or, if that is longer, some
//! times as long as it takes this vCPU to come back into its loop, but a small part of the tick's period at most.
//!
//! [`Grace`] says for one vCPU which deadlines those are; [`Session::set_deadline_by`] publishes them and
//! [`Session::take_due`] finds them due.

use coopvirt_spec::timer::NONE;

use crate::platform::Cpu;
use crate::session::Session;

/// A vCPU has so many times as long as it has lately taken from poll to poll.
const POLLS: u64 = 4;
/// But no more than one part of so many of its tick's period: what a kernel does by the tick may come late by that.
const PART: u64 = 32;

/// Which of one vCPU's deadlines are ticks that it may take itself. All times are steps of the TSC.
#[derive(Clone, Debug, Default)]
pub struct Grace {
    /// The deadline before, and how many polls had found work then.
    last_tsc: u64,
    hits: u64,
}

impl Grace {
    /// Knows nothing: no deadline may be late.
    pub const fn new() -> Self {
        Self {
            last_tsc: NONE,
            hits: 0,
        }
    }

    /// By how much a deadline that is set now may be late.
    ///
    /// It has to be a tick: it follows the one before by the tick's `period`, as near as an exit's time. And the vCPU
    /// has to be in an exchange: `hits`, its polls that found work, have grown since. `wake_up` is what a
    /// wake-up takes.
    pub fn of(&mut self, deadline_tsc: u64, period: u64, hits: u64, times: Times) -> u64 {
        let before = core::mem::replace(&mut self.last_tsc, deadline_tsc);
        let polls = hits.wrapping_sub(core::mem::replace(&mut self.hits, hits));
        let is_tick = before != NONE
            && deadline_tsc
                .checked_sub(before)
                .is_some_and(|interval| interval.abs_diff(period) <= times.exit_tsc);
        match period.checked_div(polls).filter(|_| is_tick) {
            Some(between) => {
                let back = between.saturating_mul(POLLS).min(period / PART);
                // Where a wake-up takes as long as that, no tick is worth the name.
                times.wake_up_tsc.max(back).min(period / 2)
            }
            None => 0,
        }
    }
}

/// What a vCPU has measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// An exit that the host answers at once.
    pub exit_tsc: u64,
    /// From the moment a timer is due until the vCPU has woken up from a halt.
    pub wake_up_tsc: u64,
}

impl<C: Cpu> Session<C> {
    /// When [`Session::take_due`] has something to take; [`u64::MAX`] for never.
    pub const fn own_due_tsc(&self) -> u64 {
        match self.grace_tsc {
            0 => u64::MAX,
            _ => self.deadline_tsc,
        }
    }

    /// Whether the deadline is due and the host was told a later one: then the caller calls the handler of the vector
    /// that this gives, as if the interrupt had come. Only once for each deadline; what the host raises all the same
    /// is one too many, and harmless (`[TIMER-8]`).
    #[must_use = "the handler is to be called"]
    pub fn take_due(&mut self, now_tsc: u64) -> Option<u8> {
        if self.grace_tsc == 0 || now_tsc < self.deadline_tsc {
            return None;
        }
        self.grace_tsc = 0;
        Some(self.options.timer_vector)
    }
}
