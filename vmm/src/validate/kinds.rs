//! The kinds of exit that validation causes, and where each counter must show them.

use coopvirt_spec::mark::{MARK_MSR, MARK_PORT};

use crate::vcpu::tally::Kind as Return;

/// One kind of exit.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// The work code in this kind's marks.
    pub work: u8,
    /// Name in the table.
    pub name: &'static str,
    /// The tracer's reason under which exactly N exits must stand: AMD's name, Intel's name.
    pub reasons: [&'static str; 2],
    /// The tracer's cause under which exactly N of them must stand: AMD's and Intel's. `None`: no
    /// tracepoint tells it.
    pub causes: Option<[&'static str; 2]>,
    /// The KVM statistic that must grow by exactly N, if KVM has one for it.
    pub statistic: Option<&'static str>,
    /// The return to userspace of which the VMM must have counted exactly N; `None`: no return
    /// of any kind.
    pub returns: Option<Return>,
}

const fn kind(
    work: u8,
    name: &'static str,
    reasons: [&'static str; 2],
    causes: Option<[&'static str; 2]>,
    statistic: Option<&'static str>,
    returns: Option<Return>,
) -> Kind {
    Kind {
        work,
        name,
        reasons,
        causes,
        statistic,
        returns,
    }
}

/// A cause that both vendors' exits have.
const fn same(cause: &'static str) -> Option<[&'static str; 2]> {
    Some([cause, cause])
}

const IO: [&str; 2] = ["IOIO", "IO_INSTRUCTION"];
const MMIO: [&str; 2] = ["NPF", "EPT_MISCONFIG"];
const UNCLAIMED_PORT: u16 = 0x0d00;
const UNCLAIMED_MMIO: u64 = 0xd000_0000;

/// The phase in which nothing happens.
pub const EMPTY_WORK: u8 = 0x80;

/// All kinds, in the order in which the guest causes them.
pub const ALL: [Kind; 13] = [
    kind(
        0x81,
        "CPUID",
        ["CPUID", "CPUID"],
        same("CPUID 0x0"),
        None,
        None,
    ),
    kind(
        0x82,
        "port out to userspace",
        IO,
        same("OUT 0xd00"),
        None,
        Some(Return::PortOut(UNCLAIMED_PORT)),
    ),
    kind(
        0x83,
        "port in from userspace",
        IO,
        same("IN 0xd00"),
        None,
        Some(Return::PortIn(UNCLAIMED_PORT)),
    ),
    kind(
        0x84,
        "port out in the kernel (8259)",
        IO,
        same("OUT 0x21 pic1"),
        None,
        None,
    ),
    kind(
        0x85,
        "MMIO write",
        MMIO,
        same("MMIO 0xd0000000 pci-bars"),
        Some("mmio_exits"),
        Some(Return::MmioWrite(UNCLAIMED_MMIO)),
    ),
    kind(
        0x86,
        "MMIO read",
        MMIO,
        same("MMIO 0xd0000000 pci-bars"),
        Some("mmio_exits"),
        Some(Return::MmioRead(UNCLAIMED_MMIO)),
    ),
    kind(
        0x87,
        "RDMSR in the kernel (APICBASE)",
        ["MSR", "MSR_READ"],
        same("RDMSR 0x1b APIC_BASE"),
        None,
        None,
    ),
    kind(
        0x88,
        "WRMSR in the kernel (TSC_DEADLINE)",
        ["MSR", "MSR_WRITE"],
        same("WRMSR 0x6e0 TSC_DEADLINE"),
        None,
        None,
    ),
    kind(
        0x89,
        "WRMSR to userspace",
        ["MSR", "MSR_WRITE"],
        None, // KVM traces no access that it hands to userspace.
        None,
        Some(Return::MsrWrite(MARK_MSR)),
    ),
    kind(
        0x8a,
        "RDMSR from userspace",
        ["MSR", "MSR_READ"],
        None,
        None,
        Some(Return::MsrRead(MARK_MSR)),
    ),
    kind(
        0x8b,
        "hypercall",
        ["VMMCALL", "VMCALL"],
        Some(["VMMCALL 65535", "VMCALL 65535"]),
        Some("hypercalls"),
        None,
    ),
    kind(
        0x8c,
        "first touch of a page",
        ["NPF", "EPT_VIOLATION"],
        Some([
            "NPF ram not mapped, write",
            "EPT_VIOLATION ram not mapped, write",
        ]),
        None,
        None,
    ),
    kind(
        0x8d,
        "HLT with wake-up",
        ["HLT", "HLT"],
        same("HLT then vector of a device"),
        Some("halt_exits"),
        None,
    ),
];

/// Whether a return to userspace is part of measuring and not of the work.
pub fn is_own(kind: Return) -> bool {
    matches!(kind, Return::PortOut(MARK_PORT) | Return::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_are_numbered_behind_the_empty_one() {
        for (index, kind) in (1u8..).zip(ALL) {
            assert_eq!(kind.work, EMPTY_WORK + index);
        }
    }
}
