//! How large a difference is: the shift between two samples with its interval, and how often one
//! lies above the other.

use serde::Serialize;

use super::median;
use super::permutation::ways;

/// Above this many samples in all, the interval's rank comes from the normal approximation.
const MAX_EXACT: usize = 40;
/// Chance that is left out on either side.
const TAIL: f64 = 0.025;

/// By how much one sample lies above another (Hodges and Lehmann 1963).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Shift {
    /// Median of all differences between a value of the one and a value of the other.
    pub value: f64,
    /// The shifts that the permutation test at 5 % does not refuse: covers the true one in 95 of 100
    /// cases at least. `None` where so few runs refuse nothing (3 against 3).
    pub interval: Option<(f64, f64)>,
}

/// The shift from `b` to `a`; `None` without samples on both sides.
pub fn shift(a: &[f64], b: &[f64]) -> Option<Shift> {
    let mut differences: Vec<f64> = a
        .iter()
        .flat_map(|x| b.iter().map(move |y| x - y))
        .collect();
    let value = median(&differences)?;
    differences.sort_by(f64::total_cmp);
    let interval = first_inside(a.len(), b.len()).and_then(|k| {
        Some((
            *differences.get(k - 1)?,
            *differences.get(differences.len() - k)?,
        ))
    });
    Some(Shift { value, interval })
}

/// The number k of the least difference that is inside: the rank sum lies below its k-th value from
/// the bottom with a chance of at most [`TAIL`].
fn first_inside(n_a: usize, n_b: usize) -> Option<usize> {
    let n = n_a + n_b;
    if n > MAX_EXACT {
        let (a, b) = (n_a as f64, n_b as f64);
        let deviation = (a * b * (a + b + 1.0) / 12.0).sqrt();
        let limit = a * b / 2.0 - 1.96 * deviation;
        return (1..=n_a * n_b / 2).rev().find(|k| *k as f64 <= limit);
    }
    let ranks: Vec<usize> = (1..=n).collect();
    let ways = ways(&ranks, n_a);
    let all: f64 = ways.iter().sum();
    // The least rank sum is 1 + 2 + ... + n_a, that of U = 0.
    let least = n_a * (n_a + 1) / 2;
    let mut below = 0.0;
    for (u, count) in ways.get(least..)?.iter().enumerate() {
        below += count / all;
        if below > TAIL {
            return (u > 0).then_some(u);
        }
    }
    None
}

/// Cliff's delta: how much more often a value of `a` lies above one of `b` than below; from -1
/// (always below) to 1.
pub fn cliffs_delta(a: &[f64], b: &[f64]) -> Option<f64> {
    let pairs = a.iter().flat_map(|x| b.iter().map(move |y| x.total_cmp(y)));
    let (mut sum, mut count) = (0i64, 0i64);
    for order in pairs {
        sum += order as i64;
        count += 1;
    }
    (count > 0).then(|| sum as f64 / count as f64)
}
