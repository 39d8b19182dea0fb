//! Whether an idle CPU's periodic tick is stopped as soon as it goes idle.
//!
//! A kernel that stops its tick has to set its timer once more, and again when the CPU goes on; so it
//! stops it only when it expects to be idle for longer than a tick's period. With deadlines that are
//! words in shared memory (`[TIMER-2]`) setting them is no exit, but a tick that comes while the CPU is
//! halted still is one, with a halt, a wake-up of the vCPU and a handler that finds nothing to do.
//! [`TickPolicy`] says for one vCPU when that is to be expected. It knows no time but the tick's period.

/// A tick that comes in every so manyth wait costs more than what stopping it each time does.
const TICK_IN_WAITS: u64 = 8;
/// How much a wait weighs that is longer than those before it: one part of so many.
const LONGER: u64 = 8;
/// And a shorter one: many short waits come together, and each would pay.
const SHORTER: u64 = 2;

/// How long one vCPU's waits for work are, against the period of its tick. Both in steps of the TSC.
#[derive(Clone, Debug, Default)]
pub struct TickPolicy {
    mean_wait: u64,
    since: Option<u64>,
}

impl TickPolicy {
    /// Knows nothing: leaves the tick to the kernel.
    pub const fn new() -> Self {
        Self {
            mean_wait: 0,
            since: None,
        }
    }

    /// There is nothing to do.
    pub fn enter(&mut self, now_tsc: u64) {
        self.since.get_or_insert(now_tsc);
    }

    /// A round of waiting is over; a wait without work goes on.
    pub fn left(&mut self, now_tsc: u64, has_work: bool, period: u64) {
        if !has_work {
            return;
        }
        let Some(since) = self.since.take() else {
            return;
        };
        // One long pause is not a habit: none counts for more than a period.
        let wait = now_tsc.saturating_sub(since).min(period);
        let weight = if wait < self.mean_wait {
            SHORTER
        } else {
            LONGER
        };
        self.mean_wait = (self.mean_wait - self.mean_wait / weight).saturating_add(wait / weight);
    }

    /// Whether the next wait is to begin without a tick; `period` is the tick's.
    pub const fn wants_none(&self, period: u64) -> bool {
        self.mean_wait >= period / TICK_IN_WAITS && self.mean_wait > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: u64 = 4_000_000;

    fn after(waits: impl IntoIterator<Item = u64>) -> TickPolicy {
        let mut policy = TickPolicy::new();
        let mut now = 1_000;
        for wait in waits {
            policy.enter(now);
            // An interrupt on the way that brings no work.
            policy.left(now + wait / 2, false, PERIOD);
            policy.enter(now + wait / 2);
            now += wait;
            policy.left(now, true, PERIOD);
            now += 10_000;
        }
        policy
    }

    #[test]
    fn waits_in_which_ticks_come_go_without_and_short_ones_keep_it() {
        assert!(!TickPolicy::new().wants_none(PERIOD));
        assert!(after([PERIOD / 4; 20]).wants_none(PERIOD));
        assert!(after([PERIOD * 50; 3]).wants_none(PERIOD));
        assert!(!after([PERIOD / 100; 1_000]).wants_none(PERIOD));
    }

    #[test]
    fn one_long_pause_among_short_waits_is_soon_forgotten() {
        let waits = |short| {
            [PERIOD * 1_000]
                .into_iter()
                .chain([PERIOD / 100; 20].into_iter().take(short))
        };
        assert!(after(waits(0)).wants_none(PERIOD));
        assert!(!after(waits(1)).wants_none(PERIOD));
        let settled = [PERIOD * 50; 100].into_iter();
        assert!(!after(settled.chain([PERIOD / 100; 10])).wants_none(PERIOD));
    }

    #[test]
    fn no_time_makes_it_panic() {
        let values = [0, 1, PERIOD, u64::MAX / 2, u64::MAX];
        for period in values {
            let mut policy = TickPolicy::new();
            for turn in 0..500 {
                policy.enter(values[turn % 5]);
                policy.left(values[turn / 5 % 5], turn % 3 > 0, period);
                let _ = policy.wants_none(period);
            }
        }
    }
}
