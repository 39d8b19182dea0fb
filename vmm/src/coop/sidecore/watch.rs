//! Whether the polling thread keeps what it has promised: to look again and again while it polls, and to wake
//! up in time while it sleeps.
//!
//! The thread leaves signs of life in a [`Pulse`], the worker compares them ([`Watch`]). A thread that does not
//! come back, because it has no CPU or was stopped by somebody, must not take its guests' deadlines with it
//! (`[LEASE-6]`, `[TIMER-12]`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How often the worker looks while leases are out, or in a late thread's place.
pub(super) const WATCH: Duration = Duration::from_millis(3);
/// And while the thread sleeps: rarely, because each look of an idle machine is a wake-up more.
pub(super) const WATCH_ASLEEP: Duration = Duration::from_millis(400);
/// A promise that is overdue by this was not kept. A wake-up takes less, also on a busy host.
const OVERDUE: Duration = Duration::from_millis(10);

/// Signs of life of the polling thread.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    is_polling: AtomicBool,
    beats: AtomicU64,
    /// When it promised to look, in the host's TSC; zero if it did not.
    promised_tsc: AtomicU64,
}

// Relaxed throughout: the worker only compares values that it reads milliseconds apart, and acts under the
// seats' locks.
impl Pulse {
    /// The thread begins to give leases.
    pub(super) fn start(&self) {
        self.beat();
        self.is_polling.store(true, Ordering::Relaxed);
    }

    /// The thread is about to look at all areas.
    pub(super) fn beat(&self) {
        let beats = self.beats.load(Ordering::Relaxed);
        self.beats.store(beats.wrapping_add(1), Ordering::Relaxed);
    }

    /// The thread has no lease out any more, and will look at this time of the host's TSC.
    pub(super) fn stop(&self, promised_tsc: Option<u64>) {
        self.promise(promised_tsc);
        self.is_polling.store(false, Ordering::Relaxed);
    }

    /// The thread will look at this time, before anybody may rely on it.
    pub(super) fn promise(&self, promised_tsc: Option<u64>) {
        self.promised_tsc
            .store(promised_tsc.unwrap_or(0), Ordering::Relaxed);
    }

    /// By how much a promise is overdue, in steps of the TSC, if there is one.
    fn overdue(&self, now_tsc: u64) -> Option<u64> {
        let promised_tsc = self.promised_tsc.load(Ordering::Relaxed);
        (promised_tsc > 0).then(|| now_tsc.saturating_sub(promised_tsc))
    }
}

/// What a look at the pulse shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody polls, and what was promised may still be kept.
    Asleep,
    /// It has been alive since the last look, or this was the first.
    Alive,
    /// No turn since the last look, or a promise was not kept.
    Late,
}

/// Watches a pulse.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: Option<u64>,
}

impl Watch {
    /// Looks; `tsc_khz` is the rate of the host's TSC.
    pub(super) fn look(&mut self, pulse: &Pulse, now_tsc: u64, tsc_khz: u64) -> Verdict {
        if !pulse.is_polling.load(Ordering::Relaxed) {
            self.seen = None;
            let overdue = pulse.overdue(now_tsc).unwrap_or(0);
            return match overdue > crate::coop::clock::cycles(tsc_khz, OVERDUE) {
                true => Verdict::Late,
                false => Verdict::Asleep,
            };
        }
        let beats = pulse.beats.load(Ordering::Relaxed);
        match self.seen.replace(beats) {
            Some(seen) if seen == beats => Verdict::Late,
            _ => Verdict::Alive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step is a microsecond.
    const KHZ: u64 = 1_000;

    #[test]
    fn lease_6_a_thread_that_makes_no_turn_between_two_looks_is_late() {
        let (pulse, mut watch) = (Pulse::default(), Watch::default());
        let mut look = || watch.look(&pulse, 1 << 40, KHZ);
        assert_eq!(look(), Verdict::Asleep);
        pulse.start();
        assert_eq!(look(), Verdict::Alive);
        pulse.beat();
        assert_eq!(look(), Verdict::Alive);
        assert_eq!(look(), Verdict::Late);
        assert_eq!(look(), Verdict::Late);
        pulse.stop(None);
        assert_eq!(look(), Verdict::Asleep);
        pulse.start();
        assert_eq!(look(), Verdict::Alive);
    }

    #[test]
    fn timer_12_a_thread_that_sleeps_beyond_its_promise_is_late() {
        let (pulse, mut watch) = (Pulse::default(), Watch::default());
        pulse.start();
        pulse.stop(Some(50_000));
        for (now_tsc, verdict) in [
            (10_000, Verdict::Asleep),
            (60_000, Verdict::Asleep),
            (60_001, Verdict::Late),
            (70_000, Verdict::Late),
        ] {
            assert_eq!(watch.look(&pulse, now_tsc, KHZ), verdict, "{now_tsc}");
        }
        pulse.promise(Some(80_000));
        assert_eq!(watch.look(&pulse, 70_000, KHZ), Verdict::Asleep);
        pulse.promise(None);
        assert_eq!(watch.look(&pulse, u64::MAX, KHZ), Verdict::Asleep);
        // One that polls renews its leases; what it promised before is over.
        pulse.promise(Some(80_000));
        pulse.start();
        assert_eq!(watch.look(&pulse, u64::MAX, KHZ), Verdict::Alive);
    }
}
