//! The guest's periodic tick, found among its deadlines.
//!
//! Linux keeps its tick on a grid: deadlines at the same phase of the same period, for as long as it
//! runs. A guest whose tasks sleep for less than a period publishes other deadlines in between, which
//! hide the tick from a mean of intervals; one that is expected on the grid is met exactly.

/// Deadlines that two equal intervals in a row stand for.
const FIRST: u8 = 8;
/// What a deadline on the grid adds. One that is not takes one: in a guest that mostly sleeps, one in
/// four is a tick.
const ON_GRID: u8 = 4;
const MOST: u8 = 64;
/// What is taken for equal, in parts of the period: a tick's deadline is computed from "now".
const PRECISION: u64 = 1024;

/// What is known of one vCPU's tick. All times are the guest's TSC.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tick {
    /// The last deadline on the grid.
    at_tsc: u64,
    period: u64,
    /// How well it has agreed with the deadlines; zero: there is none.
    agreed: u8,
    /// The last deadline and the interval before it.
    last: (u64, u64),
}

impl Tick {
    /// A deadline is over, however it was served.
    pub(super) fn learn(&mut self, deadline_tsc: u64) {
        let (last_tsc, last_interval) = self.last;
        let interval = deadline_tsc.saturating_sub(last_tsc);
        if interval == 0 {
            return;
        }
        self.last = (deadline_tsc, interval);
        if self.is_on_grid(deadline_tsc) {
            self.at_tsc = deadline_tsc;
            self.agreed = self.agreed.saturating_add(ON_GRID).min(MOST);
            return;
        }
        self.agreed = self.agreed.saturating_sub(1);
        if self.agreed == 0 && interval.abs_diff(last_interval) <= interval / PRECISION {
            (self.at_tsc, self.period, self.agreed) = (deadline_tsc, interval, FIRST);
        }
    }

    fn is_on_grid(&self, deadline_tsc: u64) -> bool {
        if self.agreed == 0 || self.period == 0 || deadline_tsc <= self.at_tsc {
            return false;
        }
        let phase = (deadline_tsc - self.at_tsc) % self.period;
        phase.min(self.period - phase) <= self.period / PRECISION
    }

    /// From when on the next tick behind `now_tsc` may be due, if there is a tick.
    pub(super) fn next(&self, now_tsc: u64) -> Option<u64> {
        if self.agreed == 0 || self.period == 0 {
            return None;
        }
        let periods = now_tsc.saturating_sub(self.at_tsc) / self.period;
        let last_tsc = self
            .at_tsc
            .saturating_add(periods.saturating_mul(self.period));
        Some(last_tsc.saturating_add(self.period - self.period / PRECISION))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(deadlines: impl IntoIterator<Item = u64>) -> Tick {
        let mut tick = Tick::default();
        deadlines.into_iter().for_each(|at| tick.learn(at));
        tick
    }

    #[test]
    fn a_tick_is_known_after_three_and_kept_while_the_guest_sleeps() {
        let mut tick = after([4_000_000, 8_000_003, 12_000_001]);
        let next = tick.next(13_000_000).expect("a tick");
        assert!((15_990_000..16_000_000).contains(&next), "{next}");
        for n in 3..300 {
            let at = n * 4_000_000 + n % 5;
            for sleep in [at + 1_130_000 + n % 700, at + 2_270_000, at + 3_390_000] {
                tick.learn(sleep);
            }
            tick.learn(at + 4_000_000);
        }
        let next = tick.next(1_205_000_000).expect("a tick");
        assert!((1_207_990_000..1_208_000_010).contains(&next), "{next}");
    }

    #[test]
    fn what_has_no_grid_has_no_tick() {
        let tick = after((1..100u64).map(|n| n * n * 10_000));
        assert_eq!(tick.next(1_000_000), None);
        // One that ends is forgotten.
        let steady = (1..50u64).map(|n| n * 4_000_000);
        let wild = (1..100u64).map(|n| 200_000_000 + n * n * 10_007);
        assert_eq!(after(steady.chain(wild)).next(400_000_000), None);
    }

    #[test]
    fn trust_4_no_deadline_makes_it_panic() {
        let values = [0, 1, 2, 3, 1 << 40, u64::MAX - 1, u64::MAX];
        let mut tick = Tick::default();
        for turn in 0..values.len().pow(4) {
            tick.learn(values[turn / 7 % values.len()]);
            let _ = tick.next(values[turn % values.len()]);
        }
    }
}
