//! What is counted: the data that accounting hands to reports, as JSON and as Rust types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::durations::Durations;

/// Exits of one VM in one interval, all vCPUs together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All VM exits ("gross").
    pub total: u64,
    /// INTR exits in whose handling the host's own scheduler tick ran and no timer of the guest.
    pub host_tick: u64,
    /// Returns of `KVM_RUN` to userspace.
    pub userspace: u64,
    /// Exits by hardware reason, under the vendor's name: "MSR", "HLT", "NPF".
    pub by_reason: BTreeMap<String, u64>,
    /// Exits by cause: "WRMSR 0x6e0 TSC_DEADLINE", "OUT 0x3f8 serial", "HLT then vector 0xec local
    /// timer"; the reason's name, where no more is known. They sum up to `total`.
    pub by_cause: BTreeMap<String, u64>,
    /// Set if nothing could tell the host's own tick: `host_tick` is 0 and means nothing then.
    #[serde(default)]
    pub host_tick_unknown: bool,
    /// Exits of which nothing is known beyond the reason.
    #[serde(default)]
    pub unexplained: u64,
    /// Exits by reason and the guest's instruction that caused them, where the most were: "MSR
    /// 0xffffffff81051e54". Symbols, where they are known, replace the number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_place: BTreeMap<String, u64>,
    /// How long exits took, by reason, where that was traced.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub durations: BTreeMap<String, Durations>,
    /// Time that vCPUs spent in the guest, nanoseconds; 0 where durations are not traced.
    #[serde(default)]
    pub guest_ns: u64,
}

impl Counts {
    /// Exits less those of the host's own tick ("net").
    pub fn net(&self) -> u64 {
        self.total.saturating_sub(self.host_tick)
    }

    /// The share of all exits of which more is known than the reason, in percent; `None` without
    /// exits.
    pub fn explained_percent(&self) -> Option<f64> {
        let known = self.total.saturating_sub(self.unexplained);
        (self.total > 0).then(|| known as f64 * 100.0 / self.total as f64)
    }

    /// What was counted since `earlier`, which was counted of the same VM from the same start.
    pub fn since(&self, earlier: &Counts) -> Counts {
        let less = |map: &BTreeMap<String, u64>, by: &BTreeMap<String, u64>| {
            let less = |(name, count): (&String, &u64)| {
                let rest = count.saturating_sub(by.get(name).copied().unwrap_or(0));
                (rest > 0).then(|| (name.clone(), rest))
            };
            map.iter().filter_map(less).collect()
        };
        let mut durations = self.durations.clone();
        for (reason, later) in &mut durations {
            if let Some(before) = earlier.durations.get(reason) {
                *later = later.since(before);
            }
        }
        durations.retain(|_, durations| durations.count() > 0);
        Counts {
            total: self.total.saturating_sub(earlier.total),
            host_tick: self.host_tick.saturating_sub(earlier.host_tick),
            userspace: self.userspace.saturating_sub(earlier.userspace),
            by_reason: less(&self.by_reason, &earlier.by_reason),
            by_cause: less(&self.by_cause, &earlier.by_cause),
            host_tick_unknown: self.host_tick_unknown,
            unexplained: self.unexplained.saturating_sub(earlier.unexplained),
            by_place: less(&self.by_place, &earlier.by_place),
            durations,
            guest_ns: self.guest_ns.saturating_sub(earlier.guest_ns),
        }
    }

    /// [`Counts::net`], or `None` if the host's own tick could not be told from other interrupts.
    pub fn net_if_known(&self) -> Option<u64> {
        (!self.host_tick_unknown).then(|| self.net())
    }
}

/// The interval between a begin and an end mark (`[MARK-3]`), or from the VM's start to a point.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// The mark's work code.
    pub work: u8,
    /// The mark's sequence number.
    pub seq: u16,
    /// Wall time between the marks, nanoseconds (host's monotonic clock).
    pub elapsed_ns: u64,
    /// CPU time of all threads of the VMM between the marks, nanoseconds, guest time included.
    pub cpu_ns: u64,
    /// The same by kind of thread: "vcpus", "sidecore", "vhost", "others". Empty where it was not
    /// read. Threads that have ended in between are in none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cpu_by_thread_ns: BTreeMap<String, u64>,
    /// The exits between the marks. A mark's own exit (and its return to userspace) is in no
    /// phase, only in [`Trace::whole`].
    pub counts: Counts,
}

/// What a tracer saw of one VM, from start to end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// Completed phases, in the order of their end marks. A point mark gives a phase that starts
    /// with the trace.
    pub phases: Vec<Phase>,
    /// Everything from start to end.
    pub whole: Counts,
    /// Events that the kernel had to drop. Not zero: the figures are too low and say so.
    pub lost: u64,
    /// Host CPUs that went offline or came meanwhile, whose events are missing from then on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub untraced_cpus: Vec<usize>,
    /// Why the host's own tick could not be told from other interrupts, if so.
    #[serde(default)]
    pub host_tick_unknown: Option<String>,
    /// Marks that gave no phase: an end without a begin, or more than a guest may leave open.
    #[serde(default)]
    pub dropped_marks: u64,
    /// Nothing was traced: phases are numbers of exits from KVM's statistics, `whole` is empty.
    #[serde(default)]
    pub is_untraced: bool,
}
