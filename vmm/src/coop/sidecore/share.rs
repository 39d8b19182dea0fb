//! Whether the polling thread has a CPU to itself: how much of its polling it was let run.
//!
//! A thread that shares its CPU with the vCPUs that it polls for does harm: what they publish waits
//! for its time slice, under a lease that says it is looked at. So it measures what share of its
//! polling it lost in gaps between two turns; if that is too much, it stops to poll for a while, and
//! for longer each time that this shows again. Meanwhile it serves as one that sleeps: deadlines by
//! alarms, doorbells by one look.
//!
//! Pure: the polling thread says how long its turns took. For the adaptive policy alone.

use std::time::{Duration, Instant};

use super::LEASE;

/// From how long between two turns on the thread is taken not to have run. A turn alone, with the
/// interrupts that it raises, takes much less.
pub(super) const GAP: Duration = LEASE.checked_div(4).expect("not zero");
/// So much polling makes a verdict: some time slices of the host's scheduler.
const SAMPLE: Duration = LEASE.saturating_mul(8);
/// More than this lost in gaps is too much, in percent.
const MOST_LOST_PERCENT: u32 = 20;
/// The first rest, in the time that the verdict took ...
const FIRST_REST: u32 = 8;
/// ... doubles so often. The longest is about a second and a half.
const MOST_DOUBLINGS: u32 = 3;

/// What was polled and lost since the last verdict, and what followed from it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    polled: Duration,
    lost: Duration,
    doublings: u32,
    rests_until: Option<Instant>,
}

impl Share {
    /// A turn began so long after the one before, in the same episode of polling. How long to rest, if
    /// it has to stop.
    pub(super) fn turn(&mut self, between: Duration, now: Instant) -> Option<Duration> {
        self.polled += between;
        if between > GAP {
            self.lost += between;
        }
        if self.polled < SAMPLE {
            return None;
        }
        let Self { polled, lost, .. } = *self;
        (self.polled, self.lost) = (Duration::ZERO, Duration::ZERO);
        if lost * 100 <= polled * MOST_LOST_PERCENT {
            self.doublings = 0;
            return None;
        }
        let rest = SAMPLE * FIRST_REST * (1 << self.doublings);
        self.doublings = (self.doublings + 1).min(MOST_DOUBLINGS);
        self.rests_until = Some(now + rest);
        Some(rest)
    }

    /// How long it still has to rest; `None` if it may poll.
    pub(super) fn rest(&mut self, now: Instant) -> Option<Duration> {
        let left = self.rests_until?.saturating_duration_since(now);
        if left.is_zero() {
            self.rests_until = None;
            return None;
        }
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: Duration = Duration::from_micros(1);

    /// Polls for so long in turns of 10 µs, each so many of them followed by a gap; how long until it
    /// was told to stop.
    fn poll(
        share: &mut Share,
        now: &mut Instant,
        turns_between_gaps: u32,
        gap: Duration,
    ) -> Option<Duration> {
        let start = *now;
        for turn in 1..100_000 {
            let between = match turn % turns_between_gaps {
                0 => gap,
                _ => 10 * MICRO,
            };
            *now += between;
            if share.turn(between, *now).is_some() {
                return Some(now.saturating_duration_since(start));
            }
        }
        None
    }

    #[test]
    fn a_thread_with_a_cpu_of_its_own_never_rests() {
        let (mut share, mut now) = (Share::default(), Instant::now());
        assert_eq!(poll(&mut share, &mut now, 50, 100 * MICRO), None);
        // Preempted for 4 ms in each 40: a tenth.
        let rare = poll(&mut share, &mut now, 3_600, 4_000 * MICRO);
        assert_eq!((rare, share.rest(now)), (None, None));
    }

    #[test]
    fn one_that_shares_its_cpu_rests_soon_and_longer_each_time() {
        let (mut share, mut now) = (Share::default(), Instant::now());
        let mut rests = Vec::new();
        for _ in 0..7 {
            // A third: 3 ms of 9.
            let stopped = poll(&mut share, &mut now, 600, 3_000 * MICRO).expect("stops");
            assert!(stopped <= SAMPLE + 9_000 * MICRO, "{stopped:?}");
            let rest = share.rest(now).expect("rests");
            now += rest / 2;
            assert_eq!(share.rest(now), Some(rest - rest / 2));
            now += rest;
            assert_eq!(share.rest(now), None);
            rests.push(rest);
        }
        assert_eq!(
            rests,
            [8, 16, 32, 64, 64, 64, 64].map(|times| SAMPLE * times)
        );
    }

    #[test]
    fn one_that_is_let_run_again_is_back_to_normal() {
        let (mut share, mut now) = (Share::default(), Instant::now());
        for _ in 0..4 {
            poll(&mut share, &mut now, 600, 3_000 * MICRO).expect("stops");
            now += share.rest(now).expect("rests");
        }
        assert_eq!(poll(&mut share, &mut now, 50, 100 * MICRO), None);
        poll(&mut share, &mut now, 600, 3_000 * MICRO).expect("stops");
        let rest = share.rest(now).expect("rests");
        assert!(rest <= SAMPLE * FIRST_REST);
    }
}
