//! When a process first entered a guest, by the `kvm_entry` tracepoint in a trace of its own.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

const TRACING: &str = "/sys/kernel/tracing/instances";

/// A trace instance that records `kvm_entry`; removed when dropped.
pub(crate) struct EntryTrace {
    folder: PathBuf,
}

impl EntryTrace {
    /// Makes the instance and switches the event on.
    pub(crate) fn start() -> Result<Self> {
        let folder = PathBuf::from(TRACING).join(format!("coopvirt-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("could not make {folder:?}"))?;
        let trace = Self { folder };
        trace.write("trace_clock", "mono")?;
        trace.write("options/record-tgid", "1")?;
        trace.write("events/kvm/kvm_entry/enable", "1")?;
        Ok(trace)
    }

    /// The monotonic time of the first entry by a thread of process `pid`; the trace is emptied.
    pub(crate) fn wait_for(&self, pid: u32, limit: Duration) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let text = fs::read_to_string(self.folder.join("trace"))?;
            if let Some(time) = first_entry(&text, &threads(pid)) {
                self.write("trace", "")?;
                return Ok(time);
            }
            if began.elapsed() > limit {
                bail!("process {pid} did not enter a guest within {limit:?}");
            }
            sleep(Duration::from_millis(20));
        }
    }

    fn write(&self, name: &str, value: &str) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, value).with_context(|| format!("could not write {path:?}"))
    }
}

impl Drop for EntryTrace {
    fn drop(&mut self) {
        // What is left behind if this fails is an instance that an administrator can remove.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Thread numbers of a process.
fn threads(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Finds the first line such as `vcpu0-123 ( 120) [001] d..1. 12.345678: kvm_entry: ...` of one of
/// these threads.
fn first_entry(trace: &str, threads: &[u32]) -> Option<Duration> {
    trace
        .lines()
        .filter(|line| line.contains(": kvm_entry:"))
        .find_map(|line| {
            let (head, _) = line.split_once(": kvm_entry:")?;
            let task = head.split('[').next()?.trim();
            let task = task.split(" (").next()?.trim();
            let thread: u32 = task.rsplit('-').next()?.trim().parse().ok()?;
            let seconds: f64 = head.split_whitespace().last()?.parse().ok()?;
            threads
                .contains(&thread)
                .then(|| Duration::from_secs_f64(seconds))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_of_the_right_thread_is_found() {
        let trace = "# tracer: nop\n\
            \x20 CPU 0/KVM-77      [001] d..1.    10.000001: kvm_entry: vcpu 0, rip 0xfff0\n\
            \x20 vcpu0-123     (    120) [001] d..1.    12.500000: kvm_entry: vcpu 0, rip 0x1\n";
        assert_eq!(
            first_entry(trace, &[123]),
            Some(Duration::from_millis(12_500))
        );
        assert_eq!(
            first_entry(trace, &[77]),
            Some(Duration::from_micros(10_000_001))
        );
        assert_eq!(first_entry(trace, &[5]), None);
    }
}
