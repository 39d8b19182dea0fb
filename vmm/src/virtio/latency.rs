//! How long a device had requests: from taking one off its ring to giving it back.
//!
//! The I/O thread records, metrics read. Of queues whose buffers wait for the host's side (receiving,
//! a console's input) this says nothing, so a device names the queues that are timed
//! ([`VirtioDevice::is_timed`](super::VirtioDevice::is_timed)). The way of a notification to the device
//! is not in it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Below 1 µs, 2 µs, 4 µs and so on; the last bound is 8 s.
pub(crate) const NR_BOUNDS: usize = 24;

/// Upper bound of a bucket, in microseconds.
pub(crate) fn bound_us(bucket: usize) -> u64 {
    1 << bucket
}

/// Counts by powers of two.
#[derive(Debug)]
pub(super) struct Histogram {
    /// One more than there are bounds, for what took longer than all of them.
    buckets: [AtomicU64; NR_BOUNDS + 1],
    sum_ns: AtomicU64,
}

/// The latencies of a device's requests at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// How many took less than so many microseconds, and not less than half of it; only those that are
    /// not zero.
    pub below_us: BTreeMap<u64, u64>,
    /// How many took longer than the largest bound, which is 8 s.
    pub longer: u64,
    /// All of them together, in nanoseconds.
    pub sum_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            sum_ns: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    fn record(&self, took: Duration) {
        let micros = took.as_micros();
        let bits = usize::try_from(u128::BITS - micros.leading_zeros()).unwrap_or(NR_BOUNDS);
        if let Some(bucket) = self.buckets.get(bits.min(NR_BOUNDS)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn latency(&self) -> Latency {
        let counts = self
            .buckets
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        let mut counts: Vec<u64> = counts.collect();
        let longer = counts.pop().unwrap_or(0);
        let below_us = (0..).map(bound_us).zip(counts);
        Latency {
            below_us: below_us.filter(|(_, count)| *count > 0).collect(),
            longer,
            sum_ns: self.sum_ns.load(Ordering::Relaxed),
        }
    }
}

impl Latency {
    /// Requests that were timed.
    pub fn count(&self) -> u64 {
        self.below_us.values().sum::<u64>() + self.longer
    }

    /// The bound in microseconds below which at least this share of the requests was, in percent.
    /// `None`: there were none, or more were longer than all bounds.
    pub fn percentile_below_us(&self, percent: u64) -> Option<u64> {
        let count = self.count();
        let wanted = count.saturating_mul(percent).div_ceil(100);
        let mut seen = 0;
        self.below_us.iter().find_map(|(bound, count)| {
            seen += count;
            (seen >= wanted).then_some(*bound)
        })
    }

    /// What came since `earlier`.
    pub fn since(&self, earlier: &Latency) -> Latency {
        let before = |bound: &u64| earlier.below_us.get(bound).copied().unwrap_or(0);
        let more = |(bound, count): (&u64, &u64)| (*bound, count.saturating_sub(before(bound)));
        Latency {
            below_us: self.below_us.iter().map(more).collect(),
            longer: self.longer.saturating_sub(earlier.longer),
            sum_ns: self.sum_ns.saturating_sub(earlier.sum_ns),
        }
    }
}

/// Times the requests of one live queue.
pub(super) struct Stopwatch {
    histogram: Arc<Histogram>,
    /// By first descriptor: a queue has each at most once in hand, or its driver is broken and only
    /// its own figures are.
    taken: Vec<Option<Instant>>,
}

impl Stopwatch {
    pub(super) fn new(histogram: Arc<Histogram>, queue_size: u16) -> Self {
        Self {
            histogram,
            taken: vec![None; usize::from(queue_size)],
        }
    }

    pub(super) fn takes(&mut self, head: u16) {
        if let Some(taken) = self.taken.get_mut(usize::from(head)) {
            *taken = Some(Instant::now());
        }
    }

    pub(super) fn gives_back(&mut self, head: u16) {
        let taken = self.taken.get_mut(usize::from(head)).and_then(Option::take);
        if let Some(taken) = taken {
            self.histogram.record(taken.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_latency_is_in_the_bucket_of_its_power_of_two() {
        let histogram = Histogram::default();
        for micros in [
            0,
            1,
            2,
            3,
            4,
            1000,
            1023,
            1024,
            8_388_607,
            8_388_608,
            u64::MAX / 2,
        ] {
            histogram.record(Duration::from_micros(micros));
        }
        let latency = histogram.latency();
        let wanted = [
            (1, 1),
            (2, 1),
            (4, 2),
            (8, 1),
            (1024, 2),
            (2048, 1),
            (1 << 23, 1),
        ];
        assert_eq!(latency.below_us, wanted.into());
        assert_eq!((latency.longer, latency.count()), (2, 11));
        assert_eq!(latency.percentile_below_us(50), Some(1024));
        assert_eq!(latency.percentile_below_us(99), None);
        assert_eq!(Latency::default().percentile_below_us(50), None);
        let more = latency.since(&Latency {
            below_us: [(4, 1)].into(),
            longer: 1,
            sum_ns: 0,
        });
        assert_eq!((more.below_us[&4], more.longer), (1, 1));
    }
}
