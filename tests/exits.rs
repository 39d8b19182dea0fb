//! Exit accounting: exact against known counts, and in agreement with itself on a real guest.

use std::process::Command;

use coopvirt::account::identity::Verdict;
use coopvirt::account::model::{Counts, Phase};
use coopvirt::account::report::ExitReport;
use coopvirt_spec::work::Work;
use coopvirt_tests::files::Folder;
use coopvirt_tests::{Guest, Lab};
use serde_json::Value;

/// Kinds of exit that `validate` causes.
const KINDS: usize = 13;
/// Those of which the tracepoints tell the cause: all but the MSRs that go to userspace.
const ATTRIBUTED: usize = 11;
/// So many of each work's exits have a cause that says more than the reason, at least.
const MIN_EXPLAINED_PERCENT: f64 = 95.0;

#[test]
fn every_counter_is_exact_for_known_exits() {
    let mut command = Command::new(Lab::find().program);
    let output = command
        .args(["validate", "-n", "1000", "--timeout", "60", "--json"])
        .output();
    let output = output.expect("coopvirt can be started");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let validation: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let kinds = validation["kinds"].as_array().expect("a list");
    assert_eq!(kinds.len(), KINDS);
    let mut nr_attributed = 0;
    for kind in kinds {
        assert_eq!(kind["is_exact"], true, "{kind}");
        assert_eq!(kind["traced"], 1000, "{kind}");
        if !kind["cause"].is_null() {
            assert_eq!(kind["attributed"], 1000, "{kind}");
            nr_attributed += 1;
        }
    }
    assert_eq!(nr_attributed, ATTRIBUTED);
    assert_eq!(validation["empty_phase"], 0);
    assert_eq!(validation["report"]["identity"]["verdict"], "agree");
}

/// Runs a guest and reads its report.
fn report(guest: Guest) -> ExitReport {
    let folder = Folder::new();
    let path = folder.path("exits.json");
    let outcome = guest.arguments(["--exits".into(), path.clone()]).run();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    outcome.done();
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let identities = lines
        .iter()
        .filter(|line| line.starts_with("coopvirt: identity: "));
    assert_eq!(identities.count(), 4, "{}", outcome.stderr);
    let text = std::fs::read(path).expect("a report");
    serde_json::from_slice(&text).expect("the report reads back")
}

fn assert_consistent(counts: &Counts) {
    assert_eq!(
        counts.by_reason.values().sum::<u64>(),
        counts.total,
        "{counts:?}"
    );
    assert!(counts.net() <= counts.total, "{counts:?}");
    assert!(
        counts.by_cause.values().sum::<u64>() <= counts.total,
        "{counts:?}"
    );
}

#[test]
fn a_guest_is_accounted_for_from_boot_to_end() {
    let report = report(Guest::new().cpus(2).works("sleep,touch"));
    assert_eq!(
        report.identity.verdict,
        Verdict::Agree,
        "{:?}",
        report.identity
    );
    assert!(report.backend.hardware_assisted, "{:?}", report.backend);
    assert!(report.backend.name.contains("AMD-V") || report.backend.name.contains("VT-x"));
    assert_eq!(
        (report.mode.as_str(), report.vcpus, report.lost),
        ("kvm", 2, 0)
    );
    let phases: Vec<Option<Work>> = report
        .phases
        .iter()
        .map(|phase| Work::from_code(phase.work))
        .collect();
    assert_eq!(
        phases,
        [Some(Work::Boot), Some(Work::Sleep), Some(Work::Touch)]
    );
    let whole = report.whole.as_ref().expect("traced");
    assert_consistent(whole);
    for phase in &report.phases {
        assert_consistent(&phase.counts);
        let explained = phase.counts.explained_percent();
        assert!(
            explained.is_some_and(|percent| percent >= MIN_EXPLAINED_PERCENT),
            "{explained:?} % of these have a cause: {phase:?}"
        );
        assert!(phase.counts.total > 0 && phase.elapsed_ns > 0, "{phase:?}");
    }
    let in_phases: u64 = report.phases.iter().map(|phase| phase.counts.total).sum();
    assert!(in_phases <= whole.total, "{in_phases} > {}", whole.total);
    let sleep = &report.phases[1];
    assert!(
        sleep.elapsed_ns >= 200_000_000,
        "200 sleeps of 1 ms: {sleep:?}"
    );
    // Each sleep arms a timer and halts.
    for reason in ["MSR", "HLT"] {
        let count = sleep.counts.by_reason.get(reason).copied().unwrap_or(0);
        assert!(count >= 150, "{reason}: {sleep:?}");
    }
    assert_eq!(report.vcpu_stats.len(), 2);
    assert!(!report.userspace_exits.is_empty());
}

/// A thread that computes neither leaves its CPU nor, where that has no tick, is looked at by the kernel.
#[test]
fn a_vcpu_that_never_leaves_its_cpu_is_seen_to_take_all_of_it() {
    let guest = Guest::new().cpus(2).works("busy");
    let report = report(guest.arguments(["--pin", "1-2,0"]));
    let is_busy = |phase: &&Phase| Work::from_code(phase.work) == Some(Work::Busy);
    let busy = report.phases.iter().find(is_busy).expect("the work");
    let vcpus = busy.cpu_by_thread_ns["vcpus"];
    for cpu_ns in [vcpus, busy.cpu_ns] {
        let percent = cpu_ns * 100 / busy.elapsed_ns;
        assert!((95..=110).contains(&percent), "{percent} %: {busy:?}");
    }
}

#[test]
fn statistics_only() {
    let guest = Guest::new().cpus(2);
    let report = report(guest.arguments(["--accounting", "stats"]));
    assert!(
        report.not_traced.is_some() && report.whole.is_none(),
        "{report:?}"
    );
    assert!(report.phases.is_empty());
    assert_eq!(report.vcpu_stats.len(), 2);
    for stats in &report.vcpu_stats {
        assert!(
            stats.values.get("exits").is_some_and(|&exits| exits > 0),
            "{stats:?}"
        );
    }
}

/// The kernel takes a CPU's events away with the CPU: the report says so, and which counts are too low.
#[test]
fn a_host_cpu_that_goes_meanwhile_is_named() {
    if std::env::var_os("COOPVIRT_LAB").is_none() {
        eprintln!("left out: it takes a CPU of the host away, which is done in the lab only");
        return;
    }
    let folder = Folder::new();
    let path = folder.path("exits.json");
    let guest = Guest::new().works("sleep").cmdline("coopvirt.reps=3");
    let mut running = guest.arguments(["--exits".into(), path.clone()]).start();
    running.wait_for("\"type\":\"platform\"");
    for is_online in ["0", "1"] {
        std::fs::write("/sys/devices/system/cpu/cpu2/online", is_online).expect("root of the lab");
    }
    let outcome = running.finish();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    let line = "coopvirt: identity: host CPU 2 went offline or came while exits were traced";
    assert!(outcome.stderr.contains(line), "{}", outcome.stderr);
    let text = std::fs::read(path).expect("a report");
    let report: ExitReport = serde_json::from_slice(&text).expect("the report reads back");
    assert_eq!(report.identity.verdict, Verdict::Disagree);
    assert!(report.identity.too_low.is_some());
}
