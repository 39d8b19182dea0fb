//! How contended the host's CPUs are, as the vCPU threads feel it, told to their guests.
//!
//! A thread that could run but was not let run has waited: the kernel counts that for each thread
//! (`schedstat`, the run delay). The worker reads it now and then, never on the way of a call, and
//! the less often the longer nobody has waited. A guest that polls in its idle loop should know it:
//! what it burns is then somebody else's.

use std::fs;
use std::time::{Duration, Instant};

use coopvirt_spec::version::Features;

use crate::coop::host::Coop;
use crate::coop::seat::Served;

/// Between two looks while somebody waits: long against a time slice of the host's scheduler, so
/// that a share of it means something.
const SOONEST: Duration = Duration::from_millis(50);
/// Between two looks while nobody does: the files are some ten microseconds each.
const LATEST: Duration = Duration::from_secs(2);

/// From how much on it is somebody waiting: each wake-up of a vCPU is a short wait, a few microseconds, and
/// no guest heeds that.
const NOTICED_PERMILLE: u32 = 10;

/// A vCPU thread's run delay, followed.
#[derive(Clone, Copy, Debug, Default)]
struct Contention {
    before: Option<(Duration, Instant)>,
    permille: u32,
}

impl Contention {
    /// A reading of the run delay; how much of the time since the last one it was, smoothed by half.
    fn reading(&mut self, delay: Duration, now: Instant) -> u32 {
        let Some((delay_before, then)) = self.before.replace((delay, now)) else {
            return self.permille;
        };
        let time = now.saturating_duration_since(then).as_nanos().max(1);
        let waited = delay.saturating_sub(delay_before).as_nanos();
        let share = (waited * 1_000 / time).min(1_000);
        self.permille = (self.permille + u32::try_from(share).unwrap_or(1_000)).div_ceil(2);
        if self.permille == 1 && share == 0 {
            self.permille = 0;
        }
        self.permille
    }
}

/// Keeps the hints of all areas.
#[derive(Debug)]
pub(super) struct Hints {
    contention: Vec<Contention>,
    wait: Duration,
    next: Option<Instant>,
}

impl Hints {
    /// For so many vCPUs, none of which wants any yet.
    pub(super) fn new(nr_vcpus: usize) -> Self {
        Self {
            contention: vec![Contention::default(); nr_vcpus],
            wait: SOONEST,
            next: None,
        }
    }

    /// An area was registered that wants hints.
    pub(super) fn begin(&mut self) {
        self.wait = SOONEST;
        self.next.get_or_insert_with(Instant::now);
    }

    /// When to look next; `None`: nobody wants hints.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Looks, if it is time to.
    pub(super) fn look(&mut self, coop: &Coop) {
        if self.next.is_none_or(|next| Instant::now() < next) {
            return;
        }
        let (mut is_wanted, mut is_contended) = (false, false);
        for (station, contention) in coop.stations.iter().zip(&mut self.contention) {
            let wants = |served: &Served| served.features().contains(Features::HINTS);
            if !station.seat.lock().as_ref().is_some_and(wants) {
                *contention = Contention::default();
                continue;
            }
            is_wanted = true;
            // Read without the lock: a file can take long.
            let delay = station.thread.get().and_then(|task| run_delay(task));
            let permille = contention.reading(delay.unwrap_or_default(), Instant::now());
            is_contended |= permille >= NOTICED_PERMILLE;
            if let Some(served) = station.seat.lock().as_mut() {
                served.hint_contention(permille);
            }
        }
        self.wait = match is_contended {
            true => SOONEST,
            false => (self.wait * 2).min(LATEST),
        };
        self.next = is_wanted.then(|| Instant::now() + self.wait);
    }
}

/// The calling thread's folder in /proc, such as `123/task/125`.
pub(in crate::coop) fn own_task() -> Option<String> {
    let path = fs::read_link("/proc/thread-self").ok()?;
    Some(path.to_str()?.to_owned())
}

/// How long a thread has waited for a CPU since it began: the second number of its `schedstat`.
fn run_delay(task: &str) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{task}/schedstat")).ok()?;
    let nanos = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contention_is_the_share_of_time_spent_waiting() {
        let mut contention = Contention::default();
        let (mut delay, mut now) = (Duration::from_secs(5), Instant::now());
        assert_eq!(contention.reading(delay, now), 0);
        let mut step = |share: u32| {
            now += Duration::from_millis(100);
            delay += Duration::from_millis(100) * share / 1_000;
            contention.reading(delay, now)
        };
        assert_eq!(
            [step(0), step(500), step(500), step(500)],
            [0, 250, 375, 438]
        );
        assert!((0..20).map(|_| step(1_000)).max() == Some(1_000));
        assert_eq!((0..20).map(|_| step(0)).last(), Some(0));
    }

    #[test]
    fn a_thread_finds_its_own_run_delay() {
        let task = own_task().expect("procfs");
        assert!(run_delay(&task).is_some(), "{task}");
        assert_eq!(run_delay("0/task/0"), None);
    }
}
