//! The arms: what is compared, as data.
//!
//! An arm names a VMM, how it is started, what is added to the guest's command line, and what the
//! guest must then report of itself. Stock arms are lines of a table ([`stock`]); cooperative arms
//! and their ablations are made from two lists ([`coop`]). Read by [`super::args`], [`super::plan`]
//! and the two command builders.

mod coop;
mod expect;
mod own;
mod stock;

use std::path::PathBuf;
use std::sync::LazyLock;

use super::records::Platform;

pub use expect::Expect;
pub use own::{OwnArm, KEYS as OWN_KEYS, PATHS as OWN_PATHS};

/// One thing that is compared with the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arm {
    /// The name used on command lines, in files and in tables.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// With which others it is chosen by one name.
    pub group: Group,
    /// Who runs it.
    pub vmm: Vmm,
    /// How the host polls for it.
    pub sidecore: Option<Sidecore>,
    /// Added to the guest's command line.
    pub cmdline: Vec<String>,
    /// Whether the guest finds no hypervisor it knows and has to be told its TSC's frequency.
    pub needs_tsc_khz: bool,
    /// What the guest does with our module.
    pub module: Module,
    /// Whether the boot is also measured with the kernel's log on either console.
    pub has_log_boots: bool,
    /// Whether it is run when nobody names arms.
    pub is_default: bool,
    /// What the guest must report, or the arm is not what its name says.
    pub expect: Vec<Expect>,
    /// Where its machine is another than that of all arms.
    pub machine: MachineOf,
}

/// What an arm has of its own where others have what the comparison says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineOf {
    /// The guest's kernel.
    pub kernel: Option<PathBuf>,
    /// The guest's initramfs.
    pub initrd: Option<PathBuf>,
    /// vCPUs.
    pub cpus: Option<u32>,
    /// Memory, a whole number of MiB.
    pub memory_bytes: Option<u64>,
    /// Whether its memory is made of 4 KiB pages only.
    pub has_small_pages: bool,
}

/// Which arms are chosen together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// What there is without us: the best of these is what others are compared with.
    Stock,
    /// The cooperative interface as it is used.
    Coop,
    /// Each of its features alone, and all but each.
    Ablation,
    /// Chosen only by name.
    Single,
}

impl Group {
    fn from_name(name: &str) -> Option<Group> {
        match name {
            "stock" => Some(Group::Stock),
            "coop" => Some(Group::Coop),
            "ablation" => Some(Group::Ablation),
            _ => None,
        }
    }
}

/// What a guest does with our module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// Nothing.
    Absent,
    /// Has it loaded during all works.
    Loaded,
    /// Has loaded and unloaded it many times before the works.
    Cycled,
}

/// The VMM of an arm and the options that make the arm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vmm {
    /// `coopvirt run` with these options.
    Ours(Vec<String>),
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

/// The host's polling thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sidecore {
    /// When it polls, as the VMM's option spells it.
    pub policy: &'static str,
    /// Where it runs.
    pub place: Place,
}

/// The host CPU of the polling thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// One of its own, where the host has one to spare.
    Own,
    /// That of the last vCPU: a host that has promised more CPUs than it has.
    WithVcpu,
}

/// What a guest says of the module: it is in use, or nobody asked for it.
const LOADED: &str = "loaded";
const NONE: &str = "none";
/// The end of a twin's name.
pub const TWIN: &str = "@2";

/// All arms, in the order in which a comparison reports them.
pub static ARMS: LazyLock<Vec<Arm>> =
    LazyLock::new(|| stock::arms().into_iter().chain(coop::arms()).collect());

/// The arm with this name, if there is one.
pub fn by_name(name: &str) -> Option<&'static Arm> {
    ARMS.iter().find(|arm| arm.name == name)
}

/// The arms that a word of a list means: those of a group, or the one of this name. `=coop` is the
/// one arm where a group has the same name.
pub fn chosen(word: &str) -> Option<Vec<&'static Arm>> {
    if let Some(group) = Group::from_name(word) {
        return Some(ARMS.iter().filter(|arm| arm.group == group).collect());
    }
    by_name(word.strip_prefix('=').unwrap_or(word)).map(|arm| vec![arm])
}

impl Arm {
    /// This arm once more, under another name: what differs between the two is noise. It is no stock
    /// arm, so that no row's best one is a matter of luck.
    pub fn twin(&self) -> Arm {
        Arm {
            name: format!("{}{TWIN}", self.name),
            description: format!(
                "{} once more: what differs between the two is noise",
                self.name
            ),
            group: Group::Single,
            ..self.clone()
        }
    }

    /// All that is wrong with what the guest says, as one text.
    pub fn check(&self, platform: &Platform, cpus: u32) -> Result<(), String> {
        let mut wrong: Vec<String> = self
            .expect
            .iter()
            .filter_map(|expect| expect.check(platform).err())
            .collect();
        let wanted = match self.module {
            Module::Loaded => LOADED,
            Module::Absent | Module::Cycled => NONE,
        };
        let module = match platform.module.as_str() {
            "" => NONE,
            state => state,
        };
        if module != wanted {
            wrong.push(format!(
                "the guest's module is '{module}', this arm needs '{wanted}'"
            ));
        }
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

    pub(super) fn platform(clocksource: &str, apic: &str, idle: &str) -> Platform {
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
            assert_eq!(by_name(&arm.name), Some(arm));
            assert!(!arm.name.contains([',', ' ', '=']));
        }
        assert_eq!(by_name(""), None);
    }

    #[test]
    fn a_group_means_its_arms_and_a_name_one() {
        let names = |word| -> Vec<&str> {
            let arms = chosen(word).unwrap();
            arms.into_iter().map(|arm| arm.name.as_str()).collect()
        };
        assert_eq!(names("stock").len(), 7);
        assert_eq!(names("coop"), ["coop", "coop+sidecore", "coop+always"]);
        assert_eq!(names("=coop"), ["coop"]);
        assert_eq!(names("coop+sidecore"), ["coop+sidecore"]);
        assert_eq!(names("coop/only-idle"), ["coop/only-idle"]);
        assert!(chosen("ablations").is_none());
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

    #[test]
    fn a_module_has_to_be_loaded_where_it_is_named_and_nowhere_else() {
        let mut guest = platform("kvm-clock", "physical x2apic", "coopvirt/menu");
        let wrong = by_name("coop").unwrap().check(&guest, 2).unwrap_err();
        assert_eq!(
            wrong,
            "the guest's module is 'none', this arm needs 'loaded'"
        );
        guest.module = "loaded".into();
        assert_eq!(by_name("coop").unwrap().check(&guest, 2), Ok(()));
        assert!(by_name("kvm").unwrap().check(&guest, 2).is_err());
        // Without the idle feature the stock idle loop has to be there.
        assert!(by_name("coop/no-idle").unwrap().check(&guest, 2).is_err());
    }
}
