//! What was found on a machine, without any judgement.

use std::collections::{BTreeMap, BTreeSet};

use crate::account::backend::Backend;

/// Whether something can be used: a short text of what it offers, or why not.
pub type Usable = Result<String, Denied>;

/// Why something cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It is not there.
    Absent,
    /// It is there, but not for this user.
    NoPermission,
    /// Anything else, as text.
    Other(String),
}

/// Everything the probe looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// The CPU's model name.
    pub cpu_model: String,
    /// Its flags.
    pub cpu_flags: BTreeSet<String>,
    /// Number of CPUs online.
    pub nr_cpus: usize,
    /// Kernel release.
    pub kernel: String,
    /// What runs guests.
    pub backend: Backend,
    /// `/dev/kvm`.
    pub kvm: Usable,
    /// KVM's API version.
    pub kvm_api: Option<i32>,
    /// Values of KVM_CHECK_EXTENSION by capability number, if a VM could be made.
    pub capabilities: Option<BTreeMap<u32, i32>>,
    /// Parameters of the KVM modules: "kvm_amd.npt" to "Y".
    pub kvm_parameters: BTreeMap<String, String>,
    /// Tracing of exits: what works, or why not and what to do.
    pub tracing: Result<String, String>,
    /// Telling the host's own tick from other interrupts.
    pub tick_attribution: Result<String, String>,
    /// `/dev/vhost-net`.
    pub vhost_net: Usable,
    /// `/dev/vhost-vsock`.
    pub vhost_vsock: Usable,
    /// `/dev/net/tun`.
    pub tun: Usable,
    /// Mode of transparent huge pages: "always", "madvise", "never".
    pub thp: Option<String>,
    /// Pages of 2 MiB in the hugetlb pool: all and free.
    pub huge_pages: Option<(u64, u64)>,
    /// MiB of memory available.
    pub memory_available_mib: Option<u64>,
    /// The clocksource in use.
    pub clocksource: Option<String>,
}
