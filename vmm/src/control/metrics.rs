//! A machine's counters at one moment: per vCPU why it exited, per device what it did.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::threads;
use crate::account::names::NameOf;
use crate::account::stats_fd::Snapshot;
use crate::account::tracer::TraceWatch;
use crate::accounting::named_returns;
use crate::coop::{Coop, CoopGauges};
use crate::machine::{Gauges, RunState};
use crate::mark_log::sum_returns;
use crate::vcpu::tally::{Kind, Tally};
use crate::virtio::{BalloonState, DeviceCounts, Latency, VsockCounts};

/// The answer of `GET /metrics.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// Whether guest code runs: counters of a paused machine's vCPUs stand still.
    pub state: RunState,
    /// One per vCPU.
    pub vcpus: Vec<VcpuMetrics>,
    /// One per virtio device, in the order of the bus.
    pub devices: Vec<DeviceMetrics>,
    /// Why the vCPUs exited, as far as somebody knows while the machine runs.
    #[serde(default)]
    pub causes: Causes,
    /// CPU time of the VMM's threads that run now, in nanoseconds, those of one name together.
    #[serde(default)]
    pub thread_cpu_ns: BTreeMap<String, u64>,
    /// The cooperative interface, in `coop` mode.
    #[serde(default)]
    pub coop: Option<CoopGauges>,
    /// The balloon, if there is one; the guest is not asked for its statistics.
    #[serde(default)]
    pub balloon: Option<BalloonState>,
    /// The sockets that the VMM serves itself, if it does.
    #[serde(default)]
    pub vsock: Option<VsockCounts>,
}

/// Exits of all vCPUs by cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Causes {
    /// Who knows.
    pub source: CauseSource,
    /// By hardware reason ("HLT", "NPF"), from tracepoints alone.
    pub by_reason: BTreeMap<String, u64>,
    /// By what is known beyond the reason ("WRMSR 0x6e0 TSC_DEADLINE", "OUT 0x3f8 serial").
    pub by_cause: BTreeMap<String, u64>,
}

/// Who knows the cause of an exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CauseSource {
    /// The kernel's tracepoints, which `run --exits` reads: all exits, some milliseconds ago.
    Tracepoints,
    /// The VMM: only exits that came to userspace.
    #[default]
    Vmm,
}

impl CauseSource {
    /// Its name in JSON and for Prometheus.
    pub fn name(self) -> &'static str {
        match self {
            CauseSource::Tracepoints => "tracepoints",
            CauseSource::Vmm => "vmm",
        }
    }
}

/// What is read.
pub struct Sources<'a> {
    /// vCPUs and devices.
    pub gauges: &'a Gauges,
    /// The names of ports and addresses.
    pub names: &'a dyn NameOf,
    /// The cooperative interface.
    pub coop: Option<&'a Coop>,
    /// The tracer, if there is one.
    pub trace: Option<&'a TraceWatch>,
}

/// Who counted a vCPU's exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitSource {
    /// KVM's statistics descriptor: all exits.
    KvmStats,
    /// The VMM, where KVM has no statistics: only exits that came to userspace.
    Vmm,
}

/// The counters of one vCPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuMetrics {
    /// Its number.
    pub vcpu: usize,
    /// Who counted `exits` and `exits_by_reason`.
    pub source: ExitSource,
    /// All exits that the source knows of.
    pub exits: u64,
    /// The reasons that the source tells apart. KVM's do not add up to `exits`: it has no counter
    /// for some reasons.
    pub exits_by_reason: BTreeMap<String, u64>,
    /// Returns of `KVM_RUN` to userspace, as the VMM counted them.
    pub returns: u64,
    /// The same by kind; "signal" is a kick or a pause.
    pub returns_by_kind: BTreeMap<String, u64>,
}

/// The counters of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMetrics {
    /// Its kind: "virtio-blk".
    pub device: String,
    /// Which one of its kind, from 0.
    pub index: usize,
    /// What it has done.
    #[serde(flatten)]
    pub counts: DeviceCounts,
    /// How long it had requests that it serves itself; for disks, and what a network interface sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
}

impl Metrics {
    /// Reads everything.
    pub fn read(state: RunState, sources: &Sources<'_>) -> Metrics {
        let gauges = sources.gauges;
        // Without a descriptor for each vCPU nobody knows which one is whose.
        let has_stats = gauges.stats.len() == gauges.tallies.len();
        let vcpus = gauges.tallies.iter().enumerate().map(|(vcpu, tally)| {
            let stats = gauges.stats.get(vcpu).filter(|_| has_stats);
            let snapshot = stats.and_then(|stats| stats.read().ok());
            VcpuMetrics::new(vcpu, snapshot.as_ref(), tally)
        });
        let mut seen = BTreeMap::<&str, usize>::new();
        let devices = gauges.devices.iter().map(|(name, counters)| {
            let next = seen.entry(name).or_default();
            let index = *next;
            *next += 1;
            DeviceMetrics {
                device: name.clone(),
                index,
                counts: counters.counts(),
                latency: counters.latency(),
            }
        });
        Metrics {
            state,
            vcpus: vcpus.collect(),
            devices: devices.collect(),
            causes: Causes::read(sources),
            thread_cpu_ns: threads::cpu_ns(),
            coop: sources.coop.map(Coop::gauges),
            balloon: gauges.balloon.as_ref().map(|balloon| balloon.state()),
            vsock: gauges.vsock.as_ref().map(|vsock| vsock.counts()),
        }
    }
}

/// Causes that are told: a guest can make as many as it has addresses, and no client takes an answer of any
/// length.
const MAX_CAUSES: usize = 1024;

impl Causes {
    fn read(sources: &Sources<'_>) -> Causes {
        if let Some(counts) = sources.trace.and_then(TraceWatch::counts) {
            return Causes {
                source: CauseSource::Tracepoints,
                by_reason: counts.by_reason,
                by_cause: most_frequent(counts.by_cause, "other".into()),
            };
        }
        let returns = most_frequent(sum_returns(&sources.gauges.tallies), Kind::Other);
        Causes {
            source: CauseSource::Vmm,
            by_reason: BTreeMap::new(),
            by_cause: named_returns(&returns, sources.names),
        }
    }
}

impl VcpuMetrics {
    fn new(vcpu: usize, stats: Option<&Snapshot>, tally: &Tally) -> Self {
        let mut returns_by_kind = BTreeMap::<String, u64>::new();
        for (kind, count) in tally.kinds() {
            *returns_by_kind.entry(name(kind).into()).or_default() += count;
        }
        let returns = tally.total();
        let known = stats.and_then(|stats| Some((stats.exits()?, stats)));
        let (source, exits, exits_by_reason) = match known {
            Some((exits, stats)) => (ExitSource::KvmStats, exits, by_reason(stats)),
            None => (ExitSource::Vmm, returns, returns_by_kind.clone()),
        };
        Self {
            vcpu,
            source,
            exits,
            exits_by_reason,
            returns,
            returns_by_kind,
        }
    }
}

/// The most frequent [`MAX_CAUSES`], and the sum of all others as one of them.
fn most_frequent<T: Ord>(counts: BTreeMap<T, u64>, other: T) -> BTreeMap<T, u64> {
    if counts.len() <= MAX_CAUSES {
        return counts;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| Reverse(*count));
    let rest: u64 = counts.drain(MAX_CAUSES..).map(|(_, count)| count).sum();
    let mut kept: BTreeMap<_, _> = counts.into_iter().collect();
    *kept.entry(other).or_default() += rest;
    kept
}

/// KVM's counters that are named after an exit: `halt_exits` is "halt".
fn by_reason(stats: &Snapshot) -> BTreeMap<String, u64> {
    let reason = |(name, count): (&String, &u64)| {
        let reason = name.strip_suffix("_exits")?;
        Some((reason.to_owned(), *count))
    };
    stats.values.iter().filter_map(reason).collect()
}

/// Kinds without their addresses, which the guest chooses.
fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::PortOut(_) => "port-out",
        Kind::PortIn(_) => "port-in",
        Kind::MmioWrite(_) => "mmio-write",
        Kind::MmioRead(_) => "mmio-read",
        Kind::MsrWrite(_) => "msr-write",
        Kind::MsrRead(_) => "msr-read",
        Kind::Shutdown => "shutdown",
        Kind::Interrupted => "signal",
        Kind::NotStarted => "waiting-for-start-up",
        Kind::Other => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> Tally {
        let tally = Tally::default();
        for port in [1, 2, 3] {
            tally.count(Kind::PortOut(port));
        }
        tally.count(Kind::Interrupted);
        tally
    }

    #[test]
    fn kvm_says_the_exits_where_it_counts_them() {
        let values = [("exits", 50), ("halt_exits", 7), ("halt_wakeup", 3)];
        let values = values.map(|(name, value)| (name.to_owned(), value));
        let stats = Snapshot {
            values: values.into(),
        };
        let vcpu = VcpuMetrics::new(0, Some(&stats), &tally());
        assert_eq!((vcpu.source, vcpu.exits), (ExitSource::KvmStats, 50));
        assert_eq!(vcpu.exits_by_reason, [("halt".to_owned(), 7)].into());
        assert_eq!((vcpu.returns, vcpu.returns_by_kind["port-out"]), (4, 3));
    }

    #[test]
    fn what_a_guest_does_everywhere_is_told_by_its_most_frequent_places() {
        // As many as 64 vCPUs can have between them.
        let all: BTreeMap<Kind, u64> = (0..64 * 4096_u64)
            .map(|at| (Kind::MmioWrite(at << 12), at + 1))
            .chain([(Kind::Other, 7)])
            .collect();
        let total: u64 = all.values().sum();
        let told = most_frequent(all, Kind::Other);
        assert_eq!(told.len(), MAX_CAUSES + 1);
        assert_eq!(told.values().sum::<u64>(), total);
        assert!(told.contains_key(&Kind::MmioWrite((64 * 4096 - 1) << 12)));
        let few = BTreeMap::from([(Kind::Shutdown, 1)]);
        assert_eq!(most_frequent(few.clone(), Kind::Other), few);
    }

    #[test]
    fn without_kvms_statistics_the_vmm_says_so() {
        for stats in [None, Some(&Snapshot::default())] {
            let vcpu = VcpuMetrics::new(1, stats, &tally());
            assert_eq!((vcpu.source, vcpu.exits), (ExitSource::Vmm, 4));
            assert_eq!(vcpu.exits_by_reason["signal"], 1);
        }
    }
}
