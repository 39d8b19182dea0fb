//! The promise made at a halt: for behind the deadline that the vCPU waits for, or for its tick.
//!
//! A vCPU that its deadline wakes mostly halts again soon, so that a promise need not come due before. One that something
//! else wakes before, a device, goes on with its tick, and takes a stock write for that unless the promise lies before it:
//! one write for each wait, where a promise for the tick costs at most one wake-up for each period.

use super::worth::Kind;
use super::{Prediction, EAGER_WAKE_UPS};

/// Promises lie so many times as far behind the deadline as the guest has halted lately.
const MARGIN: u64 = 2;
/// One halt that comes sooner makes the time expected shorter by one part of so many: what was busy once is soon
/// forgotten, because a promise that lies too far ahead is of no use to a guest.
const DECAY: u64 = 4;

/// What one vCPU's halts have shown. All times are the guest's TSC.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::coop) struct Halts {
    /// The deadline of the halt before, until the vCPU halts behind it.
    deadline_tsc: u64,
    /// From such a deadline to the next halt.
    busy: u64,
}

impl Halts {
    /// The vCPU halts.
    pub(in crate::coop) fn halts(&mut self, now_tsc: u64) {
        if self.deadline_tsc == 0 || self.deadline_tsc > now_tsc {
            return;
        }
        let busy = now_tsc - std::mem::take(&mut self.deadline_tsc);
        if busy > self.busy {
            self.busy = busy;
        } else {
            self.busy -= (self.busy - busy) / DECAY;
        }
    }

    /// It waits until this deadline.
    pub(in crate::coop) fn waits(&mut self, deadline_tsc: u64) {
        self.deadline_tsc = deadline_tsc;
    }

    /// How long behind a deadline it will most likely have halted again.
    pub(super) fn margin(self) -> u64 {
        self.busy.saturating_mul(MARGIN)
    }
}

impl Prediction {
    /// For when to promise a look at a halt that ends at `deadline_tsc`, if nothing ends it before: when the guest should
    /// have halted again, but before the deadline that is to be expected next. It most likely halts before, and then
    /// nobody wakes up for it.
    pub(in crate::coop) fn at_halt(
        &mut self,
        halts: Halts,
        now_tsc: u64,
        deadline_tsc: u64,
        wake_up: u64,
    ) -> u64 {
        self.promises = self.promises.saturating_add(1);
        let least = wake_up.saturating_mul(EAGER_WAKE_UPS);
        // However late a thread wakes up here: what it looks for must not be over by then.
        let most = if self.mean == 0 { least } else { self.mean / 2 };
        let after = halts.margin().max(least).min(most).max(1);
        let at_tsc = deadline_tsc.saturating_add(after);
        // A guest that wakes up publishes its tick first.
        let behind_tsc = self
            .tick
            .next(deadline_tsc.saturating_add(least.min(after)))
            .map_or(at_tsc, |tick_tsc| at_tsc.min(tick_tsc));
        let tick_tsc = self.tick.next(now_tsc.saturating_add(wake_up));
        let tick_tsc = tick_tsc.filter(|tick_tsc| *tick_tsc < deadline_tsc);
        match tick_tsc {
            Some(tick_tsc) if self.worth.tries(Kind::Woken, tick_tsc, behind_tsc) => {
                self.tick.promised();
                tick_tsc
            }
            _ => behind_tsc,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halt_3_a_guest_that_halts_soon_again_is_given_little_time_and_a_busy_one_more() {
        let mut halts = Halts::default();
        let mut now = 1_000_000;
        let mut run = |halts: &mut Halts, busy: u64, times: u32| {
            for _ in 0..times {
                halts.waits(now + 1_000);
                // Woken before its deadline by somebody else: that is no measure.
                halts.halts(now + 500);
                now += 1_000 + busy;
                halts.halts(now);
                halts.halts(now + 1);
            }
            halts.margin()
        };
        assert_eq!(run(&mut halts, 40, 1), 80);
        assert_eq!(run(&mut halts, 300, 1), 600);
        let later = run(&mut halts, 40, 20);
        assert!((80..120).contains(&later), "{later}");
    }
}
