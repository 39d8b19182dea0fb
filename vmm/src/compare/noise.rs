//! What else the host did during a run: time stolen by its own hypervisor, CPU time of others, a CPU
//! held back for its heat, other VMs.
//!
//! [`Watch`] looks before and after each run (called by [`super::session`]); [`lines`] says in the
//! report what a reader should know. What this machine does not tell is not guessed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde::{Deserialize, Serialize};

use super::model::Report;

/// Shares below these are what any host has.
const MAX_STOLEN_PERCENT: f64 = 1.0;
const MAX_OTHERS_PERCENT: f64 = 5.0;

/// What disturbed one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Noise {
    /// Share of all CPU time that the host's own hypervisor took; `None` where the kernel counts none.
    pub stolen_percent: Option<f64>,
    /// Share of all CPU time that was spent on neither this program nor its VM.
    pub others_percent: Option<f64>,
    /// How often a CPU was throttled, where the host counts that.
    pub throttled: Option<u64>,
    /// Names of other processes whose VMs did something meanwhile.
    pub other_vms: BTreeSet<String>,
}

/// Counters at one moment.
pub struct Watch {
    cpu: Option<CpuTime>,
    own_ticks: Option<u64>,
    throttled: Option<u64>,
    /// By name, with their clock ticks.
    other_vms: BTreeMap<String, u64>,
}

/// Clock ticks since the host's start, all CPUs.
#[derive(Clone, Copy, Debug, PartialEq)]
struct CpuTime {
    all: u64,
    busy: u64,
    stolen: u64,
}

impl Watch {
    /// Looks before a run.
    pub fn start() -> Watch {
        Watch {
            cpu: read("/proc/stat").as_deref().and_then(cpu_time),
            own_ticks: read("/proc/self/stat").as_deref().and_then(ticks_of),
            throttled: throttled(),
            other_vms: other_vms(),
        }
    }

    /// Looks again behind it, when its children have ended.
    pub fn end(self) -> Noise {
        let now = Watch::start();
        let percent = |part: u64, all: u64| (all > 0).then(|| part as f64 * 100.0 / all as f64);
        let spent = self.cpu.zip(now.cpu).map(|(then, now)| CpuTime {
            all: now.all.saturating_sub(then.all),
            busy: now.busy.saturating_sub(then.busy),
            stolen: now.stolen.saturating_sub(then.stolen),
        });
        let own = self.own_ticks.zip(now.own_ticks);
        let own = own.map(|(then, now)| now.saturating_sub(then));
        Noise {
            stolen_percent: spent.and_then(|spent| percent(spent.stolen, spent.all)),
            others_percent: spent
                .zip(own)
                .and_then(|(spent, own)| percent(spent.busy.saturating_sub(own), spent.all)),
            throttled: self
                .throttled
                .zip(now.throttled)
                .map(|(then, now)| now.saturating_sub(then)),
            // One that came and went between is not seen.
            other_vms: now
                .other_vms
                .into_iter()
                .filter(|(name, ticks)| self.other_vms.get(name).unwrap_or(&0) < ticks)
                .map(|(name, _)| name)
                .collect(),
        }
    }
}

/// What the report says about noise: nothing where nothing was seen.
pub fn lines(report: &Report) -> Vec<String> {
    let noise: Vec<&Noise> = report
        .counted_runs()
        .filter_map(|run| run.noise.as_ref())
        .collect();
    let all = noise.len();
    let mut lines = Vec::new();
    let mut share = |what: &str, limit: f64, of: fn(&Noise) -> Option<f64>| {
        let above: Vec<f64> = noise
            .iter()
            .filter_map(|noise| of(noise))
            .filter(|percent| *percent > limit)
            .collect();
        if let Some(worst) = above.iter().copied().reduce(f64::max) {
            lines.push(format!(
                "{what}: above {limit} % in {} of {all} runs, {worst:.0} % in the worst",
                above.len()
            ));
        }
    };
    share(
        "CPU time stolen by this machine's own hypervisor",
        MAX_STOLEN_PERCENT,
        |noise| noise.stolen_percent,
    );
    share(
        "CPU time spent on other processes",
        MAX_OTHERS_PERCENT,
        |noise| noise.others_percent,
    );
    let throttled = noise
        .iter()
        .filter(|noise| noise.throttled.unwrap_or(0) > 0);
    match throttled.count() {
        0 => {}
        runs => lines.push(format!("a CPU was throttled in {runs} of {all} runs")),
    }
    let others: BTreeSet<&str> = noise
        .iter()
        .flat_map(|noise| noise.other_vms.iter().map(String::as_str))
        .collect();
    if !others.is_empty() {
        let names: Vec<&str> = others.into_iter().collect();
        lines.push(format!("other VMs ran on this host: {}", names.join(", ")));
    }
    if !lines.is_empty() && report.host.is_emulated {
        lines.push("what happens outside the emulated host cannot be seen from within".into());
    }
    lines
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The line `cpu user nice system idle iowait irq softirq steal ...` (proc_stat(5)).
fn cpu_time(stat: &str) -> Option<CpuTime> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    let [user, nice, system, idle, iowait, irq, softirq, stolen, ..] = ticks[..] else {
        return None;
    };
    let busy = user + nice + system + irq + softirq;
    Some(CpuTime {
        all: busy + idle + iowait + stolen,
        busy,
        stolen,
    })
}

/// A process and its ended children: fields 14 to 17 of proc_pid_stat(5), behind the name, which
/// may hold anything.
fn ticks_of(stat: &str) -> Option<u64> {
    let fields = stat.rsplit_once(')')?.1.split_whitespace();
    let ticks: Vec<u64> = fields
        .skip(11)
        .take(4)
        .map_while(|word| word.parse().ok())
        .collect();
    (ticks.len() == 4).then(|| ticks.iter().sum())
}

fn throttled() -> Option<u64> {
    let cpus = fs::read_dir("/sys/devices/system/cpu").ok()?;
    let counts: Vec<u64> = cpus
        .flatten()
        .filter_map(|cpu| {
            let path = cpu.path().join("thermal_throttle/core_throttle_count");
            fs::read_to_string(path).ok()?.trim().parse().ok()
        })
        .collect();
    (!counts.is_empty()).then(|| counts.iter().sum())
}

/// Processes beside this one with a vCPU, by name and number, with their clock ticks.
fn other_vms() -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let own = std::process::id().to_string();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = process.file_name().to_string_lossy().into_owned();
        if pid == own || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let files = fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten();
        let is_vm = files.flatten().any(|file| {
            let to = fs::read_link(file.path()).unwrap_or_default();
            to.to_string_lossy().starts_with("anon_inode:kvm-vcpu")
        });
        if is_vm {
            let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let name = format!("{} ({pid})", super::records::clean(&name));
            found.insert(name, ticks_of(&stat).unwrap_or(0));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::summary::tests::report;

    #[test]
    fn the_kernels_files_are_understood() {
        let stat = "cpu  10 1 20 100 5 2 3 4 50 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        let time = CpuTime {
            all: 145,
            busy: 36,
            stolen: 4,
        };
        assert_eq!(cpu_time(stat), Some(time));
        assert_eq!(cpu_time("cpu 1 2 3\n"), None);
        let own = "7 (a) b) S 1 7 7 0 -1 4 5 6 7 8 100 20 3 4 20 0 1 0 9";
        assert_eq!(ticks_of(own), Some(127));
        assert_eq!(ticks_of("7 (a) S 1"), None);
        // This very host has both.
        let noise = Watch::start().end();
        assert!(noise.others_percent.is_none_or(|percent| percent <= 100.0));
    }

    #[test]
    fn only_what_disturbs_is_said() {
        let mut report = report();
        assert_eq!(lines(&report), [""; 0]);
        report.runs[0].noise = Some(Noise {
            stolen_percent: Some(0.5),
            others_percent: Some(2.0),
            ..Noise::default()
        });
        assert_eq!(lines(&report), [""; 0]);
        report.runs[1].noise = Some(Noise {
            stolen_percent: Some(12.4),
            others_percent: Some(30.0),
            throttled: Some(2),
            other_vms: ["qemu (7)".to_string()].into(),
        });
        let text = lines(&report).join("\n");
        for part in [
            "hypervisor: above 1 % in 1 of 2 runs, 12 % in the worst",
            "other processes: above 5 % in 1 of 2 runs, 30 %",
            "throttled in 1 of 2",
            "other VMs ran on this host: qemu (7)",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
