//! `cyclictest`: Debian's program of that name, if the initramfs has it. Operation: one wake-up.
//!
//! `scripts/guest-initrd --rt-tests` puts it in. One real-time thread per CPU wakes each millisecond;
//! the figures are read from its histogram. The process is started inside the phase: it is the work.

use super::bench::{Bench, Failure, Measured};
use crate::latency::{Latency, Span, CURVE_PER_MILLE};
use coopvirt_spec::work::Work;
use serde_json::json;
use std::path::Path;
use std::process::Command;

const PROGRAM: &str = "/usr/bin/cyclictest";
/// At scale 1, of each thread.
const WAKEUPS: u64 = 2000;
const INTERVAL_US: &str = "1000";
const PRIORITY: &str = "80";
/// Later wake-ups are only counted, in microseconds.
const HISTOGRAM_US: &str = "50000";
/// Only another event can have ended a sleep that was so late.
const LOST_US: u64 = 1_000_000;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Measured, Failure> {
    if !Path::new(PROGRAM).exists() {
        return Err(Failure::Skip(format!("there is no {PROGRAM}")));
    }
    let wakeups = bench.scaled(WAKEUPS);
    let nr_threads = bench.cpus().len();
    let mut command = Command::new(PROGRAM);
    command
        .args(["--quiet", "--mlockall", "--affinity"])
        .args(["--priority", PRIORITY, "--interval", INTERVAL_US])
        .args(["--distance", "0", "--histogram", HISTOGRAM_US])
        .args(["--loops", &wakeups.to_string()])
        .args(["--threads", &nr_threads.to_string()]);
    let (output, span) = bench.phase(Work::Cyclictest, || {
        command
            .output()
            .map_err(|error| format!("cannot run {PROGRAM}: {error}"))
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Failure::Error(format!(
            "{PROGRAM}: {}: {said}",
            output.status
        )));
    }
    let histogram = Histogram::parse(&String::from_utf8_lossy(&output.stdout));
    Ok(histogram.measured(wakeups, span))
}

/// How many wake-ups were late by how many microseconds.
#[derive(Debug, Default, PartialEq)]
struct Histogram {
    late_us: Vec<(u64, u64)>,
    overflows: u64,
    worst_us: u64,
    /// The most of one thread: the program ends with the first that has done all its wake-ups.
    most_of_a_thread: u64,
}

impl Histogram {
    /// Lines such as `000012 000345 000340` (microseconds, then a count per thread), `# Max
    /// Latencies: 00045 00051` and `# Histogram Overflows: 00000 00000`.
    fn parse(text: &str) -> Histogram {
        let mut histogram = Histogram::default();
        let mut by_thread = Vec::new();
        let numbers = |text: &str| -> Option<Vec<u64>> {
            text.split_whitespace()
                .map(|word| word.parse().ok())
                .collect()
        };
        for line in text.lines() {
            if let Some(worst) = line.strip_prefix("# Max Latencies:").and_then(numbers) {
                histogram.worst_us = worst.into_iter().max().unwrap_or(0);
            } else if let Some(over) = line
                .strip_prefix("# Histogram Overflows:")
                .and_then(numbers)
            {
                histogram.overflows = over.iter().sum();
                by_thread
                    .iter_mut()
                    .zip(over)
                    .for_each(|(all, more)| *all += more);
            } else if let Some([late_us, counts @ ..]) = numbers(line).as_deref() {
                let count: u64 = counts.iter().sum();
                by_thread.resize(by_thread.len().max(counts.len()), 0u64);
                by_thread
                    .iter_mut()
                    .zip(counts)
                    .for_each(|(all, more)| *all += more);
                if count > 0 {
                    histogram.late_us.push((*late_us, count));
                }
            }
        }
        histogram.most_of_a_thread = by_thread.into_iter().max().unwrap_or(0);
        histogram
    }

    fn nr_wakeups(&self) -> u64 {
        self.late_us.iter().map(|(_, count)| count).sum::<u64>() + self.overflows
    }

    /// Nearest rank; a wake-up beyond the histogram is as late as the worst.
    fn ns_at_per_mille(&self, per_mille: u64) -> u64 {
        let rank = (self.nr_wakeups() * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        let found = self.late_us.iter().find(|(_, count)| {
            seen += count;
            seen >= rank
        });
        found.map_or(self.worst_us, |(late_us, _)| *late_us) * 1000
    }

    fn measured(&self, expected: u64, span: Span) -> Measured {
        let n = self.nr_wakeups();
        let most = self.most_of_a_thread;
        let check = match most >= expected {
            true => Ok(()),
            false => Err(format!(
                "no thread had more than {most} wake-ups of {expected}"
            )),
        };
        // No more than these can have been so late.
        let lost = match self.worst_us > LOST_US {
            true => self.overflows,
            false => 0,
        };
        let detail = json!({
            "p999_ns": self.ns_at_per_mille(999),
            "worst_ns": self.worst_us * 1000,
            "beyond_histogram": self.overflows,
            "lost": lost,
        });
        let latency = Latency {
            n,
            min: self
                .late_us
                .first()
                .map_or(0, |(late_us, _)| late_us * 1000),
            median: self.ns_at_per_mille(500),
            p99: self.ns_at_per_mille(990),
            max: self.worst_us * 1000,
            curve: CURVE_PER_MILLE.map(|per_mille| self.ns_at_per_mille(per_mille as u64)),
        };
        Measured {
            latency: Some(latency),
            detail: Some(detail),
            ..Measured::new(n, span).checked(check)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "# /dev/cpu_dma_latency set to 0us\n# Histogram\n\
        000000 000000\t000000\n000004 000900\t000990\n000009 000099\t000009\n\
        # Total: 000000999 000000999\n# Min Latencies: 00004 00004\n# Avg Latencies: 00005 00004\n\
        # Max Latencies: 00009 70000\n# Histogram Overflows: 00001 00001\n\
        # Histogram Overflow at cycle number:\n# Thread 0: 5\n";

    #[test]
    fn a_histogram_is_read_with_its_overflows() {
        let histogram = Histogram::parse(OUTPUT);
        assert_eq!(histogram.late_us, [(4, 1890), (9, 108)]);
        assert_eq!((histogram.overflows, histogram.worst_us), (2, 70_000));
        assert_eq!(histogram.most_of_a_thread, 1000);
        let measured = histogram.measured(1000, Span { ns: 1, ticks: 1 });
        assert_eq!(measured.check, Ok(()));
        let latency = measured.latency.unwrap();
        assert_eq!((latency.median, latency.p99), (4000, 9000));
        let detail = measured.detail.unwrap();
        assert_eq!(
            (&detail["p999_ns"], &detail["lost"]),
            (&json!(9000), &json!(0))
        );
        assert_eq!(histogram.ns_at_per_mille(1000), 70_000_000);
    }

    #[test]
    fn wakeups_that_are_missing_or_a_second_late_are_said() {
        let span = Span { ns: 1, ticks: 1 };
        let measured = Histogram::parse(OUTPUT).measured(1001, span);
        let error = "no thread had more than 1000 wake-ups of 1001".to_string();
        assert_eq!(measured.check, Err(error));
        let late = OUTPUT.replace("70000", "1700000");
        let measured = Histogram::parse(&late).measured(1000, span);
        assert_eq!(measured.detail.unwrap()["lost"], json!(2));
    }
}
