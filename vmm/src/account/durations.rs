//! How long exits took, in buckets of powers of two.
//!
//! From `kvm_exit` to the `kvm_entry` that follows on the same vCPU, so a halt counts with the time
//! that the guest slept, and an exit to userspace with the VMM's work. Both times are the
//! tracepoints' own: what the CPU takes to leave and enter the guest is not in them. The aggregator
//! fills these, reports read them.

use serde::{Deserialize, Serialize};

/// Buckets: the last holds everything from 2^39 ns (nine minutes) on.
pub const BUCKETS: usize = 40;

/// Durations of exits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durations {
    /// Bucket i counts durations of 2^i ns and more, but less than 2^(i+1); bucket 0 those of 0
    /// and 1 ns. Ends with the last that is not empty.
    pub buckets: Vec<u64>,
    /// All of them together, nanoseconds.
    pub sum_ns: u64,
}

impl Durations {
    /// Adds one.
    pub fn add(&mut self, ns: u64) {
        let index = usize::try_from(ns.max(1).ilog2()).unwrap_or(BUCKETS);
        let index = index.min(BUCKETS - 1);
        if self.buckets.len() <= index {
            self.buckets.resize(index + 1, 0);
        }
        if let Some(bucket) = self.buckets.get_mut(index) {
            *bucket += 1;
        }
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// What was added since `earlier`, a copy of these.
    pub fn since(&self, earlier: &Durations) -> Durations {
        let before = |index| earlier.buckets.get(index).copied().unwrap_or(0);
        let buckets = self.buckets.iter().enumerate();
        let mut buckets: Vec<u64> = buckets
            .map(|(index, count)| count.saturating_sub(before(index)))
            .collect();
        while buckets.last() == Some(&0) {
            buckets.pop();
        }
        Durations {
            buckets,
            sum_ns: self.sum_ns.saturating_sub(earlier.sum_ns),
        }
    }

    /// Adds all of the others.
    pub fn merge(&mut self, others: &Durations) {
        // A file's list may be of any length; what is too long has no meaning.
        let others_buckets = others.buckets.iter().take(BUCKETS);
        if self.buckets.len() < others_buckets.len() {
            self.buckets.resize(others_buckets.len(), 0);
        }
        for (bucket, more) in self.buckets.iter_mut().zip(others_buckets) {
            *bucket = bucket.saturating_add(*more);
        }
        self.sum_ns = self.sum_ns.saturating_add(others.sum_ns);
    }

    /// The bucket in which the given share (0 to 1) is reached, by its lower end in nanoseconds.
    pub fn quantile_ns(&self, share: f64) -> Option<u64> {
        let wanted = share * self.count() as f64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen > 0 && seen as f64 >= wanted {
                return Some(1 << index.min(BUCKETS - 1));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &[u64]) -> Durations {
        let mut durations = Durations::default();
        list.iter().for_each(|ns| durations.add(*ns));
        durations
    }

    #[test]
    fn buckets_are_powers_of_two() {
        let durations = of(&[0, 1, 2, 3, 4, 1000, 1023, 1024]);
        assert_eq!(durations.buckets, [2, 2, 1, 0, 0, 0, 0, 0, 0, 2, 1]);
        assert_eq!((durations.count(), durations.sum_ns), (8, 3057));
        assert_eq!(durations.quantile_ns(0.5), Some(2));
        assert_eq!(durations.quantile_ns(1.0), Some(1024));
        assert_eq!(Durations::default().quantile_ns(0.5), None);
    }

    #[test]
    fn there_is_no_duration_without_a_bucket() {
        let durations = of(&[u64::MAX, u64::MAX]);
        assert_eq!(durations.buckets.len(), BUCKETS);
        assert_eq!(durations.sum_ns, u64::MAX);
    }

    #[test]
    fn differences_and_sums_fit_together() {
        let earlier = of(&[5, 100]);
        let later = of(&[5, 100, 7, 7]);
        let grown = later.since(&earlier);
        assert_eq!(grown, of(&[7, 7]));
        let mut sum = earlier.clone();
        sum.merge(&grown);
        assert_eq!(sum, later);
        let mut bounded = Durations::default();
        bounded.merge(&Durations {
            buckets: vec![1; 100],
            sum_ns: 1,
        });
        assert_eq!(bounded.buckets.len(), BUCKETS);
    }
}
