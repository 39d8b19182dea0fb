//! What the tracer has decoded and the aggregator consumes.

use crate::account::reason::Isa;

/// One event of the traced VM, in the context of one of its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Host's monotonic clock.
    pub time_ns: u64,
    /// The thread that was current: for events of KVM, the vCPU's thread.
    pub tid: u32,
    /// What happened.
    pub kind: Kind,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `kvm_exit`.
    Exit(Exit),
    /// `kvm_msr`: the guest read or wrote an MSR that is intercepted.
    Msr {
        /// WRMSR, not RDMSR.
        is_write: bool,
        /// The MSR's number.
        index: u32,
    },
    /// `kvm_pio` on the mark port, a write.
    Mark {
        /// The value written.
        value: u32,
        /// The width of the write.
        size_bytes: u64,
    },
    /// `kvm_userspace_exit`: `KVM_RUN` returns.
    UserspaceExit,
    /// `kvm_mmio` or `kvm_fast_mmio`: an access to a device's memory.
    Mmio {
        /// Where.
        gpa: u64,
    },
    /// `kvm_hypercall`.
    Hypercall {
        /// The call's number.
        nr: u64,
    },
    /// The host's own scheduler tick interrupted this thread.
    HostTick,
    /// A timer of the guest, emulated by KVM, expired while this thread was current.
    GuestTimer,
}

/// The fields of `kvm_exit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Whose codes.
    pub isa: Isa,
    /// The hardware's reason, with flag bits.
    pub reason: u64,
    /// EXITINFO1, or the exit qualification.
    pub info1: u64,
    /// EXITINFO2, or the IDT vectoring information.
    pub info2: u64,
    /// The tracepoint was hit before the host enabled interrupts again: an interrupt that caused
    /// this exit is handled after this event. Otherwise (AMD before Linux 6.8 or so) before it.
    pub is_traced_early: bool,
}
