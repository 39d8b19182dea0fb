//! What the kernel has counted of one VM and its process.

use std::fs;
use std::ops::Sub;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

const DEBUGFS: &str = "/sys/kernel/debug/kvm";
/// Of `/proc/PID/stat`, counted behind the name in parentheses: user and system time.
const STAT_UTIME: usize = 11;
const STAT_STIME: usize = 12;

/// Where the counts of one VM are.
pub(crate) struct Counts {
    vm: PathBuf,
    stat: PathBuf,
    nanos_per_tick: u64,
}

/// Counts at one moment, or between two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// All exits of all vCPUs.
    pub(crate) exits: u64,
    /// Those for an interrupt of the host.
    pub(crate) irq_exits: u64,
    /// CPU time of the process, in nanoseconds.
    pub(crate) cpu_nanos: u64,
}

impl Counts {
    /// Finds the only VM of this process.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let prefix = format!("{pid}-");
        let entries = fs::read_dir(DEBUGFS)
            .with_context(|| format!("cannot read {DEBUGFS}; is debugfs mounted?"))?;
        let mut found = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        let vm = found
            .next()
            .with_context(|| format!("process {pid} has no VM"))?;
        ensure!(found.next().is_none(), "process {pid} has several VMs");
        let ticks = rustix::param::clock_ticks_per_second();
        Ok(Self {
            vm: vm.path(),
            stat: Path::new("/proc").join(pid.to_string()).join("stat"),
            nanos_per_tick: 1_000_000_000 / ticks.max(1),
        })
    }

    pub(crate) fn read(&self) -> Result<Reading> {
        let count = |name| -> Result<u64> {
            let path = self.vm.join(name);
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            text.trim()
                .parse()
                .with_context(|| format!("{name} is no number"))
        };
        let stat = fs::read_to_string(&self.stat).context("the process has gone")?;
        let ticks = cpu_ticks(&stat).context("/proc/PID/stat cannot be understood")?;
        Ok(Reading {
            exits: count("exits")?,
            irq_exits: count("irq_exits")?,
            cpu_nanos: ticks * self.nanos_per_tick,
        })
    }
}

/// User and system time of all threads, those that have ended too.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name may contain anything, blanks and parentheses too.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(field(STAT_UTIME)? + field(STAT_STIME)?)
}

impl Sub for Reading {
    type Output = Self;
    fn sub(self, before: Self) -> Self {
        Self {
            exits: self.exits.saturating_sub(before.exits),
            irq_exits: self.irq_exits.saturating_sub(before.irq_exits),
            cpu_nanos: self.cpu_nanos.saturating_sub(before.cpu_nanos),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_a_strange_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 100 0 0 0 35 21 0 0 20 0 9 0 12";
        assert_eq!(cpu_ticks(stat), Some(56));
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
    }
}
