//! Samples of running times, and what they were at a moment between two of them.

use std::collections::VecDeque;

/// Samples kept for interpolation.
const MAX_SAMPLES: usize = 64;

/// Some running times, sampled together; the oldest first.
#[derive(Debug)]
pub(super) struct Samples<const N: usize>(VecDeque<(u64, [u64; N])>);

impl<const N: usize> Default for Samples<N> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<const N: usize> Samples<N> {
    /// Adds one; times must not go back.
    pub(super) fn push(&mut self, time_ns: u64, values: [u64; N]) {
        self.0.push_back((time_ns, values));
        if self.0.len() > MAX_SAMPLES {
            self.0.pop_front();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values at a moment, between the two samples around it on a straight line.
    pub(super) fn at(&self, time_ns: u64) -> [u64; N] {
        let after = self.0.partition_point(|(time, _)| *time < time_ns);
        let sample = |index: usize| self.0.get(index).copied();
        let before = after.checked_sub(1).and_then(sample);
        match (before, sample(after)) {
            (Some((t0, v0)), Some((t1, v1))) if t1 > t0 => {
                let mut values = v0;
                for (value, later) in values.iter_mut().zip(v1) {
                    let share = u128::from(time_ns - t0) * u128::from(later.saturating_sub(*value));
                    let more = share / u128::from(t1 - t0);
                    *value = value.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
                }
                values
            }
            (Some((_, values)), _) | (None, Some((_, values))) => values,
            (None, None) => [0; N],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_on_a_straight_line_and_end_with_the_last() {
        let mut samples = Samples::default();
        assert_eq!(samples.at(5), [0, 0]);
        samples.push(0, [1000, 0]);
        samples.push(1000, [3000, 10]);
        assert_eq!(samples.at(0), [1000, 0]);
        assert_eq!(samples.at(500), [2000, 5]);
        assert_eq!(samples.at(9999), [3000, 10]);
        for time in 1001..2000 {
            samples.push(time, [0, 0]);
        }
        assert_eq!(samples.0.len(), MAX_SAMPLES);
    }
}
