//! Time stamps of single operations and their statistics.
//!
//! A work fills [`Samples`] between its marks; the summary is made behind the end mark. The room
//! for all samples is made and touched before, so that adding one is one store.

use crate::sys::time::{read_clock_ns, read_tsc};

/// The points at which a report draws the distribution.
pub(crate) const CURVE_PER_MILLE: [usize; 17] = [
    10, 50, 100, 200, 250, 300, 400, 500, 600, 700, 750, 800, 900, 950, 980, 990, 999,
];

/// Durations of single operations, in time stamp counter ticks.
#[derive(Debug)]
pub(crate) struct Samples {
    ticks: Vec<u64>,
    used: usize,
}

impl Samples {
    /// Makes room for `count` samples and touches it.
    pub(crate) fn with_room(count: u64) -> Samples {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        // Not zero: zeroed memory would come untouched from the kernel.
        Samples {
            ticks: vec![u64::MAX; count],
            used: 0,
        }
    }

    /// Adds one sample; ignores it when there is no room, which the number of samples shows.
    #[inline]
    pub(crate) fn add(&mut self, ticks: u64) {
        if let Some(slot) = self.ticks.get_mut(self.used) {
            *slot = ticks;
            self.used += 1;
        }
    }

    /// Runs an operation and adds its duration.
    #[inline]
    pub(crate) fn time<T>(&mut self, operation: impl FnOnce() -> T) -> T {
        let start = read_tsc();
        let result = operation();
        // The counters of two CPUs may differ by a little, and the thread may have moved.
        self.add(read_tsc().saturating_sub(start));
        result
    }

    /// Orders the samples and picks the usual ones; `None` if there are none.
    pub(crate) fn summarize(mut self, span: Span) -> Option<Latency> {
        self.ticks.truncate(self.used);
        self.ticks.sort_unstable();
        let ns_at_per_mille = |per_mille: usize| {
            // Nearest rank: the smallest sample that at least so many of all do not exceed.
            let rank = (self.used * per_mille).div_ceil(1000).max(1);
            self.ticks
                .get(rank - 1)
                .map(|&ticks| span.ticks_as_ns(ticks))
        };
        let mut curve = [0; CURVE_PER_MILLE.len()];
        for (ns, per_mille) in curve.iter_mut().zip(CURVE_PER_MILLE) {
            *ns = ns_at_per_mille(per_mille)?;
        }
        Some(Latency {
            n: self.used as u64,
            min: span.ticks_as_ns(*self.ticks.first()?),
            median: ns_at_per_mille(500)?,
            p99: ns_at_per_mille(990)?,
            max: ns_at_per_mille(1000)?,
            curve,
        })
    }
}

/// Statistics of single operations, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Latency {
    pub(crate) n: u64,
    pub(crate) min: u64,
    pub(crate) median: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
    /// Of so many per mille of all operations, each, the longest: [`CURVE_PER_MILLE`].
    pub(crate) curve: [u64; CURVE_PER_MILLE.len()],
}

/// A moment, on both the clock and the counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    clock_ns: u64,
    ticks: u64,
}

impl Moment {
    /// Reads both.
    pub(crate) fn now() -> Moment {
        Moment {
            clock_ns: read_clock_ns(),
            ticks: read_tsc(),
        }
    }

    /// The span from this moment until now.
    pub(crate) fn elapsed(self) -> Span {
        let now = Moment::now();
        Span {
            ns: now.clock_ns.saturating_sub(self.clock_ns),
            ticks: now.ticks.saturating_sub(self.ticks),
        }
    }
}

/// A stretch of time on both the clock and the counter: also the rate between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) ns: u64,
    pub(crate) ticks: u64,
}

impl Span {
    /// Converts ticks at the rate of this span.
    pub(crate) fn ticks_as_ns(self, ticks: u64) -> u64 {
        let ns = u128::from(ticks) * u128::from(self.ns) / u128::from(self.ticks.max(1));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// Converts nanoseconds at the rate of this span.
    pub(crate) fn ns_as_ticks(self, ns: u64) -> u64 {
        let ticks = u128::from(ns) * u128::from(self.ticks) / u128::from(self.ns.max(1));
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_TICKS_PER_NS: Span = Span {
        ns: 1000,
        ticks: 2000,
    };

    fn summary(ticks: impl IntoIterator<Item = u64>, room: u64) -> Option<Latency> {
        let mut samples = Samples::with_room(room);
        ticks.into_iter().for_each(|sample| samples.add(sample));
        samples.summarize(TWO_TICKS_PER_NS)
    }

    #[test]
    fn statistics_are_nearest_ranks_in_nanoseconds() {
        let latency = summary((1..=200).rev().map(|n| n * 2), 200).unwrap();
        assert_eq!(latency.curve[..3], [2, 10, 20]);
        assert_eq!(latency.curve[16], 200);
        assert_eq!(
            latency,
            Latency {
                n: 200,
                min: 1,
                median: 100,
                p99: 198,
                max: 200,
                ..latency
            }
        );
        let latency = summary([30, 10, 20], 3).unwrap();
        assert_eq!(
            latency,
            Latency {
                n: 3,
                min: 5,
                median: 10,
                p99: 15,
                max: 15,
                ..latency
            }
        );
        let latency = summary([8], 1).unwrap();
        assert_eq!(
            latency,
            Latency {
                n: 1,
                min: 4,
                median: 4,
                p99: 4,
                max: 4,
                ..latency
            }
        );
    }

    #[test]
    fn unused_room_and_samples_without_room_do_not_count() {
        assert_eq!(summary([], 4), None);
        assert_eq!(summary([2, 2], 4).unwrap().n, 2);
        assert_eq!(summary([2, 2, 2], 2).unwrap().n, 2);
    }

    #[test]
    fn conversion_survives_large_and_broken_counters() {
        assert_eq!(TWO_TICKS_PER_NS.ticks_as_ns(u64::MAX), u64::MAX / 2);
        assert_eq!(TWO_TICKS_PER_NS.ns_as_ticks(7), 14);
        let stopped = Span { ns: 5, ticks: 0 };
        assert_eq!(stopped.ticks_as_ns(3), 15);
        assert_eq!(stopped.ns_as_ticks(3), 0);
    }
}
