//! The metrics as text for Prometheus (exposition format 0.0.4).
//!
//! One machine's for its own socket; several machines', told apart by a label `pid`, for
//! `coopvirt top --prometheus`.

mod coop;
mod devices;
mod page;

use std::collections::BTreeMap;

use self::page::{seconds, Page};
use super::metrics::{ExitSource, Metrics};
use crate::machine::RunState;

/// The format's content type.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// A machine, and the text of its label `pid`: none, where there is one machine only.
type Labelled<'a> = (String, &'a Metrics);

/// The page of one machine.
pub(super) fn text(metrics: &Metrics) -> String {
    page(&[(String::new(), metrics)])
}

/// The page of several machines, by their processes.
pub fn text_of_all<'a>(machines: impl IntoIterator<Item = (u32, &'a Metrics)>) -> String {
    let label = |(pid, metrics): (u32, &'a Metrics)| (pid.to_string(), metrics);
    page(&machines.into_iter().map(label).collect::<Vec<_>>())
}

fn page(machines: &[Labelled<'_>]) -> String {
    let mut page = Page::default();
    page.head("running", "gauge", "1 while guest code may run.");
    for (pid, metrics) in machines {
        let running = u64::from(metrics.state == RunState::Running);
        page.line(&[("pid", pid)], running);
    }
    vcpus(&mut page, machines);
    causes(&mut page, machines);
    threads(&mut page, machines);
    devices::families(&mut page, machines);
    coop::families(&mut page, machines);
    page.text
}

fn vcpus(page: &mut Page, machines: &[Labelled<'_>]) {
    let source = |source| match source {
        ExitSource::KvmStats => "kvm-stats",
        ExitSource::Vmm => "vmm",
    };
    let help = "Exits of a vCPU; source kvm-stats: all of them, vmm: those to userspace.";
    page.head("vcpu_exits_total", "counter", help);
    for (pid, metrics) in machines {
        for vcpu in &metrics.vcpus {
            let id = vcpu.vcpu.to_string();
            let labels = [
                ("pid", &**pid),
                ("vcpu", &id),
                ("source", source(vcpu.source)),
            ];
            page.line(&labels, vcpu.exits);
        }
    }
    let help = "The same by the reasons that the source tells apart; they may not add up.";
    page.head("vcpu_exits_by_reason_total", "counter", help);
    for (pid, metrics) in machines {
        for vcpu in &metrics.vcpus {
            let (id, source) = (vcpu.vcpu.to_string(), source(vcpu.source));
            for (reason, count) in &vcpu.exits_by_reason {
                let labels = [
                    ("pid", &**pid),
                    ("vcpu", &id),
                    ("reason", reason),
                    ("source", source),
                ];
                page.line(&labels, count);
            }
        }
    }
    let help = "Returns of KVM_RUN to userspace, counted by the VMM.";
    page.head("vcpu_returns_total", "counter", help);
    for (pid, metrics) in machines {
        for vcpu in &metrics.vcpus {
            let id = vcpu.vcpu.to_string();
            for (kind, count) in &vcpu.returns_by_kind {
                page.line(&[("pid", pid), ("vcpu", &id), ("kind", kind)], count);
            }
        }
    }
}

fn causes(page: &mut Page, machines: &[Labelled<'_>]) {
    let help = "Exits by cause; source tracepoints: of all exits, vmm: of those to userspace.";
    page.head("exits_by_cause_total", "counter", help);
    for (pid, metrics) in machines {
        let source = metrics.causes.source.name();
        for (cause, count) in &metrics.causes.by_cause {
            page.line(&[("pid", pid), ("cause", cause), ("source", source)], count);
        }
    }
    let help = "Exits by hardware reason, where tracepoints are read.";
    page.head("exits_by_hardware_reason_total", "counter", help);
    for (pid, metrics) in machines {
        for (reason, count) in &metrics.causes.by_reason {
            page.line(&[("pid", pid), ("reason", reason)], count);
        }
    }
}

fn threads(page: &mut Page, machines: &[Labelled<'_>]) {
    let help = "CPU time of the VMM's threads that run now, those of one name together.";
    page.head("thread_cpu_seconds_total", "counter", help);
    for (pid, metrics) in machines {
        for (thread, nanos) in &metrics.thread_cpu_ns {
            page.line(&[("pid", pid), ("thread", thread)], seconds(*nanos));
        }
    }
}

/// One line per entry of a map.
fn map(page: &mut Page, pid: &str, label: &str, map: &BTreeMap<String, u64>) {
    for (name, count) in map {
        page.line(&[("pid", pid), (label, name)], count);
    }
}
