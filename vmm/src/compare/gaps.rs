//! Arms that cannot be run here: named with what is missing, while the others run.
//!
//! Called by [`super::session`] before anything starts. A gap is never filled by something else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use super::args::Choice;
use super::arm::{Arm, Module, Vmm};

/// The module's place in the initramfs, as its archive writes names.
const MODULE: &[u8] = b"lib/coopvirt/coopvirt.ko\0";

/// An arm that is not run.
#[derive(Clone, Debug, PartialEq)]
pub struct Gap {
    /// The arm.
    pub arm: &'static Arm,
    /// What is missing.
    pub reason: String,
}

/// What this machine and these files offer.
#[derive(Debug, Default)]
pub struct Here {
    /// Why the peer's program cannot be run, if so.
    pub peer: Option<String>,
    /// Why exits cannot be traced, if so.
    pub trace: Option<String>,
    /// Whether KVM lets a guest halt without an exit; `None`: nobody asked.
    pub can_halt_inside: Option<bool>,
    /// Of each initramfs, whether the module is in it.
    pub modules: BTreeMap<PathBuf, bool>,
}

impl Here {
    /// Looks into the initramfs of each arm that needs the module.
    pub fn look_for_modules(&mut self, choice: &Choice, initrd: &Path) -> Result<()> {
        for arm in &choice.arms {
            let initrd = arm.machine.initrd.as_deref().unwrap_or(initrd);
            if arm.module == Module::Absent || self.modules.contains_key(initrd) {
                continue;
            }
            let bytes =
                fs::read(initrd).with_context(|| format!("cannot read {}", initrd.display()))?;
            self.modules.insert(initrd.into(), has_module(&bytes));
        }
        Ok(())
    }

    /// What this arm misses, if anything.
    fn missing(&self, arm: &Arm, initrd: &Path) -> Option<String> {
        let initrd = arm.machine.initrd.as_deref().unwrap_or(initrd);
        if arm.module != Module::Absent && self.modules.get(initrd) == Some(&false) {
            let reason = "the initramfs holds no lib/coopvirt/coopvirt.ko (an archive that is \
                          not packed; scripts/guest-initrd --module puts it in)";
            return Some(reason.into());
        }
        match &arm.vmm {
            Vmm::Qemu(_) => self.peer.clone().or_else(|| {
                let why = self.trace.as_ref()?;
                Some(format!("only tracepoints count a peer's exits: {why}"))
            }),
            Vmm::Ours(_) => (halts_inside(arm) && self.can_halt_inside == Some(false)).then(|| {
                "this KVM cannot let a guest halt without an exit (KVM_CAP_X86_DISABLE_EXITS)"
                    .into()
            }),
        }
    }
}

/// Whether an arm wants to halt without an exit.
pub fn halts_inside(arm: &Arm) -> bool {
    matches!(&arm.vmm, Vmm::Ours(options) if options.iter().any(|word| word == "--disable-exits"))
}

/// Takes the arms out of the choice that miss something here. If the reference is one of them and
/// nobody asked for it by name, the first arm that is left takes its place.
pub fn take(choice: &mut Choice, here: &Here, initrd: &Path) -> Result<Vec<Gap>> {
    let mut gaps = Vec::new();
    choice.arms.retain(|&arm| {
        let missing = here.missing(arm, initrd);
        let is_here = missing.is_none();
        gaps.extend(missing.map(|reason| Gap { arm, reason }));
        is_here
    });
    let Some(first) = choice.arms.first() else {
        let reasons = gaps
            .iter()
            .map(|gap| format!("{}: {}", gap.arm.name, gap.reason));
        bail!(
            "no arm can be run here: {}",
            reasons.collect::<Vec<_>>().join("; ")
        );
    };
    if let Some(gap) = gaps.iter().find(|gap| gap.arm.name == choice.reference) {
        if choice.is_reference_asked_for {
            bail!(
                "the reference arm '{}' cannot be run: {}",
                choice.reference,
                gap.reason
            );
        }
        choice.reference = &first.name;
    }
    Ok(gaps)
}

fn has_module(initrd: &[u8]) -> bool {
    initrd.windows(MODULE.len()).any(|part| part == MODULE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::args::tests::parse;

    fn left(choice: &Choice) -> Vec<&str> {
        choice.arms.iter().map(|arm| arm.name.as_str()).collect()
    }

    fn initrd() -> &'static Path {
        Path::new("/i")
    }

    #[test]
    fn only_arms_that_need_the_module_miss_it() {
        let choice = parse("--arms kvm,coop").choose().unwrap();
        assert!(has_module(b"070701./lib/coopvirt/coopvirt.ko\0ELF"));
        assert!(!has_module(b"070701./lib/coopvirt/modules/coopvirt.ko\0"));
        let here = |is_there| Here {
            modules: [(initrd().to_path_buf(), is_there)].into(),
            ..Here::default()
        };
        let mut with = choice.clone();
        assert_eq!(take(&mut with, &here(true), initrd()).unwrap(), []);
        assert_eq!(with.arms.len(), 4);
        let mut without = choice;
        let gaps = take(&mut without, &here(false), initrd()).unwrap();
        assert_eq!(gaps.len(), 3);
        assert!(gaps[0].reason.contains("coopvirt.ko"));
        assert_eq!(left(&without), ["kvm"]);
    }

    #[test]
    fn each_missing_capability_takes_its_arms_and_the_reference_moves_on() {
        let mut choice = parse("--arms stock").choose().unwrap();
        assert_eq!(choice.reference, "qemu-pci");
        let here = Here {
            peer: Some("qemu does not run".into()),
            can_halt_inside: Some(false),
            ..Here::default()
        };
        let gaps = take(&mut choice, &here, initrd()).unwrap();
        assert_eq!(gaps.len(), 3);
        assert!(gaps[2].reason.contains("KVM_CAP_X86_DISABLE_EXITS"));
        assert_eq!(choice.reference, "hvm");
        assert_eq!(left(&choice), ["hvm", "hvm+x2apic", "kvm", "kvm+haltpoll"]);
    }

    #[test]
    fn a_reference_that_was_asked_for_is_not_replaced() {
        let here = Here {
            trace: Some("not allowed".into()),
            ..Here::default()
        };
        let line = "--arms kvm,qemu-pci --reference qemu-pci";
        let mut choice = parse(line).choose().unwrap();
        let error = take(&mut choice, &here, initrd()).unwrap_err().to_string();
        assert!(error.contains("'qemu-pci' cannot be run") && error.contains("not allowed"));
        let mut choice = parse("--arms qemu-pci").choose().unwrap();
        let error = take(&mut choice, &here, initrd()).unwrap_err().to_string();
        assert!(error.contains("no arm can be run here"), "{error}");
    }
}
