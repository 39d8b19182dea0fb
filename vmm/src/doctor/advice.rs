//! Judges findings: what is fine, what is not, and what to do about it.

use serde::Serialize;

use super::capabilities::{Capability, Need, CAPABILITIES};
use super::findings::{Denied, Findings, Usable};

/// How good one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// A VM runs, but something is missing.
    Warn,
    /// No VM, or no meaningful figures.
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// The group it belongs to: "cpu", "kvm".
    pub group: &'static str,
    /// What it is about.
    pub name: String,
    /// How good it is.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// The whole report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The backend's name.
    pub backend: String,
    /// A VM can run, and its exits mean something.
    pub can_run: bool,
    /// All lines.
    pub items: Vec<Item>,
}

const USE_THE_LAB: &str = "run everything that needs KVM by `scripts/lab COMMAND...`, which \
                           emulates a host with AMD-V";

/// Judges everything.
pub fn judge(findings: &Findings) -> Report {
    let mut items = vec![cpu(findings), backend(findings), kvm_device(findings)];
    items.extend(api(findings));
    items.extend(capabilities(findings));
    items.extend(parameters(findings));
    items.extend([tracing(findings), tick(findings)]);
    items.extend(devices(findings));
    items.extend(memory(findings));
    items.extend(clock(findings));
    let has_failed = items.iter().any(|item| item.status == Status::Fail);
    Report {
        backend: findings.backend.name.clone(),
        can_run: !has_failed,
        items,
    }
}

fn item(group: &'static str, name: &str, status: Status, found: impl Into<String>) -> Item {
    Item {
        group,
        name: name.into(),
        status,
        found: found.into(),
        advice: None,
    }
}

impl Item {
    fn advise(self, advice: impl Into<String>) -> Item {
        Item {
            advice: Some(advice.into()),
            ..self
        }
    }
}

fn cpu(f: &Findings) -> Item {
    let has = |flag: &str| f.cpu_flags.contains(flag);
    let flags: Vec<&str> = [
        "svm",
        "vmx",
        "npt",
        "ept",
        "avic",
        "x2avic",
        "vgif",
        "hypervisor",
        "constant_tsc",
    ]
    .into_iter()
    .filter(|flag| has(flag))
    .collect();
    let found = format!(
        "{} CPUs, {}; flags: {}",
        f.nr_cpus,
        f.cpu_model,
        flags.join(" ")
    );
    if has("svm") || has("vmx") {
        return item("cpu", "virtualization", Status::Ok, found);
    }
    let advice = if has("hypervisor") {
        format!(
            "this is a VM without nested virtualization: enable it on its host, or {USE_THE_LAB}"
        )
    } else {
        format!("enable AMD-V or VT-x in the firmware, or {USE_THE_LAB}")
    };
    item("cpu", "virtualization", Status::Fail, found).advise(advice)
}

fn backend(f: &Findings) -> Item {
    let mut found = f.backend.name.clone();
    if !f.backend.details.is_empty() {
        found = format!("{found} ({})", f.backend.details.join("; "));
    }
    if f.backend.name.starts_with("kvm_pvm") {
        return item("cpu", "backend", Status::Fail, found).advise(format!(
            "kvm_pvm is not hardware-assisted: it shadows page tables and emulates guest kernel \
             code, and what it counts as exits are not VM exits, so figures from it are \
             meaningless; {USE_THE_LAB}"
        ));
    }
    if !f.backend.hardware_assisted {
        return item("cpu", "backend", Status::Fail, found).advise(format!(
            "load kvm_amd or kvm_intel where the CPU has it, or {USE_THE_LAB}"
        ));
    }
    if f.backend.emulated {
        return item("cpu", "backend", Status::Warn, found).advise(
            "exits are real ones of KVM, and their counts hold; times are those of an emulator, \
             and polling policies behave differently",
        );
    }
    if f.backend.name.ends_with("nested") {
        return item("cpu", "backend", Status::Warn, found).advise(
            "each exit costs 7-30 us here: counts hold, times are not those of bare metal",
        );
    }
    item("cpu", "backend", Status::Ok, found)
}

fn kvm_device(f: &Findings) -> Item {
    let make = |status, found: &str| item("kvm", "/dev/kvm", status, found);
    match &f.kvm {
        Ok(found) => make(Status::Ok, found),
        Err(Denied::Absent) => make(Status::Fail, "absent").advise(format!(
            "load kvm_amd or kvm_intel (modprobe), or {USE_THE_LAB}"
        )),
        Err(Denied::NoPermission) => make(Status::Fail, "permission denied")
            .advise("add yourself to group kvm: `sudo usermod -aG kvm $USER`, then log in again"),
        Err(Denied::Other(error)) => make(Status::Fail, error),
    }
}

fn api(f: &Findings) -> Option<Item> {
    let version = f.kvm_api?;
    let made = item("kvm", "API version", Status::Ok, version.to_string());
    Some(match version {
        12 => made,
        _ => Item {
            status: Status::Fail,
            ..made
        }
        .advise("only version 12 is supported"),
    })
}

fn capabilities(f: &Findings) -> Vec<Item> {
    let Some(values) = &f.capabilities else {
        return Vec::new();
    };
    let judge_one = |capability: &Capability| {
        let value = values.get(&capability.number).copied().unwrap_or(0);
        let need = match capability.need {
            Need::Needed => "needed",
            Need::Optional => "optional",
        };
        let status = match (value > 0, capability.need) {
            (true, _) => Status::Ok,
            (false, Need::Optional) => Status::Warn,
            (false, Need::Needed) => Status::Fail,
        };
        let found = if value > 0 {
            format!("{value} ({need})")
        } else {
            format!("no ({need})")
        };
        let made = item("capability", capability.name, status, found);
        match status {
            Status::Ok => made,
            Status::Warn => made.advise(format!("not here: {}", capability.purpose)),
            Status::Fail => made.advise(format!("no vm without it: {}", capability.purpose)),
        }
    };
    CAPABILITIES.iter().map(judge_one).collect()
}

fn parameters(f: &Findings) -> Vec<Item> {
    let is_on = |value: &str| matches!(value, "Y" | "y" | "1");
    let judge_one = |(name, value): (&String, &String)| {
        let made = item("parameter", name, Status::Ok, value.clone());
        match name.as_str() {
            "kvm_amd.npt" | "kvm_intel.ept" if !is_on(value) => Item {
                status: Status::Warn,
                ..made
            }
            .advise("without nested paging guests exit on page faults: load with npt=1, ept=1"),
            "kvm_amd.avic" | "kvm_intel.enable_apicv" if is_on(value) => {
                made.advise("interrupts need fewer exits with it: say so beside figures")
            }
            _ => made,
        }
    };
    f.kvm_parameters.iter().map(judge_one).collect()
}

fn tracing(f: &Findings) -> Item {
    match &f.tracing {
        Ok(found) => item("tracing", "kvm tracepoints", Status::Ok, found),
        Err(error) => item("tracing", "kvm tracepoints", Status::Warn, "unusable").advise(error),
    }
}

fn tick(f: &Findings) -> Item {
    let name = "host's own tick";
    match &f.tick_attribution {
        Ok(found) => item("tracing", name, Status::Ok, found),
        Err(error) => item("tracing", name, Status::Warn, "unknown: no net figures").advise(error),
    }
}

fn devices(f: &Findings) -> Vec<Item> {
    let one = |name: &str, usable: &Usable, module: &str| match usable {
        Ok(found) => item("device", name, Status::Ok, found),
        Err(Denied::Absent) => {
            item("device", name, Status::Warn, "absent").advise(format!("`modprobe {module}`"))
        }
        Err(Denied::NoPermission) => item("device", name, Status::Warn, "permission denied")
            .advise(format!(
                "give yourself access to {name} (group kvm, udev rule), or run as root"
            )),
        Err(Denied::Other(error)) => item("device", name, Status::Warn, error),
    };
    vec![
        one("/dev/vhost-net", &f.vhost_net, "vhost_net"),
        one("/dev/vhost-vsock", &f.vhost_vsock, "vhost_vsock"),
        one("/dev/net/tun", &f.tun, "tun"),
    ]
}

fn memory(f: &Findings) -> Vec<Item> {
    let mut items = Vec::new();
    items.extend(f.memory_available_mib.map(|mib| {
        let made = item("memory", "available", Status::Ok, format!("{mib} MiB"));
        match mib {
            0..1024 => Item {
                status: Status::Warn,
                ..made
            }
            .advise("guests of 512 MiB fit, little more; the lab needs about 4 GiB"),
            _ => made,
        }
    }));
    items.extend(f.thp.as_ref().map(|mode| {
        let made = item("memory", "transparent huge pages", Status::Ok, mode.clone());
        match mode.as_str() {
            "never" => Item {
                status: Status::Warn,
                ..made
            }
            .advise(
                "guest memory then takes an exit per 4 KiB page: \
                 `echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`",
            ),
            _ => made,
        }
    }));
    items.extend(f.huge_pages.map(|(all, free)| {
        item(
            "memory",
            "hugetlb pool",
            Status::Ok,
            format!("{free} of {all} pages of 2 MiB free"),
        )
    }));
    items
}

fn clock(f: &Findings) -> Option<Item> {
    let clocksource = f.clocksource.as_ref()?;
    let made = item(
        "clock",
        "host's clocksource",
        Status::Ok,
        clocksource.clone(),
    );
    Some(match clocksource.as_str() {
        "tsc" => made,
        _ => Item {
            status: Status::Warn,
            ..made
        }
        .advise(
            "kvm rewrites guests' TSC offsets where the host does not trust its TSC: cooperative \
             timers refuse, kvmclock is slow; boot with tsc=reliable if you know better",
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::account::backend::{Backend, Inputs};

    fn set(texts: &[&str]) -> BTreeSet<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    fn healthy() -> Findings {
        let inputs = Inputs {
            cpu_flags: set(&["svm", "npt"]),
            hypervisor_signature: None,
            modules: set(&["kvm_amd"]),
            counts_instructions: false,
        };
        Findings {
            cpu_model: "EPYC".into(),
            cpu_flags: inputs.cpu_flags.clone(),
            nr_cpus: 4,
            kernel: "6.12".into(),
            backend: Backend::of(&inputs),
            kvm: Ok("opens".into()),
            kvm_api: Some(12),
            capabilities: Some(CAPABILITIES.iter().map(|c| (c.number, 1)).collect()),
            kvm_parameters: BTreeMap::from([("kvm_amd.npt".into(), "Y".into())]),
            tracing: Ok("readable".into()),
            tick_attribution: Ok("tick_nohz_handler".into()),
            vhost_net: Ok("opens".into()),
            vhost_vsock: Ok("opens".into()),
            tun: Ok("opens".into()),
            thp: Some("madvise".into()),
            huge_pages: Some((0, 0)),
            memory_available_mib: Some(8192),
            clocksource: Some("tsc".into()),
        }
    }

    fn find<'a>(report: &'a Report, name: &str) -> &'a Item {
        report.items.iter().find(|item| item.name == name).unwrap()
    }

    #[test]
    fn a_healthy_machine_has_only_ok() {
        let report = judge(&healthy());
        assert!(report.can_run);
        let bad: Vec<_> = report
            .items
            .iter()
            .filter(|i| i.status != Status::Ok)
            .collect();
        assert!(bad.is_empty(), "{bad:?}");
    }

    #[test]
    fn pvm_fails_and_sends_to_the_lab() {
        let mut findings = healthy();
        findings.backend = Backend::of(&Inputs {
            modules: set(&["kvm_pvm"]),
            ..Inputs::default()
        });
        let report = judge(&findings);
        assert!(!report.can_run);
        let advice = find(&report, "backend").advice.as_deref().unwrap();
        assert!(advice.contains("not hardware-assisted") && advice.contains("meaningless"));
        assert!(advice.contains("scripts/lab"));
    }

    #[test]
    fn a_closed_kvm_device_names_the_group() {
        let mut findings = healthy();
        findings.kvm = Err(Denied::NoPermission);
        findings.capabilities = None;
        let report = judge(&findings);
        assert!(!report.can_run);
        assert!(find(&report, "/dev/kvm")
            .advice
            .as_deref()
            .unwrap()
            .contains("group kvm"));
    }

    #[test]
    fn a_missing_capability_fails_only_if_needed() {
        let mut findings = healthy();
        let values = findings.capabilities.as_mut().unwrap();
        values.insert(kvm_bindings::KVM_CAP_PRE_FAULT_MEMORY, 0);
        let report = judge(&findings);
        assert!(report.can_run);
        assert_eq!(find(&report, "pre-faulting").status, Status::Warn);
        let values = findings.capabilities.as_mut().unwrap();
        values.remove(&kvm_bindings::KVM_CAP_IRQFD);
        assert!(!judge(&findings).can_run);
    }

    #[test]
    fn emulation_and_nesting_are_warned_of() {
        for (signature, part) in [("TCGTCGTCGTCG", "emulator"), ("KVMKVMKVM", "bare metal")] {
            let mut findings = healthy();
            findings.backend = Backend::of(&Inputs {
                cpu_flags: set(&["svm", "hypervisor"]),
                hypervisor_signature: Some(signature.into()),
                modules: set(&["kvm_amd"]),
                counts_instructions: false,
            });
            let report = judge(&findings);
            assert!(report.can_run);
            let backend = find(&report, "backend");
            assert_eq!(backend.status, Status::Warn);
            assert!(backend.advice.as_deref().unwrap().contains(part));
        }
    }

    #[test]
    fn soft_problems_never_stop_a_run() {
        let mut findings = healthy();
        findings.tracing = Err("tracefs is not mounted".into());
        findings.vhost_net = Err(Denied::Absent);
        findings.tun = Err(Denied::NoPermission);
        findings.thp = Some("never".into());
        findings.memory_available_mib = Some(100);
        findings.clocksource = Some("kvm-clock".into());
        findings
            .kvm_parameters
            .insert("kvm_amd.npt".into(), "N".into());
        let report = judge(&findings);
        assert!(report.can_run);
        let warned = report
            .items
            .iter()
            .filter(|item| item.status == Status::Warn);
        assert!(warned.clone().all(|item| item.advice.is_some()));
        assert_eq!(warned.count(), 7);
    }
}
