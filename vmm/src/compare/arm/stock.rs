//! The stock arms: every advantage that unchanged Linux and KVM have, row by row.
//!
//! Whoever adds one adds a line to [`TABLE`] and nothing else.

use super::{Arm, Expect, Group, MachineOf, Module, Transport, Vmm};

/// A stock arm as the table spells it.
struct Line {
    name: &'static str,
    description: &'static str,
    vmm: Program,
    cmdline: &'static [&'static str],
    needs_tsc_khz: bool,
    has_log_boots: bool,
    is_default: bool,
    expect: &'static [Expect],
}

enum Program {
    Ours(&'static [&'static str]),
    Qemu(Transport),
}

const KVM_EXPECT: &[Expect] = &[Expect::Apic("x2apic"), Expect::NotIdle("haltpoll")];
const HALTPOLL: &[&str] = &["cpuidle_haltpoll.force=1"];

const TABLE: [Line; 7] = [
    Line {
        name: "qemu-pci",
        description: "QEMU microvm, virtio-pci with MSI-X, all of KVM's paravirtual features",
        vmm: Program::Qemu(Transport::Pci),
        cmdline: &[],
        needs_tsc_khz: false,
        has_log_boots: true,
        is_default: true,
        expect: KVM_EXPECT,
    },
    Line {
        name: "qemu-mmio",
        description: "QEMU microvm, virtio-mmio, all of KVM's paravirtual features",
        vmm: Program::Qemu(Transport::Mmio),
        cmdline: &[],
        needs_tsc_khz: false,
        has_log_boots: true,
        is_default: true,
        expect: KVM_EXPECT,
    },
    Line {
        name: "hvm",
        description: "plain hardware virtualization: no hypervisor leaf, xAPIC, trusted TSC",
        vmm: Program::Ours(&["--mode", "hvm"]),
        cmdline: &[],
        needs_tsc_khz: true,
        has_log_boots: false,
        is_default: true,
        expect: &[Expect::Clocksource("tsc"), Expect::NotApic("x2apic")],
    },
    Line {
        name: "hvm+x2apic",
        description: "as hvm, but with an x2APIC: what of hvm's cost is APIC access by MMIO",
        vmm: Program::Ours(&["--mode", "hvm", "--x2apic"]),
        cmdline: &[],
        needs_tsc_khz: true,
        has_log_boots: false,
        is_default: false,
        expect: &[Expect::Clocksource("tsc"), Expect::Apic("x2apic")],
    },
    Line {
        name: "kvm",
        description: "all of KVM's paravirtual features",
        vmm: Program::Ours(&["--mode", "kvm"]),
        cmdline: &[],
        needs_tsc_khz: false,
        has_log_boots: true,
        is_default: true,
        expect: KVM_EXPECT,
    },
    Line {
        name: "kvm+haltpoll",
        description: "as kvm, and the guest polls before it halts",
        vmm: Program::Ours(&["--mode", "kvm"]),
        cmdline: HALTPOLL,
        needs_tsc_khz: false,
        has_log_boots: false,
        is_default: true,
        expect: &[Expect::Apic("x2apic"), Expect::Idle("haltpoll")],
    },
    Line {
        name: "kvm+haltpoll+nohlt",
        description: "as kvm+haltpoll, and a halted guest keeps its CPU (no HLT exits)",
        vmm: Program::Ours(&["--mode", "kvm", "--disable-exits", "hlt"]),
        cmdline: HALTPOLL,
        needs_tsc_khz: false,
        has_log_boots: false,
        is_default: true,
        expect: &[Expect::Apic("x2apic"), Expect::Idle("haltpoll")],
    },
];

/// The arms of the table.
pub(super) fn arms() -> Vec<Arm> {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
    TABLE
        .iter()
        .map(|line| Arm {
            name: line.name.into(),
            description: line.description.into(),
            group: Group::Stock,
            vmm: match line.vmm {
                Program::Ours(options) => Vmm::Ours(words(options)),
                Program::Qemu(transport) => Vmm::Qemu(transport),
            },
            sidecore: None,
            cmdline: words(line.cmdline),
            needs_tsc_khz: line.needs_tsc_khz,
            module: Module::Absent,
            has_log_boots: line.has_log_boots,
            is_default: line.is_default,
            expect: line.expect.to_vec(),
            machine: MachineOf::default(),
        })
        .collect()
}
