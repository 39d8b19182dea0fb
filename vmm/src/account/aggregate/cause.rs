//! Why an exit happened, where more is known than the hardware's reason.
//!
//! Every exit has exactly one cause, so that the causes of a reason sum up to its count.

use std::borrow::Cow;

use crate::account::msr;
use crate::account::names::{lapic_register, NameOf};
use crate::account::reason::{Access, RamFault, Reason};
use crate::account::vectors;

/// One cause, small and comparable; the text is made only for a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// Nothing is known beyond the reason, and for this reason there never is.
    Plain,
    /// The details are missing, or too many different ones were seen.
    Other,
    /// An access to an MSR.
    Msr { is_write: bool, index: u32 },
    /// An access to an MSR whose number was not traced: it went to userspace or faulted.
    MsrUntraced { is_write: bool },
    /// An access to a port.
    Io { is_in: bool, port: u16 },
    /// An access to a device's memory.
    Mmio { gpa: u64 },
    /// A page of RAM that was not mapped, or not for this access.
    Ram(RamFault),
    /// A register of the local APIC's page.
    Apic { offset: u16 },
    /// A hypercall.
    Hypercall { nr: u64 },
    /// The host's own tick, and no timer of the guest.
    HostTick,
    /// A timer of the guest.
    GuestTimer,
    /// Another CPU's kick, neither tick nor timer here; with the vector that the guest then got.
    Kick { injected: Option<u8> },
    /// An interrupt of another kind, by the host's vector.
    HostVector { vector: u8 },
    /// An interrupt of a device of the host.
    HostIrq { irq: u32 },
    /// An interrupt of which nothing could be found out, because the tick cannot be traced.
    InterruptUnknown,
    /// What the guest got when it could run on: after a halt, or when it took interrupts again.
    Injected { vector: u8 },
    /// A halt that was still going on when a mark cut the counts.
    Asleep,
    /// A halt that a return of `KVM_RUN` ended: a signal to the vCPU's thread.
    LeftKernel,
    /// A leaf of CPUID.
    Cpuid { leaf: u32 },
}

impl Cause {
    /// Whether this says more than the reason does.
    pub(super) const fn is_known(self) -> bool {
        !matches!(
            self,
            Cause::Plain | Cause::Other | Cause::MsrUntraced { .. } | Cause::InterruptUnknown
        )
    }

    /// The text for reports; of [`Cause::Plain`] it is the reason.
    pub(super) fn label(self, reason: Reason, names: &dyn NameOf) -> String {
        let named = |text: String, name: Option<&str>| match name {
            Some(name) => format!("{text} {name}"),
            None => text,
        };
        let with_reason = |what: &str| format!("{} {what}", reason.name());
        match self {
            Cause::Plain => reason.name().into_owned(),
            Cause::Other => with_reason("other"),
            Cause::Msr { is_write, index } => named(
                format!("{} {index:#x}", msr_verb(is_write)),
                msr::name(index),
            ),
            Cause::MsrUntraced { is_write } => format!("{} untraced", msr_verb(is_write)),
            Cause::Io { is_in, port } => {
                let verb = if is_in { "IN" } else { "OUT" };
                named(format!("{verb} {port:#x}"), names.port(port))
            }
            Cause::Mmio { gpa } => named(format!("MMIO {gpa:#x}"), names.mmio(gpa)),
            Cause::Ram(fault) => with_reason(ram_fault(fault)),
            Cause::Apic { offset } => {
                let register = lapic_register(u64::from(offset)).map(|(_, alone)| alone);
                named(with_reason(&format!("{offset:#x}")), register)
            }
            Cause::Hypercall { nr } => named(with_reason(&nr.to_string()), hypercall_name(nr)),
            Cause::HostTick => with_reason("host tick"),
            Cause::GuestTimer => with_reason("guest timer"),
            Cause::Kick { injected: None } => with_reason("kick by another cpu"),
            Cause::Kick {
                injected: Some(vector),
            } => with_reason(&format!("kick for vector {}", vectors::label(vector))),
            Cause::HostVector { vector } => {
                with_reason(&format!("host vector {}", vectors::label(vector)))
            }
            Cause::HostIrq { irq } => with_reason(&format!("host device irq {irq}")),
            Cause::Injected { vector } => {
                with_reason(&format!("then vector {}", vectors::label(vector)))
            }
            Cause::Asleep => with_reason("asleep at a mark"),
            Cause::LeftKernel => with_reason("then KVM_RUN returned"),
            Cause::Cpuid { leaf } => with_reason(&format!("{leaf:#x}")),
            Cause::InterruptUnknown => with_reason("cause unknown"),
        }
    }
}

const fn ram_fault(fault: RamFault) -> &'static str {
    match (fault.is_mapped, fault.access) {
        (false, Access::Read) => "ram not mapped, read",
        (false, Access::Write) => "ram not mapped, write",
        (false, Access::Fetch) => "ram not mapped, fetch",
        (true, Access::Read) => "ram protected, read",
        (true, Access::Write) => "ram protected, write",
        (true, Access::Fetch) => "ram protected, fetch",
    }
}

fn msr_verb(is_write: bool) -> Cow<'static, str> {
    Cow::Borrowed(if is_write { "WRMSR" } else { "RDMSR" })
}

/// KVM's hypercalls (Linux `include/uapi/linux/kvm_para.h`).
const fn hypercall_name(nr: u64) -> Option<&'static str> {
    Some(match nr {
        1 => "VAPIC_POLL_IRQ",
        2 => "MMU_OP",
        5 => "KICK_CPU",
        9 => "CLOCK_PAIRING",
        10 => "SEND_IPI",
        11 => "SCHED_YIELD",
        12 => "MAP_GPA_RANGE",
        _ => return None,
    })
}
