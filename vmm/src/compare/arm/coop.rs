//! The cooperative arms, made from the list of polling policies and the list of features.
//!
//! A new feature of the module is a line of [`FEATURES`], a new policy one of [`POLICIES`]: the
//! ablations follow. Features are switched in the guest (the module's parameters); the host offers
//! all of them in every arm.

use super::{Arm, Expect, Group, MachineOf, Module, Place, Sidecore, Vmm};

/// What says on a guest's command line with which parameters the module is loaded.
const PARAMETERS: &str = "coopvirt.module=";
/// The module's features, by the names of its parameters.
pub(super) const FEATURES: [&str; 5] = ["idle", "timer", "ipi", "populate", "release"];
/// The feature that brings an idle driver of the module's own.
const IDLE: &str = "idle";
/// What that driver does besides, by the names of its parameters: nothing without it.
const PARTS_OF_IDLE: [&str; 3] = ["tick", "post", "halt"];
/// That driver's name.
const IDLE_DRIVER: &str = "coopvirt";

/// A base arm for each way of polling: its name, the option's value, what that means, and whether
/// its ablations are of the group.
const POLICIES: [(&str, &str, &str, Group); 3] = [
    (
        "coop",
        "off",
        "no host thread polls for the guest",
        Group::Ablation,
    ),
    (
        "coop+sidecore",
        "adaptive",
        "a host thread polls while there is work",
        Group::Ablation,
    ),
    (
        "coop+always",
        "always",
        "a host thread polls always",
        Group::Single,
    ),
];

/// All of them: bases, the overcommitted one, ablations.
pub(super) fn arms() -> Vec<Arm> {
    let mut arms = Vec::new();
    for (name, policy, words, _) in POLICIES {
        arms.push(Arm {
            name: name.into(),
            description: format!("the module with all features; {words}"),
            ..arm(sidecore(policy), &FEATURES)
        });
    }
    let overcommitted = Sidecore {
        place: Place::WithVcpu,
        ..sidecore("adaptive")
    };
    arms.push(Arm {
        name: "overcommitted".into(),
        description: "as coop+sidecore, but the polling thread shares the last vCPU's host CPU"
            .into(),
        group: Group::Single,
        ..arm(overcommitted, &FEATURES)
    });
    for (name, module, words, cmdline) in [
        ("unloaded", Module::Absent, "never loaded", None),
        (
            "cycled",
            Module::Cycled,
            "loaded and unloaded under load before the works",
            Some("coopvirt.first=cycles".to_string()),
        ),
    ] {
        arms.push(Arm {
            name: name.into(),
            description: format!("as coop+sidecore, but the module was {words}"),
            group: Group::Single,
            cmdline: cmdline.into_iter().collect(),
            module,
            ..arm(sidecore("adaptive"), &[])
        });
    }
    for (base, policy, _, group) in POLICIES {
        for feature in FEATURES {
            let others: Vec<&str> = FEATURES.into_iter().filter(|f| *f != feature).collect();
            arms.push(Arm {
                name: format!("{base}/only-{feature}"),
                description: format!("as {base}, with no feature but {feature}"),
                group,
                ..arm(sidecore(policy), &[feature])
            });
            arms.push(Arm {
                name: format!("{base}/no-{feature}"),
                description: format!("as {base}, without {feature}"),
                group,
                ..arm(sidecore(policy), &others)
            });
        }
        for part in PARTS_OF_IDLE {
            let cmdline = vec![format!("{PARAMETERS}{}", parameters(&FEATURES, Some(part)))];
            arms.push(Arm {
                name: format!("{base}/no-{part}"),
                description: format!("as {base}, without {part}"),
                group,
                cmdline,
                ..arm(sidecore(policy), &FEATURES)
            });
        }
    }
    arms
}

const fn sidecore(policy: &'static str) -> Sidecore {
    Sidecore {
        policy,
        place: Place::Own,
    }
}

/// An arm with these features on, still without a name.
fn arm(sidecore: Sidecore, features: &[&str]) -> Arm {
    let mut expect = vec![Expect::Apic("x2apic")];
    expect.push(match features.contains(&IDLE) {
        true => Expect::Idle(IDLE_DRIVER),
        false => Expect::NotIdle(IDLE_DRIVER),
    });
    Arm {
        name: String::new(),
        description: String::new(),
        group: Group::Coop,
        vmm: Vmm::Ours(["--mode", "coop"].map(String::from).into()),
        sidecore: Some(sidecore),
        cmdline: vec![format!("{PARAMETERS}{}", parameters(features, None))],
        needs_tsc_khz: false,
        module: Module::Loaded,
        has_log_boots: false,
        is_default: false,
        expect,
        machine: MachineOf::default(),
    }
}

/// The same arm with these of the module's features instead of those it has.
pub(super) fn with_features(old: &Arm, features: &[&str]) -> Arm {
    let fresh = arm(old.sidecore.unwrap_or(sidecore("off")), features);
    Arm {
        name: old.name.clone(),
        description: old.description.clone(),
        group: old.group,
        ..fresh
    }
}

impl Arm {
    /// Whether its guest gives free memory back: by virtio-balloon, or by the module.
    pub fn gives_memory_back(&self) -> bool {
        let keeps = |word: &String| word.starts_with(PARAMETERS) && word.contains("release=0");
        !self.cmdline.iter().any(keeps)
    }
}

/// A polling policy by its name.
pub(super) fn policy(name: &str) -> Option<Sidecore> {
    let known = POLICIES.iter().find(|(_, policy, ..)| *policy == name);
    known.map(|(_, policy, ..)| sidecore(policy))
}

/// The module's parameters: each feature by name, so that no default decides, and what the idle
/// driver does besides, but for one part of it.
fn parameters(features: &[&str], without: Option<&str>) -> String {
    let of_feature = FEATURES.map(|name| (name, features.contains(&name)));
    let has_idle = features.contains(&IDLE);
    let of_part = PARTS_OF_IDLE.map(|name| (name, has_idle && without != Some(name)));
    let all = of_feature.into_iter().chain(of_part);
    let words: Vec<_> = all
        .map(|(name, is_on)| format!("{name}={}", u8::from(is_on)))
        .collect();
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_has_each_feature_alone_and_all_but_each() {
        let arms = arms();
        let of = |group| arms.iter().filter(|arm| arm.group == group).count();
        assert_eq!(of(Group::Coop), 3);
        assert_eq!(
            of(Group::Ablation),
            2 * (2 * FEATURES.len() + PARTS_OF_IDLE.len())
        );
        assert_eq!(
            of(Group::Single),
            3 + 2 * FEATURES.len() + PARTS_OF_IDLE.len()
        );
        let words = |name: &str| {
            let arm = arms.iter().find(|arm| arm.name == name).unwrap();
            arm.cmdline.join(" ")
        };
        assert_eq!(
            words("coop"),
            "coopvirt.module=idle=1,timer=1,ipi=1,populate=1,release=1,tick=1,post=1,halt=1"
        );
        assert_eq!(
            words("coop+sidecore/only-timer"),
            "coopvirt.module=idle=0,timer=1,ipi=0,populate=0,release=0,tick=0,post=0,halt=0"
        );
        assert_eq!(
            words("coop/no-release"),
            "coopvirt.module=idle=1,timer=1,ipi=1,populate=1,release=0,tick=1,post=1,halt=1"
        );
        assert_eq!(
            words("coop/no-post"),
            "coopvirt.module=idle=1,timer=1,ipi=1,populate=1,release=1,tick=1,post=0,halt=1"
        );
    }

    #[test]
    fn only_the_overcommitted_arm_shares_a_cpu() {
        for arm in arms() {
            let place = arm.sidecore.unwrap().place;
            assert_eq!(place == Place::WithVcpu, arm.name == "overcommitted");
        }
    }
}
