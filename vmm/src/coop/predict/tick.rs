//! The guest's periodic tick, found among its deadlines.
//!
//! Linux keeps its tick on a grid: deadlines at the same phase of the same period, for as long as it
//! runs. A guest whose tasks sleep for less than a period publishes other deadlines in between, which
//! hide the tick from a mean of intervals; one that is expected on the grid is met exactly.
//!
//! A guest may also stop its tick in each wait: then it is published whenever the CPU goes on, and replaced
//! before it is due. No deadline shows it any more; but a grid that was established is remembered, and a
//! replaced stock write at the time of such a tick brings it back, and so does a deadline on it where no other tick is known.

/// Deadlines that two equal intervals in a row stand for.
const FIRST: u8 = 8;
/// What a deadline on the grid adds. One that is not takes one: in a guest that mostly sleeps, one in
/// four is a tick.
const ON_GRID: u8 = 4;
const MOST: u8 = 64;
/// What is taken for equal, in parts of the period: a tick's deadline is computed from "now".
const PRECISION: u64 = 1024;
/// Deadlines on one grid after which it is remembered when it goes out of sight.
const ESTABLISHED: u16 = 64;
/// Over how many periods at least one is measured, and at most: a clock that is slewed changes it.
const FEWEST: u64 = 16;
const LONGEST: u64 = 4096;

/// Deadlines at the same phase of the same period. All times are the guest's TSC.
#[derive(Clone, Copy, Debug, Default)]
struct Grid {
    /// The last deadline on it.
    at_tsc: u64,
    /// Zero: there is none.
    period: u64,
    /// From where on the period is measured, and over how many so far.
    from_tsc: u64,
    periods: u64,
}

impl Grid {
    /// Whether a deadline is on it; the grid then goes on from there.
    fn meets(&mut self, deadline_tsc: u64) -> bool {
        if self.period == 0 || deadline_tsc <= self.at_tsc {
            return false;
        }
        let elapsed = deadline_tsc - self.at_tsc;
        let (periods, phase) = (elapsed / self.period, elapsed % self.period);
        let is_before = phase > self.period / 2;
        let error = match is_before {
            true => self.period - phase,
            false => phase,
        };
        if error > self.period / PRECISION {
            return false;
        }
        let periods = periods.saturating_add(u64::from(is_before));
        self.periods = self.periods.saturating_add(periods);
        if self.periods >= FEWEST {
            let measured = deadline_tsc.saturating_sub(self.from_tsc) / self.periods;
            self.period = measured.max(1);
        }
        if self.periods >= LONGEST {
            (self.from_tsc, self.periods) = (deadline_tsc, 0);
        }
        self.at_tsc = deadline_tsc;
        true
    }

    /// From when on its next deadline behind `now_tsc` may be due.
    fn next(&self, now_tsc: u64) -> Option<u64> {
        let elapsed = now_tsc.saturating_sub(self.at_tsc);
        let periods = elapsed.checked_div(self.period)?;
        let last_tsc = self
            .at_tsc
            .saturating_add(periods.saturating_mul(self.period));
        Some(last_tsc.saturating_add(self.period - self.period / PRECISION))
    }
}

/// What is known of one vCPU's tick.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tick {
    grid: Grid,
    /// How well it has agreed with the deadlines; zero: there is none.
    agreed: u8,
    /// How many deadlines were on it.
    met: u16,
    /// Whether it is expected although no deadline shows it.
    is_hidden: bool,
    /// The last grid that was established. Linux keeps its phase also while the tick is stopped.
    established: Grid,
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
        let is_back = self.established.meets(deadline_tsc);
        if self.is_known() && self.grid.meets(deadline_tsc) {
            self.agreed = self.agreed.saturating_add(ON_GRID).min(MOST);
            self.met = self.met.saturating_add(1);
            self.is_hidden = false;
            if self.met >= ESTABLISHED {
                self.established = self.grid;
            }
            return;
        }
        if !self.is_hidden {
            self.agreed = self.agreed.saturating_sub(1);
        }
        if self.agreed == 0 && is_back {
            self.begin(self.established);
        } else if self.agreed == 0 && interval.abs_diff(last_interval) <= interval / PRECISION {
            self.begin(Grid {
                at_tsc: deadline_tsc,
                period: interval,
                from_tsc: deadline_tsc,
                periods: 0,
            });
        }
    }

    /// The guest has made a stock write between these two times, for a deadline that it then replaced:
    /// if an established tick lay there, it was that, and is there again for some promises.
    pub(super) fn replaced(&mut self, since_tsc: u64, now_tsc: u64) {
        let is_there = self.established.next(since_tsc);
        if is_there.is_some_and(|at_tsc| at_tsc <= now_tsc) {
            self.begin(self.established);
            self.is_hidden = true;
        }
    }

    /// A look is promised for it.
    pub(super) fn promised(&mut self) {
        if self.is_hidden {
            self.agreed = self.agreed.saturating_sub(1);
        }
    }

    fn begin(&mut self, grid: Grid) {
        (self.grid, self.agreed, self.met) = (grid, FIRST, 0);
        self.is_hidden = false;
    }

    /// Whether there is one.
    pub(super) fn is_known(&self) -> bool {
        self.agreed > 0
    }

    /// From when on the next tick behind `now_tsc` may be due, if there is a tick.
    pub(super) fn next(&self, now_tsc: u64) -> Option<u64> {
        match self.is_known() {
            true => self.grid.next(now_tsc),
            false => None,
        }
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
    fn a_tick_out_of_sight_is_found_again_by_one_stock_write() {
        let ticks = (1..200u64).map(|n| n * 4_000_000 + n % 7);
        let sleeps = (0..2_000u64).map(|n| 796_500_000 + n * 1_100_000 + n * n % 9_001);
        let mut tick = after(ticks.chain(sleeps));
        let now = 796_500_000 + 2_000 * 1_100_000;
        // No tick lies between these two.
        tick.replaced(now + 10_000, now + 20_000);
        assert!(!tick.is_known() || tick.grid.period < 2_000_000);
        let next = now.next_multiple_of(4_000_000);
        tick.replaced(now, next + 50_000);
        let found = tick.next(next + 50_000).expect("a tick");
        let expected = next + 4_000_000;
        assert!((expected - 12_000..expected).contains(&found), "{found}");
    }

    #[test]
    fn an_established_tick_that_was_stopped_for_long_is_back_with_its_first_deadline() {
        let ticks = (1..200u64).map(|n| n * 4_000_000 + n % 7);
        // As of a guest that is idle: nothing comes twice after the same time, and off the grid.
        let rare =
            (1..80u64).map(|n| 800_000_000 + n * (n + 1) * 6_000_000 + 1_300_000 + n * 10_007);
        let idle_until = 800_000_000 + 80 * 81 * 6_000_000_u64;
        let mut tick = after(ticks.chain(rare));
        assert!(!tick.is_known());
        let at = (idle_until + 100_000_000).next_multiple_of(4_000_000);
        tick.learn(at - 1_234_567);
        assert!(!tick.is_known());
        tick.learn(at);
        let found = tick.next(at + 50_000).expect("a tick");
        let expected = at + 4_000_000;
        assert!((expected - 12_000..=expected).contains(&found), "{found}");
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
            tick.replaced(
                values[turn / 5 % values.len()],
                values[turn / 3 % values.len()],
            );
            let _ = tick.next(values[turn % values.len()]);
        }
    }
}
