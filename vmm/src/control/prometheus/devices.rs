//! Families of virtio devices.

use super::page::{seconds, Page};
use super::Labelled;
use crate::control::metrics::DeviceMetrics;
use crate::virtio::{bound_us, BalloonState, VsockCounts, NR_BOUNDS};

type Row = (&'static str, fn(&DeviceMetrics) -> u64);
type Gauge<S> = (&'static str, &'static str, &'static str, fn(&S) -> u64);

const COUNTERS: [(&str, &str, &str, &[Row]); 6] = [
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
        "device_vcpu_notifies_total",
        "Of the notifies, those that returned to userspace: served by the vCPU, or left to the I/O thread; and changes of \
         who receives those of a queue.",
        "what",
        &[
            ("served", |device| device.counts.notifies_served_by_vcpu),
            ("left", |device| device.counts.notifies_left_by_vcpu),
            ("receiver-changes", |device| device.counts.receiver_changes),
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

const BALLOON: [Gauge<BalloonState>; 5] = [
    (
        "balloon_target_bytes",
        "gauge",
        "Memory that the guest shall give up.",
        |balloon| balloon.target_bytes,
    ),
    (
        "balloon_actual_bytes",
        "gauge",
        "Memory that it says it has given up.",
        |balloon| balloon.actual_bytes,
    ),
    (
        "balloon_inflated_bytes_total",
        "counter",
        "Memory that the host took back from the balloon.",
        |balloon| balloon.inflated_bytes,
    ),
    (
        "balloon_reported_bytes_total",
        "counter",
        "Memory that the host took back because the guest reported it as free.",
        |balloon| balloon.reported_bytes,
    ),
    (
        "balloon_refused_pages_total",
        "counter",
        "Pages that the guest put in which are no memory of its.",
        |balloon| balloon.refused_pages,
    ),
];

const VSOCK: [Gauge<VsockCounts>; 5] = [
    (
        "vsock_connections",
        "gauge",
        "Connections that the VMM serves now, half-open ones included.",
        |vsock| vsock.connections,
    ),
    (
        "vsock_opened_by_guest_total",
        "counter",
        "Connections that the guest has opened to the host.",
        |vsock| vsock.opened_by_guest,
    ),
    (
        "vsock_opened_by_host_total",
        "counter",
        "Connections that the host has opened to the guest.",
        |vsock| vsock.opened_by_host,
    ),
    (
        "vsock_refused_total",
        "counter",
        "Connections that were asked for and not made.",
        |vsock| vsock.refused,
    ),
    (
        "vsock_cut_total",
        "counter",
        "Connections that the VMM has reset before their end.",
        |vsock| vsock.cut,
    ),
];

pub(super) fn families(page: &mut Page, machines: &[Labelled<'_>]) {
    for (name, help, label, rows) in COUNTERS {
        page.head(name, "counter", help);
        for (pid, metrics) in machines {
            for device in &metrics.devices {
                let index = device.index.to_string();
                for (value, read) in rows {
                    let labels = [
                        ("pid", &**pid),
                        ("device", &device.device),
                        ("index", &index),
                        (label, value),
                    ];
                    page.line(&labels, read(device));
                }
            }
        }
    }
    let help =
        "Queues that the host's kernel or another process serves, which are not counted here.";
    page.head("device_queues_elsewhere", "gauge", help);
    for (pid, metrics) in machines {
        for device in &metrics.devices {
            let index = device.index.to_string();
            let labels = [
                ("pid", &**pid),
                ("device", &device.device),
                ("index", &index),
            ];
            page.line(&labels, device.counts.queues_elsewhere);
        }
    }
    latencies(page, machines);
    for (name, kind, help, read) in VSOCK {
        page.head(name, kind, help);
        for (pid, metrics) in machines {
            if let Some(vsock) = &metrics.vsock {
                page.line(&[("pid", pid)], read(vsock));
            }
        }
    }
    for (name, kind, help, read) in BALLOON {
        page.head(name, kind, help);
        for (pid, metrics) in machines {
            if let Some(balloon) = &metrics.balloon {
                page.line(&[("pid", pid)], read(balloon));
            }
        }
    }
}

fn latencies(page: &mut Page, machines: &[Labelled<'_>]) {
    let help =
        "From taking a request to giving it back, by devices that serve requests themselves.";
    page.head("device_latency_seconds", "histogram", help);
    for (pid, metrics) in machines {
        for device in &metrics.devices {
            let Some(latency) = &device.latency else {
                continue;
            };
            let index = device.index.to_string();
            let labels = [
                ("pid", &**pid),
                ("device", &*device.device),
                ("index", &*index),
            ];
            let mut so_far = 0;
            for bound_us in (0..NR_BOUNDS).map(bound_us) {
                so_far += latency.below_us.get(&bound_us).unwrap_or(&0);
                let bound = seconds(bound_us * 1000);
                let bound = bound.trim_end_matches('0').trim_end_matches('.');
                let labels = [&labels[..], &[("le", bound)]].concat();
                page.suffixed("_bucket", &labels, so_far);
            }
            let all = [&labels[..], &[("le", "+Inf")]].concat();
            page.suffixed("_bucket", &all, latency.count());
            page.suffixed("_sum", &labels, seconds(latency.sum_ns));
            page.suffixed("_count", &labels, latency.count());
        }
    }
}
