//! What measuring itself costs: the same doors, timed by the guest, at each level of measuring.
//!
//! A door is nothing but exits, so this is the worst that measuring can do to a work; a work pays it
//! only at its own exits. Levels take turns in an order of their own in each round, so that a drift of
//! the machine hits all alike, and an overhead is claimed only where it is larger than the noise.

use serde::Serialize;

use super::run::{go, time_of, DoorsError, Options, Pass};
use super::table::{self, Machine as Place};
use crate::code_guest::Tracing;
use crate::compare::stats::{self, Random, Shift};

/// Rounds below this could claim nothing: with 5 against 5 the least p is 0.008.
pub const MIN_ROUNDS: u32 = 5;
/// Of all claims at one level, so many are wrong in the mean.
const RATE: f64 = 0.05;

/// A level of measuring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nobody looks.
    Nothing,
    /// KVM's statistics are read a hundred times a second.
    Statistics,
    /// Tracepoints count every exit by reason and cause, as `compare` and `run --exits` do.
    Tracepoints,
}

impl Level {
    /// All of them, the one that others are held against first.
    pub const ALL: [Level; 3] = [Level::Nothing, Level::Statistics, Level::Tracepoints];

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Level::Nothing => "nothing",
            Level::Statistics => "statistics",
            Level::Tracepoints => "tracepoints",
        }
    }

    fn tracing(self) -> Tracing {
        match self {
            Level::Nothing => Tracing::Off,
            Level::Statistics => Tracing::Statistics,
            Level::Tracepoints => Tracing::On,
        }
    }
}

/// One door at all levels.
#[derive(Clone, Debug, Serialize)]
pub struct LevelRow {
    /// The door.
    pub name: &'static str,
    /// Operations that go through it together.
    pub batch: u32,
    /// Median time per operation of each round, in nanoseconds, at the levels of [`Level::ALL`].
    pub rounds_ns: [Vec<f64>; 3],
    /// What each level beyond the first adds.
    pub costs: [Cost; 2],
}

/// What a level adds to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// In nanoseconds, with its 95 % interval.
    pub shift_ns: Shift,
    /// The same as a share of the time without measuring, in percent.
    pub percent: f64,
    /// Ends of its interval, in percent.
    pub percent_interval: Option<(f64, f64)>,
    /// Two-sided p of the permutation test.
    pub p: f64,
    /// Whether it is larger than the noise.
    pub is_claimed: bool,
}

/// Times every door of the quiet machine `rounds` times at each level.
pub fn run(
    options: &Options,
    rounds: u32,
    seed: u64,
    mut progress: impl FnMut(u32, Level),
) -> Result<Vec<LevelRow>, DoorsError> {
    let doors: Vec<_> = table::on(Place::Quiet)
        .filter(|door| door.index != table::EMPTY.index && door.obstacle().is_none())
        .collect();
    let mut times = vec![<[Vec<f64>; 3]>::default(); doors.len()];
    let mut random = Random::new(seed);
    for round in 1..=rounds {
        let mut order: Vec<usize> = (0..Level::ALL.len()).collect();
        random.shuffle(&mut order);
        for at in order {
            let level = Level::ALL[at];
            progress(round, level);
            let finished = go(options, Place::Quiet, Pass::Time, level.tracing())?;
            if level == Level::Tracepoints {
                finished.must_be_traced()?;
            }
            for (door, times) in doors.iter().zip(&mut times) {
                times[at].extend(time_of(&finished, door)?.map(|time| time.median_ns));
            }
        }
    }
    let mut rows: Vec<LevelRow> = doors
        .iter()
        .zip(times)
        .filter_map(|(door, rounds_ns)| {
            let [nothing, statistics, tracepoints] = &rounds_ns;
            let costs = [
                cost(statistics, nothing, seed)?,
                cost(tracepoints, nothing, seed)?,
            ];
            Some(LevelRow {
                name: door.name,
                batch: door.batch,
                rounds_ns,
                costs,
            })
        })
        .collect();
    settle(&mut rows);
    Ok(rows)
}

fn cost(times: &[f64], nothing: &[f64], seed: u64) -> Option<Cost> {
    let shift_ns = stats::shift(times, nothing)?;
    let base = stats::median(nothing).filter(|base| *base > 0.0)?;
    let percent = |ns: f64| ns / base * 100.0;
    Some(Cost {
        shift_ns,
        percent: percent(shift_ns.value),
        percent_interval: shift_ns
            .interval
            .map(|(low, high)| (percent(low), percent(high))),
        p: stats::permutation_test(times, nothing, seed)?,
        is_claimed: false,
    })
}

/// Decides what is larger than the noise, over all doors of a level together.
fn settle(rows: &mut [LevelRow]) {
    for level in 0..2 {
        let p: Vec<f64> = rows.iter().map(|row| row.costs[level].p).collect();
        for (row, q) in rows.iter_mut().zip(stats::false_discovery(&p)) {
            let cost = &mut row.costs[level];
            let is_apart = |(low, high): (f64, f64)| low > 0.0 || high < 0.0;
            cost.is_claimed = q <= RATE && cost.shift_ns.interval.is_some_and(is_apart);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &'static str, statistics: f64, tracepoints: f64) -> LevelRow {
        let times = |more: f64| {
            (0..5)
                .map(|i| 1000.0 + f64::from(i) + more)
                .collect::<Vec<_>>()
        };
        let nothing = times(0.0);
        let costs = [statistics, tracepoints].map(|more| cost(&times(more), &nothing, 1).unwrap());
        LevelRow {
            name,
            batch: 1,
            rounds_ns: [nothing, times(statistics), times(tracepoints)],
            costs,
        }
    }

    #[test]
    fn only_what_is_larger_than_the_noise_is_claimed() {
        let mut rows = [row("a", 0.0, 100.0), row("b", 0.5, 200.0)];
        settle(&mut rows);
        let [statistics, tracepoints] = rows[0].costs;
        assert!(!statistics.is_claimed && !rows[1].costs[0].is_claimed);
        assert!(tracepoints.is_claimed && rows[1].costs[1].is_claimed);
        assert!(
            (tracepoints.percent - 9.98).abs() < 0.01,
            "{}",
            tracepoints.percent
        );
        let (low, high) = tracepoints.percent_interval.unwrap();
        assert!(low < tracepoints.percent && tracepoints.percent < high);
    }

    #[test]
    fn a_door_without_time_has_no_share() {
        assert_eq!(cost(&[1.0], &[0.0], 1), None);
        assert_eq!(cost(&[], &[1.0], 1), None);
    }
}
