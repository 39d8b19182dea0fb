//! What a comparison has found: the types behind the JSON file, the table and the page.
//!
//! Written by [`super::session`], read by [`super::summary`], [`super::table`], [`super::html`] and
//! by `--resume`. Holds raw samples only; everything derived is computed when it is shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::args::{Console, Refill};
use super::detail::Figures;
use super::noise::Noise;
use super::pin::Thread;
use super::records::{Latency, ModuleRecord, Platform};
use super::setting::Setting;
use super::traced::Level;
use crate::account::model::Counts;
use crate::coop::counters::CoopCounts;

/// Changes when a reader of the JSON file would have to change.
pub const FORMAT: u32 = 2;

/// A comparison, finished or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// The program that measured.
    pub program: Program,
    /// The machine that it measured on.
    pub host: Host,
    /// What was asked for.
    pub params: Params,
    /// The arms, in the order of the tables.
    pub arms: Vec<ArmNote>,
    /// Each run, failed ones included, in the order in which they ended.
    pub runs: Vec<Run>,
}

/// Which program measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Version of the package.
    pub version: String,
    /// Revision of its source, if the build knew it.
    pub revision: Option<String>,
}

/// Where was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// What runs the guests: "AMD-V with nested paging, ...".
    pub backend: String,
    /// Whether the host is itself emulated, so that counts are real and times are not.
    pub is_emulated: bool,
    /// The host's kernel.
    pub kernel: String,
    /// The host's CPU.
    pub cpu: String,
    /// CPUs of the host.
    pub cpus: u32,
    /// Version of the peer VMM, if one takes part.
    pub peer: Option<String>,
}

/// What was asked for. A comparison is resumed only if all but `repetitions` are the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Params {
    /// Path of the guest's kernel.
    pub kernel: String,
    /// Size and FNV-1a hash of the guest's kernel: "9123456-0123456789abcdef".
    pub kernel_id: String,
    /// Path of the guest's initramfs.
    pub initrd: String,
    /// Size and hash of the guest's initramfs.
    pub initrd_id: String,
    /// Names of the works.
    pub works: Vec<String>,
    /// Name of the arm that ratios refer to.
    pub reference: String,
    /// Repetitions asked for.
    pub repetitions: u32,
    /// vCPUs of each guest.
    pub cpus: u32,
    /// Memory of each guest.
    pub memory_bytes: u64,
    /// The console of all rows but some boot rows.
    pub console: Console,
    /// Multiplier of the number of operations.
    pub scale: f64,
    /// Seed of order and bootstrap.
    pub seed: u64,
    /// Seconds of the works that last, if not by the scale.
    #[serde(default)]
    pub seconds: Option<u32>,
    /// What memory `refill` touches again.
    #[serde(default)]
    pub refill: Refill,
    /// How much was counted.
    #[serde(default)]
    pub detail: Level,
    /// How threads were pinned, or why not.
    pub pinning: String,
    /// Arms of the experiment's own: each as a TOML table in one line, with its files' hashes.
    #[serde(default)]
    pub own_arms: Vec<String>,
}

/// An arm as the report names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArmNote {
    /// Its name.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Whether it is one of those that the best stock arm is looked for among.
    #[serde(default)]
    pub is_stock: bool,
    /// Why it was not run, if so.
    #[serde(default)]
    pub gap: Option<String>,
}

/// One boot of one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Which repetition, from 0.
    pub repetition: u32,
    /// Name of the arm.
    pub arm: String,
    /// How it was booted.
    #[serde(flatten)]
    pub setting: Setting,
    /// 1, or 2 for a run that repeats a failed one.
    pub attempt: u32,
    /// Wall time from start to end.
    pub seconds: f64,
    /// Why it failed, if it did. Samples may be there all the same.
    pub failure: Option<Failure>,
    /// The command that ran it.
    pub command: Vec<String>,
    /// What the guest says it runs on.
    pub platform: Option<Platform>,
    /// One sample per work that was done and counted.
    pub samples: Vec<Sample>,
    /// Works that the guest could not do.
    pub skipped: Vec<Skipped>,
    /// All exits from start to end.
    pub whole: Counts,
    /// Events that the tracer lost.
    pub lost: u64,
    /// Whether independent counts agree, where there are some.
    pub identity: Option<Identity>,
    /// Which host CPUs the VMM's threads were bound to.
    #[serde(default)]
    pub threads: Vec<Thread>,
    /// What the host half of the cooperative interface has done, in that mode.
    #[serde(default)]
    pub coop: Option<CoopCounts>,
    /// What the guest said of our module, when it had loaded it and when it had unloaded it.
    #[serde(default)]
    pub modules: Vec<ModuleRecord>,
    /// What else the host did meanwhile.
    #[serde(default)]
    pub noise: Option<Noise>,
    /// What was lost because exits could not be traced, if so: the figures are of KVM's statistics.
    #[serde(default)]
    pub degraded: Option<String>,
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What happened, in words.
    pub reason: String,
    /// Whether trying again would be pointless.
    pub is_final: bool,
    /// The last lines of the guest's console and of the VMM's messages.
    pub tail: Vec<String>,
}

/// One work of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Name of the work.
    pub work: String,
    /// Operations done.
    pub ops: u64,
    /// Wall time between the marks by the host's clock.
    pub elapsed_ns: u64,
    /// Wall time that the work took by the guest's clock; the same at each level of detail.
    #[serde(default)]
    pub guest_elapsed_ns: Option<u64>,
    /// CPU time of the whole VMM between the marks.
    pub cpu_ns: u64,
    /// The same by kind of thread, where it was read: "vcpus", "sidecore", "vhost", "others".
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cpu_by_thread_ns: BTreeMap<String, u64>,
    /// Latency of an operation as the guest measured it.
    pub latency_ns: Option<Latency>,
    /// Figures that only this work has.
    #[serde(default)]
    pub detail: Figures,
    /// Exits between the marks.
    pub counts: Counts,
}

/// A work that the guest could not do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Name of the work.
    pub work: String,
    /// Why.
    pub reason: String,
}

/// Counts of the same thing by two counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Exits by the tracer.
    pub traced_exits: u64,
    /// Exits by the kernel's per-vCPU statistics, as our VMM read them.
    pub stats_exits: Option<u64>,
    /// Returns to userspace by the tracer.
    pub traced_userspace: u64,
    /// Returns to userspace by our VMM's own count.
    pub own_userspace: Option<u64>,
    /// Why our VMM's counts are not there, if so.
    pub missing: Option<String>,
}

impl Identity {
    /// Differences above this share of the larger count are a failure.
    const TOLERANCE_PERCENT: u64 = 1;

    /// What does not agree, if anything.
    pub fn failure(&self) -> Option<String> {
        if let Some(missing) = &self.missing {
            return Some(missing.clone());
        }
        let pairs = [
            (
                "exits",
                self.traced_exits,
                self.stats_exits,
                "kernel statistics",
            ),
            (
                "userspace exits",
                self.traced_userspace,
                self.own_userspace,
                "VMM's own count",
            ),
        ];
        let wrong: Vec<String> = pairs
            .into_iter()
            .filter_map(|(what, traced, other, name)| {
                let other = other?;
                let allowed = traced.max(other) / 100 * Self::TOLERANCE_PERCENT;
                (traced.abs_diff(other) > allowed.max(8))
                    .then(|| format!("{what}: tracer {traced}, {name} {other}"))
            })
            .collect();
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }
}

impl Report {
    /// The run that counts for a cell: the last attempt.
    pub fn run_of(&self, repetition: u32, arm: &str, setting: Setting) -> Option<&Run> {
        self.runs
            .iter()
            .rev()
            .find(|run| run.repetition == repetition && run.arm == arm && run.setting == setting)
    }

    /// The runs that count: of each cell the last attempt.
    pub fn counted_runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| {
            self.run_of(run.repetition, &run.arm, run.setting)
                .is_some_and(|last| std::ptr::eq(last, *run))
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn identity_fails_above_one_percent_only() {
        let identity = |stats, own| Identity {
            traced_exits: 10_000,
            stats_exits: stats,
            traced_userspace: 500,
            own_userspace: own,
            missing: None,
        };
        assert_eq!(identity(Some(10_099), Some(505)).failure(), None);
        assert_eq!(identity(None, None).failure(), None);
        let failure = identity(Some(9_800), Some(600)).failure().unwrap();
        assert!(failure.contains("kernel statistics 9800"), "{failure}");
        assert!(failure.contains("VMM's own count 600"), "{failure}");
        assert!(identity(Some(u64::MAX), None).failure().is_some());
        let missing = Identity {
            missing: Some("none".into()),
            ..identity(None, None)
        };
        assert_eq!(missing.failure().as_deref(), Some("none"));
    }
}
