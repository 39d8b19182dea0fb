//! The few statistics that a comparison needs: medians, a bootstrap interval, a rank test.
//!
//! Samples are few (5 to 20 runs), skewed and tied, so nothing here assumes a distribution. All
//! results are reproducible: the bootstrap draws from a seeded generator. Pure; called by
//! [`super::summary`] and, for the order of runs, by [`super::plan`].

use serde::Serialize;

/// Fewer samples than this on either side get no interval: it would look better than it is.
const MIN_FOR_INTERVAL: usize = 4;
const BOOTSTRAP_ROUNDS: usize = 4000;
/// Up to this many samples in all, the rank test counts every arrangement.
const MAX_EXACT: usize = 40;

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

fn bootstrap(samples: &[f64], reference: &[f64], seed: u64) -> Option<(f64, f64)> {
    let mut random = Random::new(seed);
    let mut ratios = Vec::with_capacity(BOOTSTRAP_ROUNDS);
    for _ in 0..BOOTSTRAP_ROUNDS {
        let a = median(&random.resample(samples))?;
        let b = median(&random.resample(reference))?;
        // A resample whose reference is zero has no ratio; it belongs at the upper end.
        ratios.push(quotient(a, b).unwrap_or(f64::INFINITY));
    }
    ratios.sort_by(f64::total_cmp);
    let at = |per_mille: usize| ratios.get(BOOTSTRAP_ROUNDS * per_mille / 1000).copied();
    Some((at(25)?, at(975)?))
}

/// Two-sided p of the Mann-Whitney rank test; exact (with ties) for few samples.
pub fn rank_test(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let (doubled_ranks, ties) = doubled_mid_ranks(a, b);
    let sum: usize = doubled_ranks[..a.len()].iter().sum();
    match a.len() + b.len() <= MAX_EXACT {
        true => Some(exact_p(&doubled_ranks, a.len(), sum)),
        false => Some(normal_p(a.len(), b.len(), sum, ties)),
    }
}

/// Ranks of `a` and then `b` in the pooled samples, doubled so that mid-ranks are whole numbers;
/// and the sum of t^3 - t over groups of ties.
fn doubled_mid_ranks(a: &[f64], b: &[f64]) -> (Vec<usize>, f64) {
    let pooled: Vec<f64> = a.iter().chain(b).copied().collect();
    let mut order: Vec<usize> = (0..pooled.len()).collect();
    order.sort_by(|x, y| pooled[*x].total_cmp(&pooled[*y]));
    let mut ranks = vec![0; pooled.len()];
    let mut ties = 0.0;
    let mut start = 0;
    while start < order.len() {
        let value = pooled[order[start]];
        let len = order[start..]
            .iter()
            .take_while(|i| pooled[**i] == value)
            .count()
            .max(1);
        // Ranks start+1 ..= start+len have the mean (2 start + len + 1) / 2.
        for index in &order[start..start + len] {
            ranks[*index] = 2 * start + len + 1;
        }
        ties += (len * len * len - len) as f64;
        start += len;
    }
    (ranks, ties)
}

/// Share of all ways to choose `n` of the ranks whose sum is at least as far from the mean.
fn exact_p(ranks: &[usize], n: usize, observed: usize) -> f64 {
    let total: usize = ranks.iter().sum();
    // ways[k][s]: how many choices of k ranks have the sum s.
    let mut ways = vec![vec![0.0f64; total + 1]; n + 1];
    ways[0][0] = 1.0;
    for rank in ranks {
        for k in (1..=n).rev() {
            let (fewer, this) = ways.split_at_mut(k);
            for sum in (*rank..=total).rev() {
                this[0][sum] += fewer[k - 1][sum - rank];
            }
        }
    }
    // Mean of the sum is total * n / len; compared without division.
    let distance = |sum: usize| (sum * ranks.len()).abs_diff(total * n);
    let all: f64 = ways[n].iter().sum();
    let extreme: f64 = (0..=total)
        .filter(|sum| distance(*sum) >= distance(observed))
        .map(|sum| ways[n][sum])
        .sum();
    (extreme / all).min(1.0)
}

/// Normal approximation with corrections for ties and continuity.
fn normal_p(n_a: usize, n_b: usize, doubled_sum: usize, ties: f64) -> f64 {
    let (a, b) = (n_a as f64, n_b as f64);
    let n = a + b;
    let u = doubled_sum as f64 / 2.0 - a * (a + 1.0) / 2.0;
    let variance = a * b / 12.0 * (n + 1.0 - ties / (n * (n - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    let z = ((u - a * b / 2.0).abs() - 0.5).max(0.0) / variance.sqrt();
    erfc(z / std::f64::consts::SQRT_2).clamp(0.0, 1.0)
}

/// Complementary error function for x >= 0 (Abramowitz and Stegun 7.1.26, error below 1.5e-7).
fn erfc(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let poly = [
        1.061_405_429,
        -1.453_152_027,
        1.421_413_741,
        -0.284_496_736,
        0.254_829_592,
    ]
    .into_iter()
    .fold(0.0, |sum, coefficient| (sum + coefficient) * t);
    poly * (-x * x).exp()
}

/// A small seeded generator (SplitMix64): good enough to shuffle and to resample.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which must not be zero.
    fn below(&mut self, limit: usize) -> usize {
        let wide = u128::from(self.next()) * limit as u128;
        usize::try_from(wide >> 64).expect("less than limit, which is a usize")
    }

    /// Puts the items in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    fn resample(&mut self, samples: &[f64]) -> Vec<f64> {
        samples
            .iter()
            .map(|_| samples[self.below(samples.len())])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: Option<f64>, b: f64) {
        let a = a.unwrap();
        assert!((a - b).abs() < 1e-4, "{a} is not {b}");
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        let spread = Spread {
            median: 2.0,
            min: 1.0,
            max: 9.0,
        };
        assert_eq!(Spread::of(&[9.0, 1.0, 2.0]), Some(spread));
    }

    #[test]
    fn exact_rank_test_agrees_with_tables() {
        // Complete separation: 2 of C(n+m, n) arrangements.
        close(rank_test(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 2.0 / 20.0);
        close(
            rank_test(&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]),
            2.0 / 70.0,
        );
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0]);
        close(rank_test(&a, &b), 2.0 / 252.0);
        close(rank_test(&b, &a), 2.0 / 252.0);
        // U = 2 with 4 and 4: cumulative 1 + 1 + 2 of 70 arrangements on either side.
        close(
            rank_test(&[1.0, 2.0, 3.0, 6.0], &[4.0, 5.0, 7.0, 8.0]),
            8.0 / 70.0,
        );
        close(rank_test(&[1.0], &[1.0]), 1.0);
        assert_eq!(rank_test(&[], &[1.0]), None);
    }

    #[test]
    fn ties_are_exact_too() {
        // Of the 6 ways to choose 2 of (1, 2, 2, 3), the sums 3, 3, 4, 4, 5, 5 against a mean of 4.
        close(rank_test(&[1.0, 2.0], &[2.0, 3.0]), 4.0 / 6.0);
        close(rank_test(&[5.0; 6], &[5.0; 6]), 1.0);
    }

    #[test]
    fn many_samples_use_the_normal_approximation() {
        let a: Vec<f64> = (0..30).map(f64::from).collect();
        let b: Vec<f64> = (0..30).map(|i| f64::from(i) + 10.5).collect();
        // U = 200 of 900 with standard deviation 67.6: z = 3.69.
        let p = rank_test(&a, &b).unwrap();
        assert!((1e-4..4e-4).contains(&p), "{p}");
        assert!(rank_test(&a, &a).unwrap() > 0.99);
        close(Some(erfc(0.0)), 1.0);
        close(Some(erfc(1.959_964 / std::f64::consts::SQRT_2)), 0.05);
    }

    #[test]
    fn intervals_need_four_samples_hold_the_ratio_and_repeat() {
        assert_eq!(ratio(&[2.0; 3], &[1.0; 9], 1).unwrap().interval, None);
        assert_eq!(ratio(&[2.0; 3], &[0.0; 3], 1), None);
        let (a, b) = (
            [10.0, 11.0, 12.0, 13.0, 14.0],
            [20.0, 21.0, 22.0, 23.0, 26.0],
        );
        let first = ratio(&a, &b, 7).unwrap();
        assert!((first.value - 12.0 / 22.0).abs() < 1e-9);
        let (low, high) = first.interval.unwrap();
        assert!(low < first.value && first.value < high, "{low} {high}");
        assert!(low >= 10.0 / 26.0 && high <= 14.0 / 20.0);
        assert_eq!(ratio(&a, &b, 7), Some(first));
        let same = ratio(&[5.0; 4], &[5.0; 4], 1).unwrap();
        assert_eq!(same.interval, Some((1.0, 1.0)));
    }

    #[test]
    fn shuffles_keep_all_items() {
        let mut items: Vec<u32> = (0..50).collect();
        Random::new(3).shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
