//! Arms of an experiment's own: a known arm with something changed.
//!
//! Said by `[[arm]]` tables of an experiment file, or by `--arm` with the same table in one line;
//! [`crate::compare::args`] makes arms of them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{coop, Arm, Group, MachineOf, Module, Vmm};
use crate::compare::args::{nearest, parse_size};

/// The keys of an arm, in the order in which they are best written.
pub const KEYS: [&str; 11] = [
    "name", "base", "features", "sidecore", "options", "cmdline", "kernel", "initrd", "cpus",
    "memory", "backing",
];
/// Those of them whose values are paths.
pub const PATHS: [&str; 2] = ["kernel", "initrd"];

/// An arm as an experiment says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OwnArm {
    /// Its name.
    pub name: String,
    /// The known arm that it is, but for what follows: decides the VMM and the mode.
    pub base: String,
    /// The module's features, in place of the base's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// How the host polls, in place of the base's way: "off", "adaptive", "always".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecore: Option<String>,
    /// More options of `coopvirt run`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// More words of the guest's command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// The guest's kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// The guest's initramfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// vCPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Memory: "1G".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// What memory is made of on the host: "huge" pages where there are some, or "small" ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing: Option<String>,
}

impl OwnArm {
    /// Reads a table in one line: `{name = "a", base = "kvm", cpus = 4}`.
    pub fn parse(text: &str) -> Result<OwnArm, String> {
        #[derive(Deserialize)]
        struct Line {
            arm: OwnArm,
        }
        let line: Line = toml::from_str(&format!("arm = {text}\n"))
            .map_err(|error| error.message().replace('\n', ", "))?;
        // Found early, so that a file's line can be named.
        line.arm.arm().map(|_| line.arm)
    }

    /// The same in one line.
    pub fn text(&self) -> String {
        // A table of texts and numbers has a TOML form.
        toml::Value::try_from(self)
            .map_or_else(|error| error.to_string(), |value| value.to_string())
    }

    /// Makes the arm, or says what is wrong with it.
    pub fn arm(&self) -> Result<Arm, String> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || "+-./@_".contains(c);
        if self.name.is_empty() || !self.name.chars().all(is_name) {
            let name = &self.name;
            return Err(format!(
                "an arm needs a name of letters, digits and +-./@_, not {name:?}"
            ));
        }
        if super::chosen(&self.name).is_some() {
            return Err(format!("the name {} is that of a known arm", self.name));
        }
        let base = super::by_name(&self.base).ok_or_else(|| unknown_base(&self.base))?;
        let mut arm = base.clone();
        self.change_module(&mut arm)?;
        match &mut arm.vmm {
            Vmm::Ours(options) => options.extend(self.options.iter().cloned()),
            Vmm::Qemu(_) if self.options.is_empty() => {}
            Vmm::Qemu(_) => return Err(format!("options are ours, not those of {}", self.base)),
        }
        let words = self.cmdline.iter().flat_map(|line| line.split_whitespace());
        arm.cmdline.extend(words.map(Into::into));
        arm.machine = self.machine()?;
        arm.description = self.changes();
        arm.name.clone_from(&self.name);
        arm.group = Group::Single;
        arm.has_log_boots = false;
        Ok(arm)
    }

    /// "as kvm, with cpus = 4": what a reader of the table needs to know.
    fn changes(&self) -> String {
        let table = toml::Table::try_from(self).unwrap_or_default();
        let changes: Vec<String> = table
            .iter()
            .filter(|(key, _)| !["name", "base"].contains(&key.as_str()))
            .map(|(key, value)| format!("{key} = {value}"))
            .collect();
        match changes.is_empty() {
            true => format!("as {}", self.base),
            false => format!("as {}, with {}", self.base, changes.join(", ")),
        }
    }

    fn change_module(&self, arm: &mut Arm) -> Result<(), String> {
        if let Some(features) = &self.features {
            if arm.module != Module::Loaded {
                return Err(format!(
                    "{} has no module whose features could be set",
                    self.base
                ));
            }
            if let Some(wrong) = features
                .iter()
                .find(|f| !coop::FEATURES.contains(&f.as_str()))
            {
                let near = nearest(wrong, coop::FEATURES);
                return Err(format!(
                    "unknown feature {wrong:?}; the nearest is {near:?}"
                ));
            }
            let features: Vec<&str> = features.iter().map(String::as_str).collect();
            *arm = coop::with_features(arm, &features);
        }
        if let Some(policy) = &self.sidecore {
            if arm.sidecore.is_none() {
                return Err(format!("{} is no arm whose host can poll", self.base));
            }
            let sidecore = coop::policy(policy);
            arm.sidecore = Some(sidecore.ok_or_else(|| {
                format!("sidecore is \"off\", \"adaptive\" or \"always\", not {policy:?}")
            })?);
        }
        Ok(())
    }

    fn machine(&self) -> Result<MachineOf, String> {
        if self.cpus.is_some_and(|cpus| !(1..=64).contains(&cpus)) {
            return Err("cpus must be 1 to 64".into());
        }
        let memory_bytes = self.memory.as_deref().map(parse_size).transpose()?;
        if memory_bytes.is_some_and(|bytes| bytes < 64 << 20 || !bytes.is_multiple_of(1 << 20)) {
            return Err("memory must be a whole number of MiB, at least 64M".into());
        }
        let has_small_pages = match self.backing.as_deref() {
            None | Some("huge") => false,
            Some("small") => true,
            Some(other) => return Err(format!("backing is \"huge\" or \"small\", not {other:?}")),
        };
        Ok(MachineOf {
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            cpus: self.cpus,
            memory_bytes,
            has_small_pages,
        })
    }
}

fn unknown_base(base: &str) -> String {
    let names = super::ARMS.iter().map(|arm| arm.name.as_str());
    let near = nearest(base, names);
    format!("base must be a known arm, not {base:?}; the nearest is {near:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_arm_is_its_base_with_changes() {
        let text = r#"{name = "busy-4", base = "kvm", options = ["--halt-poll", "0"], cpus = 4,
                       memory = "1G", backing = "small", cmdline = "nohz=off  x", kernel = "/k"}"#;
        let own = OwnArm::parse(&text.replace('\n', " ")).unwrap();
        assert_eq!(OwnArm::parse(&own.text()), Ok(own.clone()));
        let arm = own.arm().unwrap();
        let options = ["--mode", "kvm", "--halt-poll", "0"].map(String::from);
        assert_eq!(arm.vmm, Vmm::Ours(options.into()));
        assert_eq!(arm.cmdline, ["nohz=off", "x"]);
        assert_eq!((arm.name.as_str(), arm.group), ("busy-4", Group::Single));
        let machine = MachineOf {
            kernel: Some("/k".into()),
            initrd: None,
            cpus: Some(4),
            memory_bytes: Some(1 << 30),
            has_small_pages: true,
        };
        assert_eq!(arm.machine, machine);
        assert!(arm
            .description
            .starts_with("as kvm, with backing = \"small\", "));
    }

    #[test]
    fn features_and_polling_are_those_of_the_module() {
        let text = r#"{name="x", base="coop", features=["timer"], sidecore="adaptive"}"#;
        let arm = OwnArm::parse(text).unwrap().arm().unwrap();
        let only = super::super::by_name("coop+sidecore/only-timer").unwrap();
        assert_eq!((&arm.cmdline, arm.sidecore), (&only.cmdline, only.sidecore));
        // Without the idle feature the stock idle loop has to be there.
        assert_eq!(arm.expect, only.expect);
    }

    #[test]
    fn nonsense_is_told() {
        for (text, says) in [
            (r#"{base="kvm"}"#, "needs a name"),
            (r#"{name="a b", base="kvm"}"#, "needs a name"),
            (r#"{name="kvm", base="kvm"}"#, "is that of a known arm"),
            (r#"{name="stock", base="kvm"}"#, "is that of a known arm"),
            (r#"{name="x", base="kmv"}"#, "the nearest is \"kvm\""),
            (r#"{name="x", base="coop", features=["timr"]}"#, "\"timer\""),
            (
                r#"{name="x", base="kvm", features=["timer"]}"#,
                "has no module",
            ),
            (r#"{name="x", base="kvm", sidecore="off"}"#, "can poll"),
            (r#"{name="x", base="coop", sidecore="on"}"#, "\"adaptive\""),
            (
                r#"{name="x", base="qemu-pci", options=["-x"]}"#,
                "options are ours",
            ),
            (r#"{name="x", base="kvm", cpus=0}"#, "1 to 64"),
            (
                r#"{name="x", base="kvm", memory="1M"}"#,
                "whole number of MiB",
            ),
            (r#"{name="x", base="kvm", backing="tiny"}"#, "\"small\""),
            (r#"{name="x", base="kvm", color=1}"#, "unknown field"),
            (r#"{name="x""#, ""),
        ] {
            let error = OwnArm::parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
            assert!(!error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn every_key_is_known() {
        let all = OwnArm {
            features: Some(vec!["timer".into()]),
            sidecore: Some("off".into()),
            options: vec!["x".into()],
            cmdline: Some("x".into()),
            kernel: Some("x".into()),
            initrd: Some("x".into()),
            cpus: Some(1),
            memory: Some("1G".into()),
            backing: Some("huge".into()),
            ..OwnArm::default()
        };
        let text = toml::to_string(&all).unwrap();
        let keys: Vec<_> = text
            .lines()
            .filter_map(|line| line.split(" =").next())
            .collect();
        assert_eq!(keys, KEYS);
    }
}
