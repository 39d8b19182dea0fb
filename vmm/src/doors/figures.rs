//! Figures of one door from the cycles of its blocks: pure arithmetic.

use serde::Serialize;

/// What the guest wrote down about one door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Samples {
    /// Iterations in each block.
    pub iterations: u64,
    /// Cycles of each block.
    pub block_cycles: Vec<u64>,
}

impl Samples {
    /// Median cycles of one iteration: for the empty loop, what is subtracted from the others.
    pub fn median_cycles(&self) -> f64 {
        let sorted = self.sorted();
        quantile(&sorted, 0.5) / iterations(self)
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted: Vec<f64> = self.block_cycles.iter().map(|&n| to_f64(n)).collect();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// Time per operation, over blocks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Time {
    /// The median.
    pub median_ns: f64,
    /// The 99th percentile.
    pub p99_ns: f64,
    /// Iterations in each block.
    pub iterations: u64,
    /// Blocks.
    pub blocks: usize,
}

/// What of an iteration is not the door's.
#[derive(Clone, Copy, Debug)]
pub struct Overhead {
    /// Cycles of an empty iteration, and those that it only waits.
    pub cycles: f64,
    /// Operations in an iteration.
    pub batch: u32,
    /// The guest's TSC frequency.
    pub tsc_khz: u32,
}

/// Time per operation, less the overhead; never below zero. `None` without blocks or frequency.
pub fn time(samples: &Samples, overhead: Overhead) -> Option<Time> {
    let sorted = samples.sorted();
    if sorted.is_empty() || overhead.tsc_khz == 0 {
        return None;
    }
    let ns = |block_cycles: f64| {
        let cycles = (block_cycles / iterations(samples) - overhead.cycles).max(0.0);
        cycles / f64::from(overhead.batch.max(1)) * 1e6 / f64::from(overhead.tsc_khz)
    };
    Some(Time {
        median_ns: ns(quantile(&sorted, 0.5)),
        p99_ns: ns(quantile(&sorted, 0.99)),
        iterations: samples.iterations,
        blocks: sorted.len(),
    })
}

/// The nearest-rank quantile of sorted values; 0 of none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank between 0 and the length"
)]
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (to_f64(sorted.len() as u64) * q).ceil() as usize;
    let index = rank.clamp(1, sorted.len().max(1)) - 1;
    sorted.get(index).copied().unwrap_or(0.0)
}

fn iterations(samples: &Samples) -> f64 {
    to_f64(samples.iterations.max(1))
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
pub(super) fn to_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(iterations: u64, block_cycles: Vec<u64>) -> Samples {
        Samples {
            iterations,
            block_cycles,
        }
    }

    #[test]
    fn the_overhead_is_taken_off_and_the_rest_shared_by_the_batch() {
        let samples = samples(10, (1..=100).map(|n| n * 1000).collect());
        let overhead = Overhead {
            cycles: 20.0,
            batch: 8,
            tsc_khz: 1_000_000,
        };
        let time = time(&samples, overhead).unwrap();
        assert_eq!(time.median_ns, (5000.0 - 20.0) / 8.0);
        assert_eq!(time.p99_ns, (9900.0 - 20.0) / 8.0);
        assert_eq!((time.iterations, time.blocks), (10, 100));
        assert_eq!(samples.median_cycles(), 5000.0);
    }

    #[test]
    fn nothing_gives_no_time_and_noise_none_below_zero() {
        let overhead = Overhead {
            cycles: 50.0,
            batch: 1,
            tsc_khz: 2_000_000,
        };
        assert_eq!(time(&samples(1, vec![]), overhead), None);
        assert_eq!(time(&samples(0, vec![10]), overhead).unwrap().p99_ns, 0.0);
        let unknown = Overhead {
            tsc_khz: 0,
            ..overhead
        };
        assert_eq!(time(&samples(1, vec![10]), unknown), None);
    }
}
