//! The alarm of the thread that sleeps: set to the earliest promise of all areas, or to the end of a nap.
//!
//! The thread sets it when it goes to sleep. A vCPU that halts by the doorbell (`[HALT-3]`) keeps its area's promise
//! itself and makes a later one; then it sets the alarm anew, and the thread sleeps on. Promises lie beside the
//! alarm, one for each area: who changes one stores it first and sets the alarm then, under its lock, so that
//! whoever is last has seen all.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

use super::watch::Pulse;
use super::window::Wake;
use crate::coop::clock;
use crate::coop::host::lock;
use crate::kvm::tsc;

/// No promise.
const NONE: u64 = u64::MAX;

/// When one area's host has promised to look, in the host's TSC. Written under the lock of the area's seat.
pub(in crate::coop) struct Promise(AtomicU64);

impl Default for Promise {
    fn default() -> Self {
        Self(AtomicU64::new(NONE))
    }
}

impl Promise {
    /// From now on it is this.
    pub(in crate::coop) fn set(&self, host_tsc: Option<u64>) {
        // Relaxed: the alarm's lock, taken next, orders it before the reading.
        self.0.store(host_tsc.unwrap_or(NONE), Ordering::Relaxed);
    }

    fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|tsc| *tsc != NONE)
    }
}

/// What the timer is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) host_tsc: u64,
    pub(super) wake: Wake,
    /// When it was set.
    set_tsc: u64,
}

struct State {
    timer: TimerFd,
    tsc_khz: u64,
    /// When the nap ends, if this is one.
    nap_tsc: Option<u64>,
    /// What was to be set last, and what is.
    wanted: Option<(u64, Wake)>,
    set: Option<Set>,
    is_asleep: bool,
}

impl State {
    /// The earlier of both.
    fn first(&self, promised_tsc: Option<u64>) -> Option<(u64, Wake)> {
        let promised = promised_tsc.map(|host_tsc| (host_tsc, Wake::Deadline));
        let nap = self.nap_tsc.map(|host_tsc| (host_tsc, Wake::Nap));
        [promised, nap].into_iter().flatten().min_by_key(|at| at.0)
    }

    /// Sets the timer to the earlier of both; says what that is.
    fn set(&mut self, promised_tsc: Option<u64>, now_tsc: u64) -> io::Result<Option<Set>> {
        let first = self.first(promised_tsc);
        // The time is cut at an hour; then the thread looks early.
        let after = first.map(|(at, _)| clock::time(self.tsc_khz, at.saturating_sub(now_tsc)));
        // Zero would switch the timer off.
        let time = after.map_or(Duration::ZERO, |after| after.max(Duration::from_nanos(1)));
        self.timer
            .reset(time, None)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        self.wanted = first;
        self.set = first.zip(after).map(|((at, wake), after)| Set {
            host_tsc: at.min(now_tsc.saturating_add(clock::cycles(self.tsc_khz, after))),
            wake,
            set_tsc: now_tsc,
        });
        Ok(self.set)
    }
}

/// The alarm, once there is a thread that sleeps.
#[derive(Default)]
pub(in crate::coop) struct Alarm {
    state: OnceLock<Mutex<State>>,
    /// What whoever watches the thread goes by.
    pub(super) pulse: Pulse,
}

impl Alarm {
    /// The alarm goes by this timer from now on; `tsc_khz` is the rate of the host's TSC.
    pub(super) fn connect(&self, timer: TimerFd, tsc_khz: u64) {
        let state = State {
            timer,
            tsc_khz,
            nap_tsc: None,
            wanted: None,
            set: None,
            is_asleep: false,
        };
        // A second thread for one machine would be our own mistake; the first one stays.
        let _ = self.state.set(Mutex::new(state));
    }

    /// The thread goes to sleep, for `nap` at most: sets the alarm, and says to what.
    pub(super) fn set<'a>(
        &self,
        promises: impl Iterator<Item = &'a Promise>,
        nap: Option<Duration>,
    ) -> io::Result<Option<Set>> {
        let Some(state) = self.state.get() else {
            return Ok(None);
        };
        let mut state = lock(state);
        let now_tsc = tsc::read();
        state.nap_tsc = nap.map(|nap| now_tsc.saturating_add(clock::cycles(state.tsc_khz, nap)));
        state.is_asleep = true;
        let set = state.set(promises.filter_map(Promise::get).min(), now_tsc)?;
        self.pulse.promise(set.map(|set| set.host_tsc));
        Ok(set)
    }

    /// The thread has woken up: what the alarm was set to by then, and how long ago it went off. One that was set to
    /// a time in the past went off when it was set.
    pub(super) fn over(&self) -> Option<(Set, Duration)> {
        let mut state = lock(self.state.get()?);
        state.is_asleep = false;
        let set = state.set?;
        let late = tsc::read().saturating_sub(set.host_tsc.max(set.set_tsc));
        Some((set, clock::time(state.tsc_khz, late)))
    }

    /// A promise was changed by somebody else than the thread: a thread that sleeps has to know.
    pub(in crate::coop) fn changed<'a>(&self, promises: impl Iterator<Item = &'a Promise>) {
        let Some(state) = self.state.get() else {
            return;
        };
        let mut state = lock(state);
        let promised_tsc = promises.filter_map(Promise::get).min();
        if !state.is_asleep || state.wanted == state.first(promised_tsc) {
            return;
        }
        // Setting a timer to a time cannot fail. If it did, the thread would wake up when it would have before, or
        // its watch would find it late.
        if let Ok(set) = state.set(promised_tsc, tsc::read()) {
            self.pulse.promise(set.map(|set| set.host_tsc));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KHZ: u64 = 1_000_000;
    const SECOND: u64 = KHZ * 1_000;

    fn alarm() -> Alarm {
        let alarm = Alarm::default();
        alarm.connect(TimerFd::new().expect("a timer"), KHZ);
        alarm
    }

    #[test]
    fn halt_3_a_sleeping_thread_is_left_alone_until_the_first_promise_of_all() {
        let alarm = alarm();
        let promises = [Promise::default(), Promise::default()];
        let now = tsc::read();
        promises[0].set(Some(now + 10 * SECOND));
        promises[1].set(Some(now + 20 * SECOND));
        let set = alarm.set(promises.iter(), None).expect("set");
        assert_eq!(set.map(|set| set.host_tsc), Some(now + 10 * SECOND));
        for (first, second, expected) in [
            (Some(30), Some(20), Some(20)),
            (Some(30), None, Some(30)),
            (Some(5), None, Some(5)),
            (None, None, None),
            (None, Some(7), Some(7)),
        ] {
            let at = |seconds: Option<u64>| seconds.map(|seconds| now + seconds * SECOND);
            promises[0].set(at(first));
            promises[1].set(at(second));
            alarm.changed(promises.iter());
            let set = lock(alarm.state.get().expect("connected")).set;
            assert_eq!(set.map(|set| set.host_tsc), at(expected));
        }
    }

    #[test]
    fn halt_3_a_nap_ends_in_time_whatever_is_promised() {
        let alarm = alarm();
        let promises = [Promise::default()];
        let nap = Duration::from_secs(5);
        let set = alarm.set(promises.iter(), Some(nap)).expect("set");
        let nap_tsc = set.expect("a nap").host_tsc;
        assert_eq!(set.map(|set| set.wake), Some(Wake::Nap));
        promises[0].set(Some(nap_tsc + SECOND));
        alarm.changed(promises.iter());
        let (set, _) = alarm.over().expect("set");
        assert_eq!((set.wake, set.host_tsc), (Wake::Nap, nap_tsc));
    }

    #[test]
    fn halt_3_a_thread_that_is_awake_sets_its_alarm_itself() {
        let alarm = alarm();
        let promises = [Promise::default()];
        let set = alarm.set(promises.iter(), None).expect("set");
        assert_eq!(set, None);
        assert_eq!(alarm.over(), None);
        promises[0].set(Some(tsc::read() + SECOND));
        alarm.changed(promises.iter());
        assert_eq!(lock(alarm.state.get().expect("connected")).set, None);
    }
}
