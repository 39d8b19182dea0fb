//! The metrics as text for Prometheus (exposition format 0.0.4).

use std::fmt::Write as _;

use super::metrics::{ExitSource, Metrics};
use crate::machine::RunState;

/// The format's content type.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

pub(super) fn text(metrics: &Metrics) -> String {
    let mut page = Page::default();
    page.head("running", "gauge", "1 while guest code may run.");
    let running = u64::from(metrics.state == RunState::Running);
    page.line(&[], running);

    let help = "Exits of a vCPU; source kvm-stats: all of them, vmm: those to userspace.";
    page.head("vcpu_exits_total", "counter", help);
    let source = |source| match source {
        ExitSource::KvmStats => "kvm-stats",
        ExitSource::Vmm => "vmm",
    };
    for vcpu in &metrics.vcpus {
        let (id, source) = (vcpu.vcpu.to_string(), source(vcpu.source));
        page.line(&[("vcpu", &id), ("source", source)], vcpu.exits);
    }
    let help = "The same by the reasons that the source tells apart; they may not add up.";
    page.head("vcpu_exits_by_reason_total", "counter", help);
    for vcpu in &metrics.vcpus {
        let (id, source) = (vcpu.vcpu.to_string(), source(vcpu.source));
        for (reason, count) in &vcpu.exits_by_reason {
            let labels = [("vcpu", &*id), ("reason", reason), ("source", source)];
            page.line(&labels, *count);
        }
    }
    let help = "Returns of KVM_RUN to userspace, counted by the VMM.";
    page.head("vcpu_returns_total", "counter", help);
    for vcpu in &metrics.vcpus {
        let id = vcpu.vcpu.to_string();
        for (kind, count) in &vcpu.returns_by_kind {
            page.line(&[("vcpu", &id), ("kind", kind)], *count);
        }
    }
    devices(&mut page, metrics);
    page.text
}

fn devices(page: &mut Page, metrics: &Metrics) {
    type Row = (&'static str, fn(&super::metrics::DeviceMetrics) -> u64);
    let families: [(&str, &str, &str, &[Row]); 5] = [
        (
            "device_requests_total",
            "Requests that a device has given back.",
            "",
            &[("", |device| device.counts.requests)],
        ),
        (
            "device_bytes_total",
            "Bytes of these requests, their headers and status bytes included.",
            "direction",
            &[
                ("from-guest", |device| device.counts.bytes_from_guest),
                ("to-guest", |device| device.counts.bytes_to_guest),
            ],
        ),
        (
            "device_notifies_total",
            "Notifies of the guest; suppressed: requests for which it had no need to.",
            "what",
            &[
                ("taken", |device| device.counts.notifies),
                ("suppressed", |device| device.counts.notifies_suppressed),
            ],
        ),
        (
            "device_interrupts_total",
            "Interrupts to the guest; suppressed: batches after which it wanted none.",
            "what",
            &[
                ("injected", |device| device.counts.interrupts),
                ("suppressed", |device| device.counts.interrupts_suppressed),
            ],
        ),
        (
            "device_polling_total",
            "The polling thread: finds of buffers without a notify, queues taken over and given back.",
            "what",
            &[
                ("found", |device| device.counts.polled_finds),
                ("taken-over", |device| device.counts.take_overs),
                ("given-back", |device| device.counts.hand_backs),
            ],
        ),
    ];
    for (name, help, label, rows) in families {
        page.head(name, "counter", help);
        for device in &metrics.devices {
            let index = device.index.to_string();
            for (value, read) in rows {
                let mut labels = vec![("device", &*device.device), ("index", &*index)];
                if !label.is_empty() {
                    labels.push((label, *value));
                }
                page.line(&labels, read(device));
            }
        }
    }
}

#[derive(Default)]
struct Page {
    text: String,
    name: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.name = format!("coopvirt_{name}");
        let name = &self.name;
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, labels: &[(&str, &str)], value: u64) {
        let escaped = |text: &str| {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            text.replace('\n', "\\n")
        };
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, text)| format!("{label}=\"{}\"", escaped(text)))
            .collect();
        let labels = match labels.len() {
            0 => String::new(),
            _ => format!("{{{}}}", labels.join(",")),
        };
        let _ = writeln!(self.text, "{}{labels} {value}", self.name);
    }
}
