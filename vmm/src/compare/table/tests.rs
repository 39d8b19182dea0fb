//! The text that a reader sees.

use super::*;
use crate::compare::model::Identity;
use crate::compare::pin::Thread;
use crate::compare::summary::tests::report;

#[test]
fn the_report_names_everything() {
    let mut report = report();
    report.host.is_emulated = true;
    report.runs[1].lost = 3;
    report.runs[1].samples[1].detail = [("worst_ns".to_string(), 1234.0)].into();
    report.runs[1].threads = [("vcpu0", "1"), ("io", "0"), ("signals", "0")]
        .map(|(name, cpus)| Thread {
            name: name.into(),
            cpus: cpus.into(),
        })
        .into();
    report.arms.push(ArmNote {
        name: "coop".into(),
        description: "a gap".into(),
        is_stock: false,
        gap: Some("no module".into()),
    });
    report.runs[1].identity = Some(Identity {
        traced_exits: 100,
        stats_exits: Some(200),
        traced_userspace: 1,
        own_userspace: None,
        missing: None,
    });
    let text = render(&report);
    for part in [
        "backend: AMD-V",
        "The host is emulated",
        "boot (virtio), per boot",
        "pipe, per round trip",
        "MSR 4.65 INTR 1.00",
        "0.507 [",
        "fewer (0.029)",
        "2.00 µs",
        "failed: the guest's clocksource is 'hpet'",
        "agree within 1 % in 0 of 1 runs",
        "tracer 100, kernel statistics 200",
        "3 events lost",
        "hvm (repetition 1, virtio): the guest's clocksource",
        "kvm: clocksource tsc",
        "hvm (virtio): 1 of 4 repetitions",
        "kvm: 0: io, signals; 1: vcpu0",
        "coop: no module",
        "kvm (repetition 1, virtio): pipe: worst_ns 1,234",
        "gap: no module",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn a_report_without_runs_is_a_header_only() {
    let mut report = report();
    report.runs.clear();
    let text = render(&report);
    assert!(text.contains("coopvirt compare 0.1.0"));
    assert!(!text.contains("per boot"));
    assert!(text.contains("kvm (virtio): 0 of 4 repetitions"), "{text}");
}
