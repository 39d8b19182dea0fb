//! Many comparisons at once: what chance alone makes of them.

/// The false discovery rate at which each of these p would be the last one that is believed
/// (Benjamini and Hochberg 1995), in their order. Of all that is claimed at 0.05, 5 % is wrong in
/// the mean, however many comparisons there were.
pub fn false_discovery(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|x, y| p[*x].total_cmp(&p[*y]));
    let mut q = vec![1.0; p.len()];
    let mut least = 1.0f64;
    for (place, index) in order.iter().enumerate().rev() {
        least = least.min(p[*index] * p.len() as f64 / (place + 1) as f64);
        q[*index] = least;
    }
    q
}

/// The largest number of hits that `tries` independent tries of chance `each` stay at or below in
/// at least `confidence` of all cases.
pub fn binomial_limit(tries: usize, each: f64, confidence: f64) -> usize {
    if each <= 0.0 {
        return 0;
    }
    if each >= 1.0 {
        return tries;
    }
    // P(0), then each P(k) from the one before.
    let mut chance = (1.0 - each).powf(tries as f64);
    let mut sum = chance;
    let mut hits = 0;
    while sum < confidence && hits < tries {
        chance *= (tries - hits) as f64 / (hits + 1) as f64 * each / (1.0 - each);
        sum += chance;
        hits += 1;
    }
    hits
}
