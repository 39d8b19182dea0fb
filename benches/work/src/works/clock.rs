//! `clock`: the guest's clocks beside the host's. Operation: one second.
//!
//! At each point mark of this work the guest reads both its clocks, before the mark and behind it;
//! the host knows when the mark's exit was. Between the marks, threads on all CPUs read both clocks
//! in turn and look whether one has stepped back from what another thread has read before. The host
//! computes the drift: nothing here knows its time.

use super::bench::{Bench, Failure, Measured};
use crate::helper::{Helper, StopFlag};
use crate::latency::Moment;
use crate::sys::alarm::Alarm;
use crate::sys::time;
use coopvirt_spec::work::Work;
use serde_json::{json, Value};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// At scale 1; always whole seconds.
const SECONDS: u64 = 10;
/// More marks than this do not fit into a record.
const MAX_MARKS: u64 = 120;
/// Readings in one go, and the rest after them.
const BURST: u32 = 500;
const REST: Duration = Duration::from_millis(100);

/// The latest values that anybody has read, and how often a later reading was before them.
#[derive(Debug, Default)]
struct Latest {
    monotonic_ns: AtomicU64,
    wall_ns: AtomicU64,
    steps_back: AtomicU64,
    readings: AtomicU64,
}

impl Latest {
    fn look(&self) {
        for (latest, read) in [
            (&self.monotonic_ns, time::read_clock_ns as fn() -> u64),
            (&self.wall_ns, time::read_wall_clock_ns),
        ] {
            // Acquire: what is read below is read behind this. Pairs with the update of the thread
            // that read the value.
            let before = latest.load(Ordering::Acquire);
            let now = read();
            if now < before {
                self.steps_back.fetch_add(1, Ordering::Relaxed);
            }
            latest.fetch_max(now, Ordering::Release);
            self.readings.fetch_add(1, Ordering::Relaxed);
        }
    }
}

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Measured, Failure> {
    let seconds = bench.seconds(SECONDS);
    let every = seconds.div_ceil(MAX_MARKS - 1).max(1);
    let latest = Arc::new(Latest::default());
    let stop = StopFlag::default();
    let mut threads = Vec::new();
    for &cpu in bench.cpus() {
        let (latest, watched) = (Arc::clone(&latest), stop.watch());
        threads.push(Helper::start(cpu, move || watch(&latest, &watched))?);
    }
    // No phase, for marks of its own lie in it; so it has its own time-out.
    let _alarm = Alarm::arm(Duration::from_secs(seconds + 60));
    let start = Moment::now();
    let first_ns = time::read_clock_ns();
    let mut marks = vec![mark(bench)];
    for number in 1..=seconds.div_ceil(every) {
        let at = (number * every).min(seconds);
        time::sleep_until(first_ns + at * 1_000_000_000).map_err(|e| format!("sleep: {e}"))?;
        marks.push(mark(bench));
    }
    let span = start.elapsed();
    drop(stop);
    threads.into_iter().try_for_each(Helper::finish)?;
    let steps_back = latest.steps_back.load(Ordering::Relaxed);
    let check = match steps_back {
        0 => Ok(()),
        steps => Err(format!("a clock stepped back {steps} times")),
    };
    let detail = json!({
        "marks": marks,
        "steps_back": steps_back,
        "readings": latest.readings.load(Ordering::Relaxed),
    });
    Ok(Measured {
        detail: Some(detail),
        ..Measured::new(seconds, span).checked(check)
    })
}

/// One mark with the clocks around it: `[monotonic before, monotonic behind, wall behind]`.
fn mark(bench: &mut Bench<'_>) -> Value {
    let before_ns = time::read_clock_ns();
    bench.point(Work::Clock);
    let behind_ns = time::read_clock_ns();
    json!([before_ns, behind_ns, time::read_wall_clock_ns()])
}

fn watch(latest: &Latest, stop: &AtomicBool) -> Result<(), String> {
    while !stop.load(Ordering::Relaxed) {
        (0..BURST).for_each(|_| latest.look());
        // An alarm that ends the sleep early does no harm here.
        let _ = time::sleep(REST);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_before_the_latest_is_a_step_back() {
        let latest = Latest::default();
        latest.look();
        assert_eq!(latest.steps_back.load(Ordering::Relaxed), 0);
        latest.monotonic_ns.store(u64::MAX, Ordering::Relaxed);
        latest.look();
        assert_eq!(latest.steps_back.load(Ordering::Relaxed), 1);
        assert_eq!(latest.readings.load(Ordering::Relaxed), 4);
    }
}
