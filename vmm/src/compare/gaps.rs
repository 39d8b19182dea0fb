//! Arms that cannot be run here: named with the reason, while the others run.
//!
//! Called by [`super::session`] before anything starts. A gap is never filled by something else.

use super::args::Choice;
use super::arm::{Arm, Module};

/// The module's place in the initramfs, as its archive writes names.
const MODULE: &[u8] = b"lib/coopvirt/coopvirt.ko\0";

/// An arm that is not run.
#[derive(Clone, Debug, PartialEq)]
pub struct Gap {
    /// The arm.
    pub arm: &'static Arm,
    /// What is missing.
    pub reason: &'static str,
}

/// Takes the arms out of the choice whose guests would lack something in this initramfs.
pub fn take(choice: &mut Choice, initrd: &[u8]) -> Vec<Gap> {
    let has_module = has_module(initrd);
    let mut gaps = Vec::new();
    choice.arms.retain(|&arm| {
        let is_missing = arm.module != Module::Absent && !has_module;
        if is_missing {
            let reason = "the initramfs holds no lib/coopvirt/coopvirt.ko (an archive that is \
                          not packed; scripts/guest-initrd --module puts it in)";
            gaps.push(Gap { arm, reason });
        }
        !is_missing
    });
    gaps
}

fn has_module(initrd: &[u8]) -> bool {
    initrd.windows(MODULE.len()).any(|part| part == MODULE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::args::tests::parse;

    #[test]
    fn only_arms_that_need_the_module_miss_it() {
        let choice = parse("--arms kvm,coop").choose().unwrap();
        let mut with = choice.clone();
        assert_eq!(
            take(&mut with, b"070701./lib/coopvirt/coopvirt.ko\0ELF"),
            []
        );
        assert_eq!(with.arms.len(), 4);
        let mut without = choice;
        let gaps = take(&mut without, b"070701./lib/coopvirt/modules/coopvirt.ko\0");
        assert_eq!(gaps.len(), 3);
        assert!(gaps[0].reason.contains("coopvirt.ko"));
        let left: Vec<_> = without.arms.iter().map(|arm| arm.name.as_str()).collect();
        assert_eq!(left, ["kvm"]);
    }
}
