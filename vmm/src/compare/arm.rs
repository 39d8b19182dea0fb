//! The arms: what is compared, as data.
//!
//! An arm names a VMM, how it is started, what is added to the guest's command line, and what the
//! guest must then report of itself. Whoever adds an arm adds a line to [`ARMS`] and nothing else.
//! Read by [`super::args`], [`super::plan`] and the two command builders.

use super::records::Platform;

/// One thing that is compared with the others.
#[derive(Debug, PartialEq, Eq)]
pub struct Arm {
    /// The name used on command lines, in files and in tables.
    pub name: &'static str,
    /// What it is, for people.
    pub description: &'static str,
    /// Who runs it.
    pub vmm: Vmm,
    /// Added to the guest's command line.
    pub cmdline: &'static [&'static str],
    /// Whether the guest finds no hypervisor it knows and has to be told its TSC's frequency.
    pub needs_tsc_khz: bool,
    /// Whether the boot is also measured with the kernel's log on either console.
    pub has_log_boots: bool,
    /// Whether it is run when nobody names arms.
    pub is_default: bool,
    /// What the guest must report, or the arm is not what its name says.
    pub expect: &'static [Expect],
}

/// The VMM of an arm and the options that make the arm.
#[derive(Debug, PartialEq, Eq)]
pub enum Vmm {
    /// `coopvirt run` with these options.
    Ours(&'static [&'static str]),
    /// QEMU's `microvm` machine with this transport of its virtio devices.
    Qemu(Transport),
}

/// How virtio devices are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// virtio-mmio.
    Mmio,
    /// virtio-pci with MSI-X.
    Pci,
}

/// A demand on what the guest says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The clock source has this name.
    Clocksource(&'static str),
    /// The APIC driver's name has this in it, in lower case.
    Apic(&'static str),
    /// The APIC driver's name has not.
    NotApic(&'static str),
    /// The idle driver has this name.
    Idle(&'static str),
    /// The idle driver has another name.
    NotIdle(&'static str),
}

impl Expect {
    /// Says what is wrong, if something is.
    pub fn check(self, platform: &Platform) -> Result<(), String> {
        let apic = platform.apic.to_ascii_lowercase();
        // The guest says "driver/governor".
        let idle = platform.idle.split('/').next().unwrap_or_default();
        let (holds, what, is, wanted) = match self {
            Expect::Clocksource(name) => (
                platform.clocksource == name,
                "clocksource",
                &platform.clocksource,
                name,
            ),
            Expect::Apic(part) => (apic.contains(part), "apic driver", &platform.apic, part),
            Expect::NotApic(part) => {
                return match apic.contains(part) {
                    true => Err(format!("the guest's apic driver is '{}'", platform.apic)),
                    false => Ok(()),
                }
            }
            Expect::Idle(name) => (idle == name, "idle driver", &platform.idle, name),
            Expect::NotIdle(name) => {
                return match idle == name {
                    true => Err(format!("the guest's idle driver is '{name}'")),
                    false => Ok(()),
                }
            }
        };
        match holds {
            true => Ok(()),
            false => Err(format!(
                "the guest's {what} is '{is}', this arm needs '{wanted}'"
            )),
        }
    }
}

const KVM_EXPECT: &[Expect] = &[Expect::Apic("x2apic"), Expect::NotIdle("haltpoll")];
const HALTPOLL: &[&str] = &["cpuidle_haltpoll.force=1"];

/// All arms, in the order in which a default comparison reports them.
pub static ARMS: [Arm; 7] = [
    Arm {
        name: "qemu-pci",
        description: "QEMU microvm, virtio-pci with MSI-X, all of KVM's paravirtual features",
        vmm: Vmm::Qemu(Transport::Pci),
        cmdline: &[],
        needs_tsc_khz: false,
        has_log_boots: true,
        is_default: true,
        expect: KVM_EXPECT,
    },
    Arm {
        name: "qemu-mmio",
        description: "QEMU microvm, virtio-mmio, all of KVM's paravirtual features",
        vmm: Vmm::Qemu(Transport::Mmio),
        cmdline: &[],
        needs_tsc_khz: false,
        has_log_boots: true,
        is_default: true,
        expect: KVM_EXPECT,
    },
    Arm {
        name: "hvm",
        description: "plain hardware virtualization: no hypervisor leaf, xAPIC, trusted TSC",
        vmm: Vmm::Ours(&["--mode", "hvm"]),
        cmdline: &[],
        needs_tsc_khz: true,
        has_log_boots: false,
        is_default: true,
        expect: &[Expect::Clocksource("tsc"), Expect::NotApic("x2apic")],
    },
    Arm {
        name: "hvm+x2apic",
        description: "as hvm, but with an x2APIC: what of hvm's cost is APIC access by MMIO",
        vmm: Vmm::Ours(&["--mode", "hvm", "--x2apic"]),
        cmdline: &[],
        needs_tsc_khz: true,
        has_log_boots: false,
        is_default: false,
        expect: &[Expect::Clocksource("tsc"), Expect::Apic("x2apic")],
    },
    Arm {
        name: "kvm",
        description: "all of KVM's paravirtual features",
        vmm: Vmm::Ours(&["--mode", "kvm"]),
        cmdline: &[],
        needs_tsc_khz: false,
        has_log_boots: true,
        is_default: true,
        expect: KVM_EXPECT,
    },
    Arm {
        name: "kvm+haltpoll",
        description: "as kvm, and the guest polls before it halts",
        vmm: Vmm::Ours(&["--mode", "kvm"]),
        cmdline: HALTPOLL,
        needs_tsc_khz: false,
        has_log_boots: false,
        is_default: true,
        expect: &[Expect::Apic("x2apic"), Expect::Idle("haltpoll")],
    },
    Arm {
        name: "kvm+haltpoll+nohlt",
        description: "as kvm+haltpoll, and a halted guest keeps its CPU (no HLT exits)",
        vmm: Vmm::Ours(&["--mode", "kvm", "--disable-exits", "hlt"]),
        cmdline: HALTPOLL,
        needs_tsc_khz: false,
        has_log_boots: false,
        is_default: true,
        expect: &[Expect::Apic("x2apic"), Expect::Idle("haltpoll")],
    },
];

/// The arm with this name, if there is one.
pub fn by_name(name: &str) -> Option<&'static Arm> {
    ARMS.iter().find(|arm| arm.name == name)
}

impl Arm {
    /// All that is wrong with what the guest says, as one text.
    pub fn check(&self, platform: &Platform, cpus: u32) -> Result<(), String> {
        let mut wrong: Vec<String> = self
            .expect
            .iter()
            .filter_map(|expect| expect.check(platform).err())
            .collect();
        if platform.cpus != u64::from(cpus) {
            wrong.push(format!(
                "the guest has {} vCPUs online, not {cpus}",
                platform.cpus
            ));
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(wrong.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(clocksource: &str, apic: &str, idle: &str) -> Platform {
        Platform {
            clocksource: clocksource.into(),
            apic: apic.into(),
            idle: idle.into(),
            cpus: 2,
            ..Platform::default()
        }
    }

    #[test]
    fn names_are_unique_and_found() {
        for (index, arm) in ARMS.iter().enumerate() {
            assert_eq!(
                ARMS.iter().position(|other| other.name == arm.name),
                Some(index)
            );
            assert_eq!(by_name(arm.name), Some(arm));
            assert!(!arm.name.contains([',', ' ']));
        }
        assert_eq!(by_name(""), None);
    }

    #[test]
    fn hvm_fails_with_the_reason_when_its_clock_is_not_the_tsc() {
        let hvm = by_name("hvm").unwrap();
        assert_eq!(hvm.check(&platform("tsc", "flat", "none"), 2), Ok(()));
        let wrong = hvm
            .check(&platform("hpet", "x2apic cluster", "none"), 2)
            .unwrap_err();
        assert!(wrong.contains("clocksource is 'hpet'"), "{wrong}");
        assert!(wrong.contains("apic driver is 'x2apic cluster'"), "{wrong}");
    }

    #[test]
    fn haltpoll_has_to_be_on_where_it_is_named_and_off_elsewhere() {
        let guest = platform("kvm-clock", "physical x2apic", "haltpoll/haltpoll");
        assert_eq!(by_name("kvm+haltpoll").unwrap().check(&guest, 2), Ok(()));
        assert!(by_name("kvm").unwrap().check(&guest, 2).is_err());
        assert!(by_name("kvm+haltpoll").unwrap().check(&guest, 4).is_err());
    }
}
