//! The virtqueues that the polling thread looks at beside the areas.
//!
//! Guests need nothing of ours for that: what tells their drivers not to notify is the standard's
//! (`virtio/ownership.rs`). While the thread polls, it takes over the queues that have work and looks
//! at them in each turn; when it stops, or does not come back in time, they go back to the I/O thread.
//! So a queue is without anybody who looks for as long as an area is (`[LEASE-6]`).
//!
//! A thread that sleeps does not see that a queue has work: the I/O thread does, by the driver's
//! notifications, and rings for this one when they follow each other so closely that polling would
//! have spared the later one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use super::super::options::SidecorePolicy;
use crate::virtio::{Kicked, PolledDevice, Wanted};

/// The devices whose queues can be polled, if there are any.
#[derive(Default)]
pub(in crate::coop) struct Queues {
    devices: OnceLock<Vec<PolledDevice>>,
    wanted: Option<Wanted>,
    kicks: Arc<Kicks>,
}

impl Queues {
    /// For this policy, without devices yet.
    pub(in crate::coop) fn new(policy: SidecorePolicy) -> Self {
        let wanted = match policy {
            SidecorePolicy::Off => None,
            SidecorePolicy::Adaptive => Some(Wanted::Hot),
            SidecorePolicy::Always => Some(Wanted::All),
        };
        Self {
            wanted,
            ..Self::default()
        }
    }

    /// Takes the devices of the machine; `bell` wakes the thread. Without a thread that polls, they
    /// are left alone.
    pub(in crate::coop) fn connect(&self, devices: Vec<PolledDevice>, bell: EventFd) {
        if self.wanted.is_none() || self.kicks.bell.set(bell).is_err() {
            return;
        }
        for device in &devices {
            device.connect(Arc::clone(&self.kicks) as _);
        }
        let _ = self.devices.set(devices);
    }

    fn devices(&self) -> &[PolledDevice] {
        self.devices.get().map_or(&[], Vec::as_slice)
    }

    /// Whether any queue has work, as far as is known.
    pub(super) fn are_hot(&self) -> bool {
        self.devices().iter().any(PolledDevice::is_hot)
    }

    /// The thread polls from now on: nobody needs to ring for it.
    pub(super) fn start(&self) {
        self.kicks.is_polling.store(true, Ordering::Relaxed);
    }

    /// How long ago somebody has rung for a queue; `None` if nobody has since this was last asked.
    pub(super) fn since_rung(&self) -> Option<Duration> {
        let rung_ns = self.kicks.rung_ns.swap(0, Ordering::Relaxed);
        let now_ns = nanos(self.kicks.start.elapsed());
        (rung_ns != 0).then(|| Duration::from_nanos(now_ns.saturating_sub(rung_ns)))
    }

    /// Looks at all queues that are wanted. Returns whether there was work.
    pub(super) fn turn(&self) -> bool {
        let Some(wanted) = self.wanted else {
            return false;
        };
        let looks = self.devices().iter().map(|device| device.look(wanted));
        looks.fold(false, |any, is_work| any | is_work)
    }

    /// Gives all queues back, each with a last look. Returns whether one of these found something. For
    /// the polling thread, and for whoever stands in for it.
    pub(super) fn hand_back(&self) -> bool {
        let returns = self.devices().iter().map(PolledDevice::hand_back);
        returns.fold(false, |any, is_work| any | is_work)
    }

    /// The thread does not poll any more. Notifications that follow each other by no more than `reach`
    /// are worth polling for.
    pub(super) fn stop(&self, reach: Duration) {
        let reach = match self.wanted {
            Some(Wanted::All) => u64::MAX,
            _ => nanos(reach),
        };
        self.kicks.reach_ns.store(reach, Ordering::Relaxed);
        self.kicks.is_polling.store(false, Ordering::Relaxed);
    }
}

/// Notifications of queues that nobody polls, as the I/O thread tells of them.
///
/// Relaxed throughout: what it leads to is that the thread wakes up a moment sooner or later.
struct Kicks {
    bell: OnceLock<EventFd>,
    is_polling: AtomicBool,
    start: Instant,
    /// When the last one came, in nanoseconds since `start`; 0 before the first.
    last_ns: AtomicU64,
    reach_ns: AtomicU64,
    /// When the bell was rung last; 0 if that was seen.
    rung_ns: AtomicU64,
}

impl Default for Kicks {
    fn default() -> Self {
        Self {
            bell: OnceLock::new(),
            is_polling: AtomicBool::new(false),
            start: Instant::now(),
            last_ns: AtomicU64::new(0),
            reach_ns: AtomicU64::new(0),
            rung_ns: AtomicU64::new(0),
        }
    }
}

impl Kicks {
    /// A notification came at this time: whether polling would have spared it.
    fn is_worth_polling(&self, now_ns: u64) -> bool {
        let now_ns = now_ns.max(1);
        let last_ns = self.last_ns.swap(now_ns, Ordering::Relaxed);
        let reach_ns = self.reach_ns.load(Ordering::Relaxed);
        let is_near = last_ns != 0 && now_ns.saturating_sub(last_ns) <= reach_ns;
        is_near || reach_ns == u64::MAX
    }
}

impl Kicked for Kicks {
    fn kicked(&self) {
        let now_ns = nanos(self.start.elapsed());
        if self.is_worth_polling(now_ns) && !self.is_polling.load(Ordering::Relaxed) {
            self.rung_ns.store(now_ns, Ordering::Relaxed);
            // It fails only if the counter is full, and then the thread is awake.
            let _ = self.bell.get().map(|bell| bell.write(1));
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: u64 = 1_000;

    #[test]
    fn only_notifications_that_follow_closely_are_worth_polling_for() {
        let queues = Queues::new(SidecorePolicy::Adaptive);
        queues.stop(Duration::from_micros(300));
        let is_worth = |at| queues.kicks.is_worth_polling(at);
        let at = [0, 10 * MICRO, 310 * MICRO, 611 * MICRO, 700 * MICRO];
        assert_eq!(at.map(is_worth), [false, true, true, false, true]);
    }

    #[test]
    fn a_thread_that_always_polls_is_woken_by_the_first_one() {
        let queues = Queues::new(SidecorePolicy::Always);
        queues.stop(Duration::ZERO);
        assert!(queues.kicks.is_worth_polling(0));
    }

    #[test]
    fn a_thread_that_never_polls_is_never_rung_for() {
        let queues = Queues::new(SidecorePolicy::Off);
        let bell = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        queues.connect(Vec::new(), bell);
        queues.stop(Duration::from_secs(1));
        assert!(queues.kicks.bell.get().is_none());
        assert!(!queues.turn() && !queues.hand_back() && !queues.are_hot());
        queues.kicks.kicked();
        queues.kicks.kicked();
    }
}
