//! What is counted: the data that accounting hands to reports, as JSON and as Rust types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
    /// Exits by cause where more is known than the reason: "WRMSR 0x6e0 TSC_DEADLINE",
    /// "OUT 0x3f8 serial", "MMIO 0xe0000014 virtio-blk".
    pub by_cause: BTreeMap<String, u64>,
    /// Set if nothing could tell the host's own tick: `host_tick` is 0 and means nothing then.
    #[serde(default)]
    pub host_tick_unknown: bool,
}

impl Counts {
    /// Exits less those of the host's own tick ("net").
    pub fn net(&self) -> u64 {
        self.total.saturating_sub(self.host_tick)
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
    /// Why the host's own tick could not be told from other interrupts, if so.
    #[serde(default)]
    pub host_tick_unknown: Option<String>,
    /// Marks that gave no phase: an end without a begin, or more than a guest may leave open.
    #[serde(default)]
    pub dropped_marks: u64,
}
