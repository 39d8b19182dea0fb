//! What a finished VM becomes: samples, and failures with their reasons.

use super::*;
use crate::account::model::Trace;
use crate::compare::args::Console;
use crate::compare::arm::by_name;
use crate::compare::setting::Setting;

fn cell(works: &[Work]) -> Cell {
    let arm = by_name("kvm").unwrap();
    Cell {
        repetition: 0,
        arm,
        setting: Setting::quiet(Console::Virtio),
        works: works.to_vec(),
    }
}

const OWN: &[u8] = br#"{"vcpu_stats":[{"exits":1500},{"exits":500}],
    "userspace_exits":{"io out":150,"mmio":50},"more":1}"#;

/// A guest that did boot and pipe as it should.
pub(in super::super) fn finished() -> Finished {
    let counts = |total, host_tick| Counts {
        total,
        host_tick,
        userspace: total / 10,
        by_reason: [
            ("MSR".to_string(), total - host_tick),
            ("INTR".into(), host_tick),
        ]
        .into(),
        ..Counts::default()
    };
    let phase = |work: Work, total| Phase {
        work: work.code(),
        elapsed_ns: 1_000_000,
        cpu_ns: 500_000,
        counts: counts(total, total / 10),
        ..Phase::default()
    };
    let console = concat!(
        r#"@coopvirt {"type":"platform","kernel":"6.12","clocksource":"kvm-clock","#,
        r#""apic":"physical x2apic","idle":"none/menu","cpus":2}"#,
        "\n",
        r#"@coopvirt {"type":"work","work":"pipe","ops":100,"ok":true,"#,
        r#""latency_ns":{"n":100,"min":1,"median":2000,"p99":9000,"max":4}}"#,
        "\n",
        r#"@coopvirt {"type":"done","works":1}"#,
        "\n"
    );
    Finished {
        console: console.into(),
        messages: Vec::new(),
        exits: Some(OWN.to_vec()),
        trace: Trace {
            phases: vec![phase(Work::Boot, 1000), phase(Work::Pipe, 400)],
            whole: counts(2000, 100),
            ..Trace::default()
        },
        threads: Vec::new(),
        end: End::Success,
        seconds: 20.0,
        noise: None,
        degraded: None,
    }
}

fn run(works: &[Work], vm: Finished) -> Run {
    evaluate(&cell(works), 2, 1, vec!["vmm".into()], vm)
}

#[test]
fn a_run_that_was_not_traced_has_no_counters_to_agree() {
    let mut vm = finished();
    vm.trace.is_untraced = true;
    vm.degraded = Some("not allowed".into());
    let run = run(&[Work::Pipe], vm);
    assert_eq!(run.failure, None);
    assert_eq!(
        (run.identity, run.degraded.as_deref()),
        (None, Some("not allowed"))
    );
}

#[test]
fn a_good_run_has_a_sample_per_work_and_an_identity() {
    let run = run(&[Work::Boot, Work::Pipe], finished());
    assert_eq!(run.failure, None);
    assert_eq!(run.samples.len(), 2);
    assert_eq!((run.samples[0].ops, run.samples[1].ops), (1, 100));
    assert_eq!(run.samples[1].latency_ns.as_ref().unwrap().median, 2000);
    let identity = run.identity.unwrap();
    assert_eq!(
        (identity.stats_exits, identity.own_userspace),
        (Some(2000), Some(200))
    );
    assert_eq!(identity.failure(), None);
}

#[test]
fn rec_3_a_missing_or_failed_work_fails_the_run_but_keeps_the_other_samples() {
    let run1 = run(&[Work::Boot, Work::Pipe, Work::Fork], finished());
    assert_eq!(run1.samples.len(), 2);
    assert!(run1.failure.unwrap().reason.contains("fork: no record"));
    let mut vm = finished();
    let text = String::from_utf8(vm.console).unwrap();
    vm.console = text
        .replace("\"ok\":true", "\"ok\":false,\"error\":\"bad byte\"")
        .into();
    let run2 = run(&[Work::Boot, Work::Pipe], vm);
    let failure = run2.failure.unwrap();
    assert_eq!(failure.reason, "pipe: bad byte");
    assert!(!failure.is_final);
    assert!(failure.tail[0].starts_with("console: @coopvirt"));
}

#[test]
fn marks_that_were_not_seen_are_a_failure() {
    let mut vm = finished();
    vm.trace.phases.pop();
    let run = run(&[Work::Boot, Work::Pipe], vm);
    assert_eq!(run.failure.unwrap().reason, "pipe: its marks were not seen");
}

#[test]
fn a_module_that_makes_trouble_or_does_not_go_away_fails_the_run() {
    let mut vm = finished();
    let module = concat!(
        r#"@coopvirt {"type":"module","state":"stuck: 11","trouble":["BUG: x"]}"#,
        "\n"
    );
    vm.console.extend_from_slice(module.as_bytes());
    let failure = run(&[Work::Boot, Work::Pipe], vm).failure.unwrap();
    assert_eq!(
        failure.reason,
        "the guest's kernel complained: BUG: x; the guest's module is stuck: 11"
    );
    assert!(!failure.is_final);
}

#[test]
fn what_a_guest_did_beside_the_works_must_be_well() {
    let mut vm = finished();
    let text = String::from_utf8(vm.console.clone()).unwrap();
    let cycles = r#"@coopvirt {"type":"work","work":"cycles","ops":9,"ok":false,"error":"x"}"#;
    let text = text.replace("\"works\":1", "\"works\":2");
    vm.console = format!("{cycles}\n{text}").into();
    let run1 = run(&[Work::Boot, Work::Pipe], vm.clone());
    assert_eq!(run1.failure.unwrap().reason, "cycles: x");
    assert_eq!(run1.samples.len(), 2);
    let text = String::from_utf8(vm.console).unwrap();
    vm.console = text.replace("false", "true").into();
    assert_eq!(run(&[Work::Boot, Work::Pipe], vm).failure, None);
}

#[test]
fn a_clock_is_held_against_the_times_of_its_marks() {
    let mut vm = finished();
    let text = String::from_utf8(vm.console.clone()).unwrap();
    let clock = concat!(
        r#"@coopvirt {"type":"work","work":"clock","ops":1,"ok":true,"#,
        r#""detail":{"steps_back":0,"marks":[[0,2000,5],[1000000,1002000,6]]}}"#
    );
    let text = text.replace("\"works\":1", "\"works\":2");
    vm.console = format!("{clock}\n{text}").into();
    let without_marks = run(&[Work::Pipe, Work::Clock], vm.clone());
    let reason = without_marks.failure.unwrap().reason;
    assert_eq!(reason, "clock: its marks were not seen");
    for elapsed_ns in [5_000_000, 6_007_000] {
        vm.trace.phases.push(Phase {
            work: Work::Clock.code(),
            elapsed_ns,
            ..Phase::default()
        });
    }
    let run = run(&[Work::Pipe, Work::Clock], vm);
    assert_eq!(run.failure, None);
    let clock = &run.samples[1];
    assert_eq!(clock.elapsed_ns, 1_007_000);
    assert_eq!(clock.detail["drift_worst_us"], 7.0);
    assert_eq!(clock.detail["steps_back"], 0.0);
}

#[test]
fn a_refill_counts_only_if_the_host_had_taken_the_memory_back() {
    let refill = |faults: u64| Sample {
        work: "refill".into(),
        ops: 1000,
        elapsed_ns: 1,
        guest_elapsed_ns: None,
        cpu_by_thread_ns: BTreeMap::new(),
        cpu_ns: 1,
        latency_ns: None,
        detail: Figures::new(),
        counts: Counts {
            by_reason: [("NPF".to_string(), faults)].into(),
            ..Counts::default()
        },
    };
    assert_eq!(returned(&refill(800), None), Ok(()));
    let error = returned(&refill(799), None).unwrap_err();
    assert!(error.ends_with("799 faults of the second stage, 1000 pages touched"));
    let coop = |pages: u64| CoopCounts {
        events: [("released_bytes".to_string(), pages * 4096)].into(),
        ..CoopCounts::default()
    };
    assert_eq!(returned(&refill(0), Some(&coop(800))), Ok(()));
    assert!(returned(&refill(1000), Some(&coop(10))).is_err());
    let other = Sample {
        work: "pipe".into(),
        ..refill(0)
    };
    assert_eq!(returned(&other, None), Ok(()));
}

#[test]
fn a_wrong_platform_is_final_and_gives_no_sample() {
    let mut vm = finished();
    let text = String::from_utf8(vm.console).unwrap();
    vm.console = text.replace("none/menu", "haltpoll/haltpoll").into();
    let run = run(&[Work::Pipe], vm);
    assert!(run.failure.unwrap().is_final);
    assert!(run.samples.is_empty());
}

#[test]
fn a_vcpu_that_did_not_come_up_gives_no_sample_but_another_try() {
    let mut vm = finished();
    let text = String::from_utf8(vm.console).unwrap();
    let other = text.replace("\"cpus\":2", "\"cpus\":1");
    assert_ne!(text, other);
    vm.console = other.into();
    let run = run(&[Work::Pipe], vm);
    assert!(!run.failure.unwrap().is_final);
    assert!(run.samples.is_empty());
}

#[test]
fn a_vmm_without_an_exit_report_is_named() {
    for exits in [None, Some(b"{".to_vec())] {
        let run = run(
            &[Work::Pipe],
            Finished {
                exits,
                ..finished()
            },
        );
        assert!(run.identity.unwrap().failure().is_some());
    }
    let peer = Cell {
        arm: by_name("qemu-pci").unwrap(),
        ..cell(&[Work::Pipe])
    };
    assert_eq!(evaluate(&peer, 2, 1, Vec::new(), finished()).identity, None);
}

#[test]
fn timeouts_and_statuses_are_named() {
    let vm = Finished {
        end: End::Timeout("too slow".into()),
        ..finished()
    };
    assert_eq!(run(&[Work::Pipe], vm).failure.unwrap().reason, "too slow");
    let vm = Finished {
        end: End::Status("exit status: 1".into()),
        console: Vec::new(),
        messages: b"error: no kernel\n".to_vec(),
        ..finished()
    };
    let failure = run(&[Work::Pipe], vm).failure.unwrap();
    assert!(failure
        .reason
        .starts_with("the VMM ended with exit status: 1; "));
    assert_eq!(failure.tail, ["vmm: error: no kernel"]);
}
