//! `wakeup`: on each CPU a real-time thread wakes every 2 ms at fixed times. Operation: one wake-up.
//!
//! What cyclictest does, for machines without it: the latency is how late a thread runs behind the
//! time it asked for. A time that passed while the thread was still late for an earlier one is an
//! overrun, and left out; a wake-up more than a second late counts as lost, for only another event
//! can have ended such a sleep.

use super::bench::{Bench, Failure, Measured};
use crate::helper::Helper;
use crate::latency::{Latency, Span, CURVE_PER_MILLE};
use crate::sys::{cpu, time};
use coopvirt_spec::work::Work;
use serde_json::{json, Map, Value};
use std::sync::{Arc, Mutex};

/// At scale 1, of each thread.
const WAKEUPS: u64 = 500;
const INTERVAL_NS: u64 = 2_000_000;
/// From the begin mark to the first wake-up.
const LEAD_NS: u64 = 20_000_000;
const LOST_NS: u64 = 1_000_000_000;
const PRIORITY: i32 = 80;

/// What one thread saw.
#[derive(Debug, Default)]
struct Seen {
    late_ns: Vec<u64>,
    overruns: u64,
}

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Measured, Failure> {
    let wakeups = bench.scaled(WAKEUPS);
    let start = Arc::new(Mutex::new(None::<u64>));
    let all = Arc::new(Mutex::new(Vec::<Seen>::new()));
    let mut threads = Vec::new();
    // Held until all threads wait for it, then given with the time of the start.
    let mut gate = lock(&start)?;
    for &cpu in bench.cpus() {
        let (start, all) = (Arc::clone(&start), Arc::clone(&all));
        threads.push(Helper::start(cpu, move || {
            cpu::become_real_time(PRIORITY).map_err(|e| format!("cannot become real-time: {e}"))?;
            let mut seen = Seen {
                // Room that has been touched.
                late_ns: vec![u64::MAX; usize::try_from(wakeups).unwrap_or(0)],
                overruns: 0,
            };
            seen.late_ns.clear();
            let Some(from_ns) = *lock(&start)? else {
                return Ok(());
            };
            wake(from_ns, wakeups, &mut seen)?;
            lock(&all)?.push(seen);
            Ok(())
        })?);
    }
    let nr_threads = threads.len();
    let lasts_ns = LEAD_NS + wakeups.saturating_mul(INTERVAL_NS);
    let ((), span) = bench.phase(Work::Wakeup, || {
        let now_ns = time::read_clock_ns();
        *gate = Some(now_ns + LEAD_NS);
        drop(gate);
        time::sleep_until(now_ns + lasts_ns + INTERVAL_NS).map_err(|e| format!("sleep: {e}"))
    })?;
    let ended = threads.into_iter().try_for_each(Helper::finish);
    let seen = std::mem::take(&mut *lock(&all)?);
    Ok(measured(&seen, nr_threads, span).checked(ended))
}

fn lock<T>(mutex: &Mutex<T>) -> Result<std::sync::MutexGuard<'_, T>, String> {
    mutex.lock().map_err(|_| "a thread panicked".to_string())
}

/// Sleeps to each of the times from `from_ns` on.
fn wake(from_ns: u64, wakeups: u64, seen: &mut Seen) -> Result<(), String> {
    let mut next_ns = from_ns;
    let end_ns = from_ns + wakeups.saturating_mul(INTERVAL_NS);
    while next_ns < end_ns {
        time::sleep_until(next_ns).map_err(|error| format!("sleep: {error}"))?;
        let late_ns = time::read_clock_ns().saturating_sub(next_ns);
        seen.late_ns.push(late_ns);
        let skipped = late_ns / INTERVAL_NS;
        seen.overruns += skipped;
        next_ns += (skipped + 1) * INTERVAL_NS;
    }
    Ok(())
}

fn measured(seen: &[Seen], nr_threads: usize, span: Span) -> Measured {
    let mut late: Vec<u64> = seen
        .iter()
        .flat_map(|seen| seen.late_ns.iter().copied())
        .collect();
    late.sort_unstable();
    let detail = json!({
        "threads": nr_threads,
        "interval_us": INTERVAL_NS / 1000,
        "p999_ns": at_per_mille(&late, 999),
        "worst_ns": late.last(),
        "overruns": seen.iter().map(|seen| seen.overruns).sum::<u64>(),
        "lost": late.iter().filter(|&&late| late > LOST_NS).count(),
        "late_below_us": histogram(&late),
    });
    let latency = late.first().map(|&min| Latency {
        n: late.len() as u64,
        min,
        median: at_per_mille(&late, 500).unwrap_or(0),
        p99: at_per_mille(&late, 990).unwrap_or(0),
        max: late.last().copied().unwrap_or(0),
        curve: CURVE_PER_MILLE.map(|per_mille| at_per_mille(&late, per_mille).unwrap_or(0)),
    });
    Measured {
        latency,
        detail: Some(detail),
        ..Measured::new(late.len() as u64, span)
    }
}

/// Nearest rank.
fn at_per_mille(sorted: &[u64], per_mille: usize) -> Option<u64> {
    let rank = (sorted.len() * per_mille).div_ceil(1000).max(1);
    sorted.get(rank - 1).copied()
}

/// Counts by powers of two of microseconds.
fn histogram(late: &[u64]) -> Value {
    let mut counts = Map::new();
    for bound_us in (0..32).map(|bit| 1u64 << bit) {
        let is_in = |late: &&u64| {
            let us = **late / 1000;
            us < bound_us && (bound_us == 1 || us >= bound_us / 2)
        };
        let count = late.iter().filter(is_in).count();
        if count > 0 {
            counts.insert(bound_us.to_string(), json!(count));
        }
    }
    Value::Object(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_histogram_and_lost_wakeups_are_counted() {
        let mut late_ns: Vec<u64> = (1..=999).map(|n| n * 1000).collect();
        late_ns.push(LOST_NS + 1);
        let seen = [Seen {
            late_ns,
            overruns: 3,
        }];
        let measured = measured(&seen, 1, Span { ns: 1, ticks: 1 });
        let detail = measured.detail.unwrap();
        assert_eq!(measured.ops, 1000);
        assert_eq!(measured.latency.unwrap().median, 500_000);
        assert_eq!(detail["p999_ns"], json!(999_000));
        assert_eq!(detail["worst_ns"], json!(LOST_NS + 1));
        assert_eq!(
            (&detail["lost"], &detail["overruns"]),
            (&json!(1), &json!(3))
        );
        let counts = detail["late_below_us"].as_object().unwrap();
        let sum: u64 = counts.values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(sum, 1000);
        assert_eq!((&counts["2"], &counts["1024"]), (&json!(1), &json!(488)));
    }

    #[test]
    fn a_thread_that_is_late_for_several_times_leaves_them_out() {
        let mut seen = Seen {
            late_ns: Vec::new(),
            overruns: 0,
        };
        let from_ns = time::read_clock_ns() - 10 * INTERVAL_NS;
        wake(from_ns, 12, &mut seen).unwrap();
        assert!(seen.overruns >= 10 && seen.late_ns.len() <= 2);
        assert!(seen.late_ns[0] >= 10 * INTERVAL_NS);
    }
}
