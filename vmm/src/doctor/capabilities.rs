//! KVM's capabilities that the VMM needs or can use.

use kvm_bindings as kb;

/// How much a capability matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// No VM without it.
    Needed,
    /// Something is missing or slower without it.
    Optional,
}

/// One capability.
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    /// Its number for KVM_CHECK_EXTENSION.
    pub number: u32,
    /// The name for reports.
    pub name: &'static str,
    /// How much it matters.
    pub need: Need,
    /// What it is for: what is lost without it.
    pub purpose: &'static str,
}

const fn needed(number: u32, name: &'static str, purpose: &'static str) -> Capability {
    Capability {
        number,
        name,
        need: Need::Needed,
        purpose,
    }
}

const fn optional(number: u32, name: &'static str, purpose: &'static str) -> Capability {
    Capability {
        number,
        name,
        need: Need::Optional,
        purpose,
    }
}

/// All of them, the needed ones first.
pub const CAPABILITIES: [Capability; 25] = [
    needed(kb::KVM_CAP_USER_MEMORY, "user memory", "guest memory"),
    needed(
        kb::KVM_CAP_SET_TSS_ADDR,
        "TSS address",
        "real mode on Intel",
    ),
    needed(
        kb::KVM_CAP_EXT_CPUID,
        "extended CPUID",
        "what the guest sees of the CPU",
    ),
    needed(
        kb::KVM_CAP_IRQCHIP,
        "in-kernel irqchip",
        "local APICs and IOAPIC",
    ),
    needed(kb::KVM_CAP_IRQFD, "irqfd", "interrupts from devices"),
    needed(
        kb::KVM_CAP_IOEVENTFD,
        "ioeventfd",
        "notifications without a return to userspace",
    ),
    needed(kb::KVM_CAP_SIGNAL_MSI, "signal MSI", "MSI-X interrupts"),
    needed(
        kb::KVM_CAP_IMMEDIATE_EXIT,
        "immediate exit",
        "stopping a vCPU without a race",
    ),
    needed(kb::KVM_CAP_MAX_VCPUS, "max vcpus", "more than one vCPU"),
    optional(
        kb::KVM_CAP_PIT2,
        "PIT",
        "guests that calibrate their clock with it",
    ),
    optional(
        kb::KVM_CAP_TSC_DEADLINE_TIMER,
        "TSC deadline timer",
        "one MSR write per timer",
    ),
    optional(
        kb::KVM_CAP_GET_TSC_KHZ,
        "TSC frequency",
        "a guest that need not calibrate",
    ),
    optional(
        kb::KVM_CAP_TSC_CONTROL,
        "TSC scaling",
        "a TSC frequency other than the host's",
    ),
    optional(
        kb::KVM_CAP_X2APIC_API,
        "x2APIC API",
        "x2APIC identifiers above 254",
    ),
    optional(
        kb::KVM_CAP_X86_MSR_FILTER,
        "MSR filter",
        "set-up of the cooperative interface",
    ),
    optional(
        kb::KVM_CAP_X86_USER_SPACE_MSR,
        "userspace MSRs",
        "set-up of the cooperative interface",
    ),
    optional(
        kb::KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
        "enforced PV features",
        "an honest baseline: a hidden paravirtual feature must not work",
    ),
    optional(
        kb::KVM_CAP_BINARY_STATS_FD,
        "binary statistics",
        "the check of exit counts",
    ),
    optional(
        kb::KVM_CAP_X86_DISABLE_EXITS,
        "disabled exits",
        "the arm with HLT exits disabled",
    ),
    optional(
        kb::KVM_CAP_HALT_POLL,
        "halt polling per VM",
        "measuring without host polling",
    ),
    optional(
        kb::KVM_CAP_STEAL_TIME,
        "steal time",
        "a guest that knows how busy its host is",
    ),
    optional(
        kb::KVM_CAP_PRE_FAULT_MEMORY,
        "pre-faulting",
        "populate batches (linux 6.11)",
    ),
    optional(kb::KVM_CAP_GUEST_MEMFD, "guest_memfd", "private memory"),
    optional(
        kb::KVM_CAP_DIRTY_LOG_RING,
        "dirty ring",
        "logging of dirty pages",
    ),
    optional(
        kb::KVM_CAP_SPLIT_IRQCHIP,
        "split irqchip",
        "IOAPIC in userspace",
    ),
];
