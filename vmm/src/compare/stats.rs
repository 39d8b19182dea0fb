//! The few statistics that a comparison needs: medians with bootstrap intervals, a permutation
//! test, the size of a difference, and honesty about many comparisons at once.
//!
//! Samples are few (3 to 20 runs), skewed and tied, so nothing here assumes a distribution. All
//! results are reproducible: what is drawn at random is drawn from a seeded generator. Pure; called
//! by [`super::summary`], [`super::claims`], [`super::aa`] and, for the order of runs, by
//! [`super::plan`].

mod many;
mod permutation;
mod random;
mod shift;

pub use many::{binomial_limit, false_discovery};
pub use permutation::{attainable, least_p, permutation_test};
pub use random::Random;
pub use shift::{cliffs_delta, shift, Shift};

use serde::Serialize;

/// Fewer samples than this on either side get no interval: it would look better than it is.
const MIN_FOR_INTERVAL: usize = 4;
const BOOTSTRAP_ROUNDS: usize = 4000;

/// Median, least and greatest of some samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Median; of an even number, the mean of the two in the middle.
    pub median: f64,
    /// Least.
    pub min: f64,
    /// Greatest.
    pub max: f64,
}

impl Spread {
    /// Of at least one sample.
    pub fn of(samples: &[f64]) -> Option<Spread> {
        let sorted = sorted(samples);
        Some(Spread {
            median: median_of_sorted(&sorted)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
        })
    }
}

/// The median, if there is a sample.
pub fn median(samples: &[f64]) -> Option<f64> {
    median_of_sorted(&sorted(samples))
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median_of_sorted(sorted: &[f64]) -> Option<f64> {
    let upper = sorted.get(sorted.len() / 2)?;
    match sorted.len() % 2 {
        1 => Some(*upper),
        _ => Some((sorted.get(sorted.len() / 2 - 1)? + upper) / 2.0),
    }
}

/// Ratio of two medians.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// Median of the samples over median of the reference.
    pub value: f64,
    /// 95 % bootstrap percentile interval, where there are enough samples for one.
    pub interval: Option<(f64, f64)>,
}

/// The ratio of the medians; `None` where the reference's median is zero or a side is empty.
pub fn ratio(samples: &[f64], reference: &[f64], seed: u64) -> Option<Ratio> {
    let value = quotient(median(samples)?, median(reference)?)?;
    let interval = match samples.len().min(reference.len()) >= MIN_FOR_INTERVAL {
        true => bootstrap(samples, reference, seed),
        false => None,
    };
    Some(Ratio { value, interval })
}

fn quotient(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
}

/// The 95 % bootstrap percentile interval of the median, from four samples on. With so few it covers
/// a little less than it says (four: 88 %, ten: 95 %), which is why no difference is claimed by it.
pub fn median_interval(samples: &[f64], seed: u64) -> Option<(f64, f64)> {
    if samples.len() < MIN_FOR_INTERVAL {
        return None;
    }
    let mut random = Random::new(seed);
    let medians = (0..BOOTSTRAP_ROUNDS).map(|_| median(&random.resample(samples)));
    percentiles(medians.collect::<Option<Vec<f64>>>()?)
}

fn bootstrap(samples: &[f64], reference: &[f64], seed: u64) -> Option<(f64, f64)> {
    let mut random = Random::new(seed);
    let mut ratios = Vec::with_capacity(BOOTSTRAP_ROUNDS);
    for _ in 0..BOOTSTRAP_ROUNDS {
        let a = median(&random.resample(samples))?;
        let b = median(&random.resample(reference))?;
        // A resample whose reference is zero has no ratio; it belongs at the upper end.
        ratios.push(quotient(a, b).unwrap_or(f64::INFINITY));
    }
    percentiles(ratios)
}

fn percentiles(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let at = |per_mille: usize| values.get(values.len() * per_mille / 1000).copied();
    Some((at(25)?, at(975)?))
}

#[cfg(test)]
mod tests;
