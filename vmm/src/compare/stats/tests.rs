//! The statistics against tables, known distributions and simulated comparisons.

use super::*;

fn close(a: Option<f64>, b: f64) {
    let a = a.unwrap();
    assert!((a - b).abs() < 1e-4, "{a} is not {b}");
}

fn test(a: &[f64], b: &[f64]) -> Option<f64> {
    permutation_test(a, b, 1)
}

/// A number from 0 to below 1.
fn uniform(random: &mut Random) -> f64 {
    random.below(1 << 30) as f64 / f64::from(1 << 30)
}

/// Exits per operation as runs give them: most alike, some disturbed, values rounded so that they tie.
fn skewed(random: &mut Random, n: usize) -> Vec<f64> {
    let value = |random: &mut Random| {
        let base = 5.0 + uniform(random);
        let disturbed = if uniform(random) < 0.1 { 3.0 } else { 0.0 };
        ((base + disturbed) * 200.0).round() / 200.0
    };
    (0..n).map(|_| value(random)).collect()
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
fn the_exact_test_agrees_with_tables() {
    // Complete separation: 2 of C(n+m, n) arrangements.
    close(test(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 2.0 / 20.0);
    close(
        test(&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]),
        2.0 / 70.0,
    );
    let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0]);
    close(test(&a, &b), 2.0 / 252.0);
    close(test(&b, &a), 2.0 / 252.0);
    // U = 2 with 4 and 4: cumulative 1 + 1 + 2 of 70 arrangements on either side.
    close(
        test(&[1.0, 2.0, 3.0, 6.0], &[4.0, 5.0, 7.0, 8.0]),
        8.0 / 70.0,
    );
    close(test(&[1.0], &[1.0]), 1.0);
    assert_eq!(test(&[], &[1.0]), None);
}

#[test]
fn ties_are_exact_too() {
    // Of the 6 ways to choose 2 of (1, 2, 2, 3), the sums 3, 3, 4, 4, 5, 5 against a mean of 4.
    close(test(&[1.0, 2.0], &[2.0, 3.0]), 4.0 / 6.0);
    close(test(&[5.0; 6], &[5.0; 6]), 1.0);
}

#[test]
fn few_runs_cannot_say_much() {
    close(Some(least_p(3, 3)), 0.1);
    close(Some(least_p(4, 4)), 2.0 / 70.0);
    close(Some(least_p(5, 5)), 2.0 / 252.0);
    close(Some(least_p(1, 1)), 1.0);
    assert_eq!(least_p(30, 30), 1e-4);
    close(Some(attainable(5, 5, 0.01)), 2.0 / 252.0);
    // U at most 2 of 25: 1 + 1 + 2 ways on either side.
    close(Some(attainable(5, 5, 0.05)), 8.0 / 252.0);
    assert_eq!(attainable(3, 3, 0.05), 0.0);
}

#[test]
fn many_samples_are_drawn_and_agree_with_the_normal_approximation() {
    let a: Vec<f64> = (0..30).map(f64::from).collect();
    let b: Vec<f64> = (0..30).map(|i| f64::from(i) + 5.5).collect();
    // U = 300 of 900 with standard deviation 67.6: z = 2.21, p = 0.027.
    let p = test(&a, &b).unwrap();
    assert!((0.018..0.036).contains(&p), "{p}");
    assert_eq!(test(&a, &b), Some(p));
    assert!(test(&a, &a).unwrap() > 0.99);
    let far: Vec<f64> = (0..30).map(|i| f64::from(i) + 100.0).collect();
    assert_eq!(test(&a, &far), Some(1e-4));
}

/// [`permutation_test`]: what is claimed at alpha is claimed by chance in alpha of all cases at most.
#[test]
fn of_simulated_comparisons_of_the_same_thing_no_more_differ_than_claimed() {
    const COMPARISONS: usize = 4_000;
    let mut random = Random::new(7);
    for (n, alpha) in [(5, 0.01), (5, 0.05), (8, 0.01), (4, 0.05)] {
        let mut differ = 0;
        let mut missed = 0;
        for _ in 0..COMPARISONS {
            let (a, b) = (skewed(&mut random, n), skewed(&mut random, n));
            differ += usize::from(test(&a, &b).unwrap() < alpha);
            let (low, high) = shift(&a, &b).unwrap().interval.unwrap();
            missed += usize::from(low > 0.0 || high < 0.0);
        }
        let limit = binomial_limit(COMPARISONS, attainable(n, n, alpha), 0.9999);
        assert!(
            differ <= limit,
            "{differ} of {COMPARISONS} at {alpha}, {n} runs"
        );
        // It must not be right by never saying anything either.
        let share = differ as f64 / COMPARISONS as f64;
        assert!(
            share > 0.5 * attainable(n, n, alpha),
            "{share} at {alpha}, {n} runs"
        );
        // The interval leaves out the truth in 5 % of all cases at most.
        let limit = binomial_limit(COMPARISONS, 0.05, 0.9999);
        assert!(missed <= limit, "{missed} of {COMPARISONS}, {n} runs");
    }
    // With three runs nothing can be said, so nothing is.
    let (a, b) = (skewed(&mut random, 3), skewed(&mut random, 3));
    assert_eq!(shift(&a, &b).unwrap().interval, None);
}

#[test]
fn a_true_difference_is_found() {
    let mut random = Random::new(9);
    let found = (0..200).filter(|_| {
        let a = skewed(&mut random, 5);
        let b: Vec<f64> = skewed(&mut random, 5).iter().map(|x| x + 4.5).collect();
        test(&b, &a).unwrap() < 0.01 && shift(&b, &a).unwrap().interval.unwrap().0 > 0.0
    });
    assert!(found.count() > 190);
}

#[test]
fn the_shift_has_the_interval_of_the_test() {
    let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0], [11.0, 12.0, 13.0, 14.0, 16.0]);
    let down = shift(&a, &b).unwrap();
    assert_eq!(down.value, -10.0);
    // Tables: with 5 and 5, U at most 2 is refused, so the third least difference is inside.
    assert_eq!(down.interval, Some((-13.0, -7.0)));
    let up = shift(&b, &a).unwrap();
    assert_eq!((up.value, up.interval), (10.0, Some((7.0, 13.0))));
    assert_eq!(shift(&a[..3], &b[..3]).unwrap().interval, None);
    assert_eq!(shift(&[], &b), None);
    let many: Vec<f64> = (0..30).map(f64::from).collect();
    let (low, high) = shift(&many, &many).unwrap().interval.unwrap();
    assert!(low < -2.0 && low > -8.0 && high == -low, "{low} {high}");
}

#[test]
fn deltas_say_how_often() {
    assert_eq!(cliffs_delta(&[1.0, 2.0], &[3.0]), Some(-1.0));
    assert_eq!(cliffs_delta(&[4.0, 2.0], &[3.0]), Some(0.0));
    assert_eq!(cliffs_delta(&[3.0], &[3.0]), Some(0.0));
    assert_eq!(cliffs_delta(&[], &[3.0]), None);
}

#[test]
fn many_comparisons_are_corrected_as_published() {
    // Benjamini and Hochberg 1995, section 3.1: of fifteen, the first four are believed at 0.05.
    let p = [
        0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262,
        0.5719, 0.6528, 0.7590, 1.0,
    ];
    let q = false_discovery(&p);
    assert_eq!(q.iter().filter(|q| **q <= 0.05).count(), 4);
    close(Some(q[3]), 0.0095 * 15.0 / 4.0);
    assert!(false_discovery(&[]).is_empty());
    assert_eq!(false_discovery(&[0.3, 0.3]), [0.3, 0.3]);
}

#[test]
fn limits_of_chance() {
    // Binomial(240, 2/252): mean 1.9; tables give P(X <= 5) = 0.986, P(X <= 6) = 0.996.
    assert_eq!(binomial_limit(240, 2.0 / 252.0, 0.99), 6);
    assert_eq!(binomial_limit(10, 0.5, 0.99), 9);
    assert_eq!(binomial_limit(10, 0.0, 0.99), 0);
    assert_eq!(binomial_limit(0, 0.1, 0.99), 0);
    assert_eq!(binomial_limit(3, 1.0, 0.99), 3);
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
    assert_eq!(median_interval(&a[..3], 1), None);
    let (low, high) = median_interval(&a, 1).unwrap();
    assert!((10.0..=12.0).contains(&low) && (12.0..=14.0).contains(&high));
}

#[test]
fn shuffles_keep_all_items() {
    let mut items: Vec<u32> = (0..50).collect();
    Random::new(3).shuffle(&mut items);
    assert_ne!(items, (0..50).collect::<Vec<_>>());
    items.sort_unstable();
    assert_eq!(items, (0..50).collect::<Vec<_>>());
}
