//! Figures of small reports whose values are known.

use super::*;
use crate::compare::args::{Console, Refill};
use crate::compare::model::{ArmNote, Failure, Host, Params, Program, Skipped, FORMAT};
use crate::compare::records::{Latency, Platform};

pub(in super::super) fn run(repetition: u32, arm: &str, exits: u64) -> Run {
    let by_reason = [
        ("MSR".to_string(), exits.saturating_sub(10)),
        ("INTR".into(), 10),
    ];
    let sample = |work: &str, ops, latency_ns| Sample {
        work: work.into(),
        ops,
        elapsed_ns: 7_000_000_000,
        guest_elapsed_ns: None,
        cpu_by_thread_ns: BTreeMap::new(),
        cpu_ns: 1_000_000,
        latency_ns,
        detail: Default::default(),
        counts: Counts {
            total: exits,
            host_tick: 5,
            userspace: 20,
            by_reason: by_reason.clone().into(),
            ..Counts::default()
        },
    };
    let latency = Latency {
        n: 10,
        min: 1,
        median: 2_000,
        p99: 9_000,
        max: 10,
        curve: vec![(10, 1_000), (500, 2_000), (990, 9_000)],
    };
    Run {
        repetition,
        arm: arm.into(),
        setting: Setting::quiet(Console::Virtio),
        attempt: 1,
        seconds: 20.0,
        failure: None,
        command: vec!["vmm".into()],
        platform: Some(Platform {
            clocksource: "tsc".into(),
            ..Platform::default()
        }),
        samples: vec![sample("boot", 1, None), sample("pipe", 10, Some(latency))],
        skipped: vec![Skipped {
            work: "read1".into(),
            reason: "no disk".into(),
        }],
        whole: Counts {
            total: 2 * exits,
            ..Counts::default()
        },
        lost: 0,
        identity: None,
        threads: Vec::new(),
        coop: None,
        modules: Vec::new(),
        noise: None,
        degraded: None,
    }
}

/// Two arms that worked, four times each, and one that did not.
pub(in super::super) fn report() -> Report {
    let mut runs = Vec::new();
    for repetition in 0..4 {
        runs.push(run(repetition, "qemu-pci", 105 + u64::from(repetition)));
        runs.push(run(repetition, "kvm", 55 + u64::from(repetition)));
    }
    let mut failed = run(0, "hvm", 100);
    failed.samples.clear();
    failed.skipped.clear();
    failed.failure = Some(Failure {
        reason: "the guest's clocksource is 'hpet', this arm needs 'tsc'".into(),
        is_final: true,
        tail: vec!["console: <b>clocksource</b>".into()],
    });
    runs.push(failed);
    let note = |name: &str| ArmNote {
        name: name.into(),
        description: "an arm".into(),
        is_stock: name != "coop",
        gap: None,
    };
    Report {
        format: FORMAT,
        program: Program {
            version: "0.1.0".into(),
            revision: None,
        },
        host: Host {
            backend: "AMD-V".into(),
            kernel: "6.12".into(),
            ..Host::default()
        },
        params: Params {
            kernel: "/k".into(),
            kernel_id: "1-2".into(),
            initrd: "/i".into(),
            initrd_id: "3-4".into(),
            works: ["boot", "pipe", "read1"].map(String::from).into(),
            reference: "qemu-pci".into(),
            repetitions: 4,
            cpus: 2,
            memory_bytes: 512 << 20,
            console: Console::Virtio,
            scale: 1.0,
            seed: 1,
            seconds: None,
            refill: Refill::Kept,
            detail: Default::default(),
            pinning: "not pinned".into(),
            own_arms: Vec::new(),
        },
        arms: ["qemu-pci", "kvm", "hvm"].map(note).into(),
        runs,
    }
}

#[test]
fn figures_are_per_operation_and_against_the_reference() {
    let groups = groups(&report());
    let titles: Vec<_> = groups.iter().map(|group| group.title.as_str()).collect();
    assert_eq!(titles, ["boot (virtio)", "pipe", "read1"]);
    let pipe = &groups[1];
    let reference = pipe.rows[0].figures.as_ref().unwrap();
    assert_eq!((reference.ratio, reference.p), (None, None));
    let kvm = pipe.rows[1].figures.as_ref().unwrap();
    assert_eq!(kvm.n, 4);
    assert_eq!(
        kvm.gross,
        Spread {
            median: 5.65,
            min: 5.5,
            max: 5.8
        }
    );
    assert_eq!(kvm.net.unwrap().median, 5.15);
    assert!((kvm.ratio.unwrap().value - 51.5 / 101.5).abs() < 1e-9);
    assert!(kvm.ratio.unwrap().interval.is_some());
    assert!((kvm.p.unwrap() - 2.0 / 70.0).abs() < 1e-9);
    assert_eq!(kvm.reasons[0].0, "MSR");
    assert!((kvm.reasons[0].1 - 4.65).abs() < 1e-9);
    assert_eq!(kvm.latency_median_ns, Some(2000.0));
    assert_eq!(kvm.latency_p99_ns, Some(9000.0));
    let boot = groups[0].rows[0].figures.as_ref().unwrap();
    assert_eq!(boot.latency_median_ns, Some(7e9));
}

#[test]
fn each_arm_is_held_against_the_best_stock_arm() {
    let mut report = report();
    report.arms.push(ArmNote {
        name: "coop".into(),
        description: "an arm".into(),
        is_stock: false,
        gap: None,
    });
    let groups_without = groups(&report);
    assert_eq!(groups_without[1].rows.len(), 3);
    for repetition in 0..4 {
        // Fewer exits than any stock arm do not make it one.
        report.runs.push(run(repetition, "coop", 25));
    }
    let groups = groups(&report);
    let pipe = &groups[1];
    assert_eq!(pipe.best_stock.as_deref(), Some("kvm"));
    let versus = |row: usize| pipe.rows[row].figures.as_ref().unwrap().versus.clone();
    assert_eq!(versus(1), None);
    let coop = versus(3).unwrap();
    assert_eq!(coop.arm, "kvm");
    assert!((coop.exits.unwrap().value - 20.0 / 51.5).abs() < 1e-9);
    assert_eq!(coop.latency.unwrap().value, 1.0);
    assert_eq!(coop.cpu.unwrap().value, 1.0);
    assert!(versus(0).unwrap().exits.unwrap().value > 1.9);
    assert_eq!(pipe.rows[3].figures.as_ref().unwrap().cpu_all_ns, Some(1e6));
}

#[test]
fn an_arm_that_could_not_be_run_is_a_row_with_the_reason() {
    let mut report = report();
    report.arms[2].gap = Some("no module".into());
    report.runs.retain(|run| run.arm != "hvm");
    let groups = groups(&report);
    assert_eq!(
        groups[1].rows[2].figures.as_ref().unwrap_err(),
        "gap: no module"
    );
}

#[test]
fn rows_without_samples_say_why() {
    let groups = groups(&report());
    let hvm = groups[1].rows[2].figures.as_ref().unwrap_err();
    assert!(
        hvm.starts_with("failed: the guest's clocksource is 'hpet'"),
        "{hvm}"
    );
    assert_eq!(
        groups[2].rows[0].figures.as_ref().unwrap_err(),
        "skipped: no disk"
    );
}

#[test]
fn a_second_attempt_replaces_the_first() {
    let mut report = report();
    let mut again = run(0, "kvm", 1_000_000);
    again.attempt = 2;
    report.runs.push(again);
    let groups = groups(&report);
    let kvm = groups[1].rows[1].figures.as_ref().unwrap();
    assert_eq!((kvm.n, kvm.gross.max), (4, 100_000.0));
}
