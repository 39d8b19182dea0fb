//! What really runs guests here: the name that stands in every result.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The hypervisor signature of QEMU without KVM.
const TCG_SIGNATURE: &str = "TCGTCGTCGTCG";

/// How the name of a backend ends whose clock counts instructions: 1 ns each, of all CPUs together
/// (`scripts/lab --clock instructions`). Waiting takes no time there but the clock's.
pub const INSTRUCTION_CLOCK: &str = ", its clock counting instructions";
/// What the lab says of its clock.
const CLOCK_VARIABLE: &str = "COOPVIRT_LAB_CLOCK";

/// What runs guests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The name for reports: "AMD-V under emulation".
    pub name: String,
    /// VM exits are the architecture's own (real or emulated SVM or VMX), not a substitute.
    pub hardware_assisted: bool,
    /// The CPU itself is emulated: counts hold, times do not.
    pub emulated: bool,
    /// What led to this.
    pub details: Vec<String>,
}

/// What is known of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// Flags of the first CPU.
    pub cpu_flags: BTreeSet<String>,
    /// Signature of CPUID leaf 0x4000_0000, if a hypervisor is below us.
    pub hypervisor_signature: Option<String>,
    /// Which of `kvm_amd`, `kvm_intel`, `kvm_pvm` is loaded.
    pub modules: BTreeSet<String>,
    /// Whether the emulator's clock counts instructions. Nothing in the machine shows it.
    pub counts_instructions: bool,
}

/// The modules that can be KVM's backend.
const MODULES: [&str; 3] = ["kvm_amd", "kvm_intel", "kvm_pvm"];

impl Backend {
    /// Looks at this machine.
    pub fn probe() -> Backend {
        Backend::of(&Inputs::probe())
    }

    /// Names the backend of a machine.
    pub fn of(inputs: &Inputs) -> Backend {
        let loaded = |module: &str| inputs.modules.contains(module);
        let signature = inputs.hypervisor_signature.as_deref();
        let mut details = Vec::new();
        if !inputs.modules.is_empty() {
            let names: Vec<&str> = inputs.modules.iter().map(String::as_str).collect();
            details.push(format!("modules: {}", names.join(", ")));
        }
        if let Some(signature) = signature {
            details.push(format!("hypervisor below: {signature}"));
        }
        let make = |name: String, hardware_assisted, emulated| Backend {
            name,
            hardware_assisted,
            emulated,
            details: details.clone(),
        };
        if loaded("kvm_pvm") {
            return make("kvm_pvm (not hardware-assisted)".into(), false, false);
        }
        let Some(technology) = technology(inputs) else {
            return make("none".into(), false, false);
        };
        if !loaded("kvm_amd") && !loaded("kvm_intel") {
            return make(
                format!("none ({technology} present, no kvm module)"),
                false,
                false,
            );
        }
        match signature {
            None if inputs.cpu_flags.contains("hypervisor") => {
                make(format!("{technology} nested"), true, false)
            }
            None => make(technology.into(), true, false),
            Some(TCG_SIGNATURE) => {
                let clock = match inputs.counts_instructions {
                    true => INSTRUCTION_CLOCK,
                    false => "",
                };
                make(format!("{technology} under emulation{clock}"), true, true)
            }
            Some(_) => make(format!("{technology} nested"), true, false),
        }
    }
}

impl Inputs {
    /// Reads what is known of this machine; what cannot be read counts as absent.
    pub fn probe() -> Inputs {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu_flags = parse_flags(&cpuinfo);
        let is_guest = cpu_flags.contains("hypervisor");
        let is_loaded = |module: &&str| Path::new("/sys/module").join(module).exists();
        Inputs {
            hypervisor_signature: is_guest.then(hypervisor_signature).flatten(),
            modules: MODULES
                .iter()
                .filter(|m| is_loaded(m))
                .map(ToString::to_string)
                .collect(),
            cpu_flags,
            counts_instructions: std::env::var(CLOCK_VARIABLE)
                .is_ok_and(|clock| clock == "instructions"),
        }
    }
}

/// The release of the host's kernel, as `uname -r` says it.
pub fn kernel_release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_string()
}

fn technology(inputs: &Inputs) -> Option<&'static str> {
    let has = |flag: &str| inputs.cpu_flags.contains(flag);
    match () {
        () if has("svm") => Some("AMD-V"),
        () if has("vmx") => Some("VT-x"),
        () => None,
    }
}

fn parse_flags(cpuinfo: &str) -> BTreeSet<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("flags"));
    let flags = line
        .and_then(|line| line.split_once(':'))
        .map_or("", |(_, flags)| flags);
    flags.split_ascii_whitespace().map(str::to_string).collect()
}

/// The twelve characters that the hypervisor below us gives as its name.
fn hypervisor_signature() -> Option<String> {
    let leaf = core::arch::x86_64::__cpuid(0x4000_0000);
    let mut bytes = Vec::with_capacity(12);
    for word in [leaf.ebx, leaf.ecx, leaf.edx] {
        bytes.extend(word.to_le_bytes());
    }
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_end_matches('\0').trim();
    (!text.is_empty()).then(|| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(flags: &[&str], signature: Option<&str>, modules: &[&str]) -> Backend {
        let set = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        Backend::of(&Inputs {
            cpu_flags: set(flags),
            hypervisor_signature: signature.map(str::to_string),
            modules: set(modules),
            counts_instructions: false,
        })
    }

    #[test]
    fn bare_metal_is_named_after_the_vendors_technology() {
        assert_eq!(backend(&["vmx"], None, &["kvm_intel"]).name, "VT-x");
        assert_eq!(backend(&["svm"], None, &["kvm_amd"]).name, "AMD-V");
    }

    #[test]
    fn emulated_and_nested_svm_are_told_apart() {
        let emulated = backend(&["svm", "hypervisor"], Some(TCG_SIGNATURE), &["kvm_amd"]);
        assert_eq!(emulated.name, "AMD-V under emulation");
        assert!(emulated.hardware_assisted && emulated.emulated);
        let counted = Backend::of(&Inputs {
            cpu_flags: ["svm", "hypervisor"].map(String::from).into(),
            hypervisor_signature: Some(TCG_SIGNATURE.into()),
            modules: ["kvm_amd".to_string()].into(),
            counts_instructions: true,
        });
        assert_eq!(
            counted.name,
            "AMD-V under emulation, its clock counting instructions"
        );
        let nested = backend(&["vmx", "hypervisor"], Some("KVMKVMKVM"), &["kvm_intel"]);
        assert_eq!(nested.name, "VT-x nested");
        let hidden = backend(&["svm", "hypervisor"], None, &["kvm_amd"]);
        assert_eq!(hidden.name, "AMD-V nested");
    }

    #[test]
    fn pvm_is_never_taken_for_hardware() {
        let pvm = backend(&["hypervisor"], Some("KVMKVMKVM"), &["kvm_pvm"]);
        assert_eq!(pvm.name, "kvm_pvm (not hardware-assisted)");
        assert!(!pvm.hardware_assisted);
    }

    #[test]
    fn a_machine_without_kvm_has_no_backend() {
        assert_eq!(backend(&[], None, &[]).name, "none");
        assert_eq!(
            backend(&["svm"], None, &[]).name,
            "none (AMD-V present, no kvm module)"
        );
    }

    #[test]
    fn flags_are_parsed_from_cpuinfo() {
        let flags = parse_flags("processor\t: 0\nflags\t\t: fpu svm npt\n\nflags\t: x\n");
        assert!(flags.contains("svm") && flags.contains("npt") && !flags.contains("x"));
        assert!(parse_flags("").is_empty());
    }
}
