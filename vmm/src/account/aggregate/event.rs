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
    /// A reschedule interrupt hit this thread: another CPU kicks the vCPU, because of an IPI
    /// between vCPUs or because the guest's timer expired over there.
    Kick,
    /// A timer of the guest, emulated by KVM, expired while this thread was current.
    GuestTimer,
    /// `irq_vectors:*_entry`: the host handled an interrupt with this vector of its own.
    HostVector {
        /// The host's vector.
        vector: u8,
    },
    /// `irq_handler_entry`: the host handled a device's interrupt.
    HostIrq {
        /// The host's number of the interrupt, as in `/proc/interrupts`.
        irq: u32,
    },
    /// `kvm_inj_virq`: KVM injected an interrupt into the guest.
    Injection {
        /// The guest's vector.
        vector: u8,
    },
    /// `kvm_cpuid`.
    Cpuid {
        /// EAX.
        leaf: u32,
    },
    /// `kvm_entry`: the guest runs on.
    Entry,
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
    /// The guest's instruction pointer, where the kernel traces it.
    pub rip: Option<u64>,
    /// Interruption information: on Intel the vector of the interrupt that caused this exit.
    pub intr_info: u32,
    /// The tracepoint was hit before the host enabled interrupts again: an interrupt that caused
    /// this exit is handled after this event. Otherwise (AMD before Linux 6.8 or so) before it.
    pub is_traced_early: bool,
}
