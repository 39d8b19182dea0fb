//! Names of hardware exit reasons, as the vendors' manuals spell them.
//!
//! Sources: AMD64 Architecture Programmer's Manual volume 2, appendix C ("SVM Intercept Exit
//! Codes"); Intel 64 and IA-32 Architectures Software Developer's Manual volume 3, appendix C
//! ("VMX Basic Exit Reasons"). The aggregator and the report call this; it must never panic on an
//! unknown code, because newer CPUs have more of them.

use std::borrow::Cow;

/// Whose exit codes these are: the `isa` field of the `kvm_exit` tracepoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Intel VMX (tracepoint value 1).
    Vmx,
    /// AMD SVM (tracepoint value 2).
    Svm,
}

impl Isa {
    /// The instruction set with this number in the tracepoint.
    pub const fn from_tracepoint(value: u64) -> Option<Isa> {
        match value {
            1 => Some(Isa::Vmx),
            2 => Some(Isa::Svm),
            _ => None,
        }
    }
}

/// What accounting does with a reason beyond counting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A physical interrupt arrived while the guest ran.
    Interrupt,
    /// RDMSR or WRMSR.
    Msr,
    /// IN or OUT.
    Io,
    /// The second stage of address translation faulted: RAM not there yet, or a device.
    NestedFault,
    /// A device behind an entry that is misconfigured on purpose.
    Mmio,
    /// An access to the local APIC's page with its offset in the qualification.
    ApicOffset,
    /// VMCALL or VMMCALL.
    Hypercall,
    /// HLT: what ends it comes later.
    Halt,
    /// The guest can take an interrupt again that KVM has waiting for it.
    Window,
    /// CPUID.
    Cpuid,
    /// Nothing more is known than the reason.
    Plain,
}

/// What an access did that the second stage of address translation did not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// A fault of the second stage on RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RamFault {
    /// What was attempted.
    pub access: Access,
    /// The page is mapped, but not for this access.
    pub is_mapped: bool,
}

/// One exit reason: the vendor and the code without flag bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reason {
    /// Whose codes.
    pub isa: Isa,
    /// The code: SVM EXITCODE, or the VMX basic exit reason (bits 15-0).
    pub code: u64,
}

impl Reason {
    /// Makes a reason from the tracepoint's fields; VMX flag bits (31-16) are dropped.
    pub const fn new(isa: Isa, raw: u64) -> Reason {
        let code = match isa {
            Isa::Vmx => raw & 0xffff,
            // Some kernels trace the low half only: negative codes get their sign back.
            Isa::Svm if raw >= 0xffff_fff0 && raw <= 0xffff_ffff => raw | 0xffff_ffff_0000_0000,
            Isa::Svm => raw,
        };
        Reason { isa, code }
    }

    /// The vendor's name, or the code in hexadecimal.
    pub fn name(self) -> Cow<'static, str> {
        let known = match self.isa {
            Isa::Vmx => vmx_name(self.code),
            Isa::Svm => svm_name(self.code),
        };
        match (known, self.isa, self.code) {
            (Some(name), _, _) => Cow::Borrowed(name),
            (None, Isa::Svm, 0x00..=0x5f | 0x90..=0x9f) => Cow::Owned(svm_range_name(self.code)),
            (None, _, code) => Cow::Owned(format!("{code:#x}")),
        }
    }

    /// What accounting does with it.
    pub const fn class(self) -> Class {
        match (self.isa, self.code) {
            (Isa::Svm, 0x60) | (Isa::Vmx, 1) => Class::Interrupt,
            (Isa::Svm, 0x7c) | (Isa::Vmx, 31 | 32 | 84 | 85) => Class::Msr,
            (Isa::Svm, 0x7b) | (Isa::Vmx, 30) => Class::Io,
            (Isa::Svm, 0x400) | (Isa::Vmx, 48) => Class::NestedFault,
            (Isa::Vmx, 49) => Class::Mmio,
            (Isa::Vmx, 44 | 56) => Class::ApicOffset,
            (Isa::Svm, 0x81) | (Isa::Vmx, 18) => Class::Hypercall,
            (Isa::Svm, 0x78 | 0xa6) | (Isa::Vmx, 12) => Class::Halt,
            (Isa::Svm, 0x64) | (Isa::Vmx, 7) => Class::Window,
            (Isa::Svm, 0x72) | (Isa::Vmx, 10) => Class::Cpuid,
            _ => Class::Plain,
        }
    }

    /// For an I/O exit, port and direction (`true` = IN), from EXITINFO1 or the qualification.
    pub fn io_access(self, info1: u64) -> (u16, bool) {
        let [_, _, low, high, ..] = info1.to_le_bytes();
        let in_bit = match self.isa {
            Isa::Svm => 0,
            Isa::Vmx => 3,
        };
        (u16::from_le_bytes([low, high]), info1 >> in_bit & 1 == 1)
    }

    /// What a nested page fault's first word says (AMD APM volume 2, 15.25.6; Intel SDM volume 3,
    /// table 28-7). A page that is not mapped is one that was never touched or that the host has
    /// taken back: which of these, no event says.
    pub const fn ram_fault(self, info1: u64) -> RamFault {
        let (is_mapped, is_write, is_fetch) = match self.isa {
            Isa::Svm => (info1 & 1 != 0, info1 & 1 << 1 != 0, info1 & 1 << 4 != 0),
            Isa::Vmx => (
                info1 & 7 << 3 != 0,
                info1 & 1 << 1 != 0,
                info1 & 1 << 2 != 0,
            ),
        };
        let access = match (is_write, is_fetch) {
            (true, _) => Access::Write,
            (false, true) => Access::Fetch,
            (false, false) => Access::Read,
        };
        RamFault { access, is_mapped }
    }

    /// For an MSR exit, whether it was a write; SVM tells by EXITINFO1, VMX by the reason.
    pub const fn msr_is_write(self, info1: u64) -> bool {
        match self.isa {
            Isa::Svm => info1 & 1 == 1,
            Isa::Vmx => matches!(self.code, 32 | 85),
        }
    }
}

/// SVM codes that come in numbered ranges.
fn svm_range_name(code: u64) -> String {
    match code {
        0x00..=0x0f => format!("CR{code}_READ"),
        0x10..=0x1f => format!("CR{}_WRITE", code - 0x10),
        0x20..=0x2f => format!("DR{}_READ", code - 0x20),
        0x30..=0x3f => format!("DR{}_WRITE", code - 0x30),
        0x40..=0x5f => format!("EXCP{}", code - 0x40),
        _ => format!("CR{}_WRITE_TRAP", code - 0x90),
    }
}

/// APM volume 2, appendix C, table C-1.
const fn svm_name(code: u64) -> Option<&'static str> {
    Some(match code {
        0x60 => "INTR",
        0x61 => "NMI",
        0x62 => "SMI",
        0x63 => "INIT",
        0x64 => "VINTR",
        0x65 => "CR0_SEL_WRITE",
        0x66 => "IDTR_READ",
        0x67 => "GDTR_READ",
        0x68 => "LDTR_READ",
        0x69 => "TR_READ",
        0x6a => "IDTR_WRITE",
        0x6b => "GDTR_WRITE",
        0x6c => "LDTR_WRITE",
        0x6d => "TR_WRITE",
        0x6e => "RDTSC",
        0x6f => "RDPMC",
        0x70 => "PUSHF",
        0x71 => "POPF",
        0x72 => "CPUID",
        0x73 => "RSM",
        0x74 => "IRET",
        0x75 => "SWINT",
        0x76 => "INVD",
        0x77 => "PAUSE",
        0x78 => "HLT",
        0x79 => "INVLPG",
        0x7a => "INVLPGA",
        0x7b => "IOIO",
        0x7c => "MSR",
        0x7d => "TASK_SWITCH",
        0x7e => "FERR_FREEZE",
        0x7f => "SHUTDOWN",
        0x80 => "VMRUN",
        0x81 => "VMMCALL",
        0x82 => "VMLOAD",
        0x83 => "VMSAVE",
        0x84 => "STGI",
        0x85 => "CLGI",
        0x86 => "SKINIT",
        0x87 => "RDTSCP",
        0x88 => "ICEBP",
        0x89 => "WBINVD",
        0x8a => "MONITOR",
        0x8b => "MWAIT",
        0x8c => "MWAIT_CONDITIONAL",
        0x8d => "XSETBV",
        0x8e => "RDPRU",
        0x8f => "EFER_WRITE_TRAP",
        0xa0 => "INVLPGB",
        0xa1 => "INVLPGB_ILLEGAL",
        0xa2 => "INVPCID",
        0xa3 => "MCOMMIT",
        0xa4 => "TLBSYNC",
        0xa5 => "BUSLOCK",
        0xa6 => "IDLE_HLT",
        0x400 => "NPF",
        0x401 => "AVIC_INCOMPLETE_IPI",
        0x402 => "AVIC_NOACCEL",
        0x403 => "VMGEXIT",
        0xffff_ffff_ffff_ffff => "INVALID",
        0xffff_ffff_ffff_fffe => "BUSY",
        0xffff_ffff_ffff_fffd => "IDLE_REQUIRED",
        0xffff_ffff_ffff_fffc => "INVALID_PMC",
        _ => return None,
    })
}

/// SDM volume 3, appendix C, table C-1.
const fn vmx_name(code: u64) -> Option<&'static str> {
    Some(match code {
        0 => "EXCEPTION_NMI",
        1 => "EXTERNAL_INTERRUPT",
        2 => "TRIPLE_FAULT",
        3 => "INIT_SIGNAL",
        4 => "SIPI_SIGNAL",
        5 => "IO_SMI",
        6 => "OTHER_SMI",
        7 => "INTERRUPT_WINDOW",
        8 => "NMI_WINDOW",
        9 => "TASK_SWITCH",
        10 => "CPUID",
        11 => "GETSEC",
        12 => "HLT",
        13 => "INVD",
        14 => "INVLPG",
        15 => "RDPMC",
        16 => "RDTSC",
        17 => "RSM",
        18 => "VMCALL",
        19 => "VMCLEAR",
        20 => "VMLAUNCH",
        21 => "VMPTRLD",
        22 => "VMPTRST",
        23 => "VMREAD",
        24 => "VMRESUME",
        25 => "VMWRITE",
        26 => "VMXOFF",
        27 => "VMXON",
        28 => "CR_ACCESS",
        29 => "DR_ACCESS",
        30 => "IO_INSTRUCTION",
        31 => "MSR_READ",
        32 => "MSR_WRITE",
        33 => "INVALID_GUEST_STATE",
        34 => "MSR_LOAD_FAIL",
        36 => "MWAIT",
        37 => "MONITOR_TRAP_FLAG",
        39 => "MONITOR",
        40 => "PAUSE",
        41 => "MCE_DURING_ENTRY",
        43 => "TPR_BELOW_THRESHOLD",
        44 => "APIC_ACCESS",
        45 => "VIRTUALIZED_EOI",
        46 => "GDTR_IDTR",
        47 => "LDTR_TR",
        48 => "EPT_VIOLATION",
        49 => "EPT_MISCONFIG",
        50 => "INVEPT",
        51 => "RDTSCP",
        52 => "PREEMPTION_TIMER",
        53 => "INVVPID",
        54 => "WBINVD",
        55 => "XSETBV",
        56 => "APIC_WRITE",
        57 => "RDRAND",
        58 => "INVPCID",
        59 => "VMFUNC",
        60 => "ENCLS",
        61 => "RDSEED",
        62 => "PML_FULL",
        63 => "XSAVES",
        64 => "XRSTORS",
        65 => "PCONFIG",
        66 => "SPP_EVENT",
        67 => "UMWAIT",
        68 => "TPAUSE",
        69 => "LOADIWKEY",
        70 => "ENCLV",
        72 => "ENQCMD_PASID",
        73 => "ENQCMDS_PASID",
        74 => "BUS_LOCK",
        75 => "NOTIFY",
        76 => "SEAMCALL",
        77 => "TDCALL",
        78 => "RDMSRLIST",
        79 => "WRMSRLIST",
        80 => "URDMSR",
        81 => "UWRMSR",
        84 => "MSR_READ_IMM",
        85 => "MSR_WRITE_IMM",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn svm(code: u64) -> Reason {
        Reason::new(Isa::Svm, code)
    }

    fn vmx(code: u64) -> Reason {
        Reason::new(Isa::Vmx, code)
    }

    #[test]
    fn well_known_codes_have_the_vendors_names() {
        let cases = [
            (0x72, "CPUID"),
            (0x7b, "IOIO"),
            (0x400, "NPF"),
            (0x13, "CR3_WRITE"),
        ];
        for (code, name) in cases {
            assert_eq!(svm(code).name(), name);
        }
        assert_eq!(svm(0x4e).name(), "EXCP14");
        assert_eq!(svm(0x94).name(), "CR4_WRITE_TRAP");
        for (code, name) in [
            (1, "EXTERNAL_INTERRUPT"),
            (48, "EPT_VIOLATION"),
            (28, "CR_ACCESS"),
        ] {
            assert_eq!(vmx(code).name(), name);
        }
    }

    #[test]
    fn unknown_codes_are_hexadecimal() {
        assert_eq!(svm(0x7777).name(), "0x7777");
        assert_eq!(vmx(200).name(), "0xc8");
        assert_eq!(vmx(35).name(), "0x23");
    }

    #[test]
    fn a_negative_svm_code_is_known_at_either_width() {
        assert_eq!(svm(0xffff_ffff).name(), "INVALID");
        assert_eq!(svm(u64::MAX).name(), "INVALID");
    }

    #[test]
    fn vmx_flag_bits_do_not_change_the_reason() {
        assert_eq!(vmx(0x8000_0021).name(), "INVALID_GUEST_STATE");
    }

    #[test]
    fn io_qualification_gives_port_and_direction() {
        assert_eq!(svm(0x7b).io_access(0x03f8_0011), (0x3f8, true));
        assert_eq!(svm(0x7b).io_access(0x0d0c_0040), (0xd0c, false));
        assert_eq!(vmx(30).io_access(0x03f8_0000), (0x3f8, false));
        assert_eq!(vmx(30).io_access(0x0064_0008), (0x64, true));
    }
}
