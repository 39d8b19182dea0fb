//! The permutation test: how many of all ways to deal the runs out to two arms look as different.
//!
//! The statistic is the rank sum. Of the statistics that a permutation test can have it suits these
//! samples best: a difference of means loses its power to one disturbed run, a difference of medians
//! takes few values with five runs, and the rank sum's distribution can be counted exactly, ties and
//! all (it is then the exact Mann-Whitney test). It is also the one that belongs to the interval of
//! [`super::shift`]. Up to [`MAX_EXACT`] samples every arrangement is counted; above, [`ROUNDS`] of
//! them are drawn.

use super::random::Random;

/// Up to this many samples in all, every arrangement is counted.
const MAX_EXACT: usize = 40;
/// Arrangements that are drawn of more samples; the observed one counts as one of them, so that p is
/// never too small (Phipson and Smyth 2010).
const ROUNDS: u32 = 9_999;

/// Two-sided p; `None` without samples on both sides.
pub fn permutation_test(a: &[f64], b: &[f64], seed: u64) -> Option<f64> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let ranks = doubled_mid_ranks(a, b);
    Some(match ranks.len() <= MAX_EXACT {
        true => exact(&ranks, a.len()),
        false => sampled(ranks, a.len(), seed),
    })
}

/// The smallest p that so many runs against so many can give: with 3 against 3 it is 0.1, whatever
/// they say.
pub fn least_p(n_a: usize, n_b: usize) -> f64 {
    let n = n_a + n_b;
    // Sums of many samples are drawn, so no p is below one in all rounds.
    let drawn = match n <= MAX_EXACT {
        true => 0.0,
        false => 1.0 / f64::from(ROUNDS + 1),
    };
    // C(n, n_a), factor by factor: whole numbers all the way.
    let ways = (1..=n_a).fold(1.0, |ways, k| ways * (n_b + k) as f64 / k as f64);
    (2.0 / ways).min(1.0).max(drawn)
}

/// The share of cases in which the test says p < `alpha` although nothing differs, for samples
/// without ties: at most `alpha`, and less where p takes few values (5 against 5 and 0.01: 0.0079).
pub fn attainable(n_a: usize, n_b: usize, alpha: f64) -> f64 {
    if n_a + n_b > MAX_EXACT {
        return alpha;
    }
    let ranks: Vec<usize> = (1..=n_a + n_b).map(|rank| 2 * rank).collect();
    let ways = ways(&ranks, n_a);
    let all: f64 = ways.iter().sum();
    let tail = Tail::new(&ranks, n_a, &ways);
    (0..ways.len())
        .filter(|sum| ways[*sum] > 0.0 && tail.p(*sum) < alpha)
        .map(|sum| ways[sum] / all)
        .sum()
}

/// Ranks of `a` and then `b` in the pooled samples, doubled so that mid-ranks are whole numbers.
fn doubled_mid_ranks(a: &[f64], b: &[f64]) -> Vec<usize> {
    let pooled: Vec<f64> = a.iter().chain(b).copied().collect();
    let mut order: Vec<usize> = (0..pooled.len()).collect();
    order.sort_by(|x, y| pooled[*x].total_cmp(&pooled[*y]));
    let mut ranks = vec![0; pooled.len()];
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
        start += len;
    }
    ranks
}

fn exact(ranks: &[usize], n: usize) -> f64 {
    let observed = ranks[..n].iter().sum();
    let ways = ways(ranks, n);
    Tail::new(ranks, n, &ways).p(observed)
}

/// How many choices of `n` of the ranks have each sum.
pub(super) fn ways(ranks: &[usize], n: usize) -> Vec<f64> {
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
    ways.swap_remove(n)
}

/// How far sums are from their mean, compared without division: the mean is total * n / len.
struct Tail {
    /// Ways by distance, most distant last, and how many there are at least so far.
    at_least: std::collections::BTreeMap<usize, f64>,
    all: f64,
    total: usize,
    n: usize,
    len: usize,
}

impl Tail {
    fn new(ranks: &[usize], n: usize, ways: &[f64]) -> Self {
        let mut tail = Self {
            at_least: Default::default(),
            all: ways.iter().sum(),
            total: ranks.iter().sum(),
            n,
            len: ranks.len(),
        };
        for (sum, count) in ways.iter().enumerate().filter(|(_, count)| **count > 0.0) {
            *tail.at_least.entry(tail.distance(sum)).or_default() += count;
        }
        let mut farther = 0.0;
        for count in tail.at_least.values_mut().rev() {
            farther += *count;
            *count = farther;
        }
        tail
    }

    fn distance(&self, sum: usize) -> usize {
        (sum * self.len).abs_diff(self.total * self.n)
    }

    /// Share of all arrangements whose sum is at least as far from the mean.
    fn p(&self, sum: usize) -> f64 {
        let ways = self.at_least.get(&self.distance(sum)).copied();
        (ways.unwrap_or(0.0) / self.all).min(1.0)
    }
}

fn sampled(mut ranks: Vec<usize>, n: usize, seed: u64) -> f64 {
    let (total, len) = (ranks.iter().sum::<usize>(), ranks.len());
    let distance = |sum: usize| (sum * len).abs_diff(total * n);
    let observed = distance(ranks[..n].iter().sum());
    let mut random = Random::new(seed);
    let as_far = (0..ROUNDS)
        .filter(|_| {
            random.shuffle(&mut ranks);
            distance(ranks[..n].iter().sum()) >= observed
        })
        .count();
    (as_far + 1) as f64 / f64::from(ROUNDS + 1)
}
