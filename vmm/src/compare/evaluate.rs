//! Turns what came back from a VM into a run of the report: samples, or a named failure.
//!
//! Pure; called by [`super::session`].

use std::collections::BTreeMap;

use coopvirt_spec::work::Work;
use serde::Deserialize;

use super::arm::Vmm;
use super::degraded;
use super::detail::{self, Figures};
use super::launch::{End, Finished};
use super::model::{Failure, Identity, Run, Sample, Skipped};
use super::plan::Cell;
use super::records::{self, Latency, Records};
use super::setting::Backing;
use super::symbols;
use crate::account::model::{Counts, Phase};
use crate::account::report::MarkCounters;
use crate::account::stats_fd::Snapshot;
use crate::coop::counters::CoopCounts;

/// Lines of console and of messages that a failure keeps.
const TAIL_LINES: usize = 12;

/// The exit reason of a fault in the second stage, by vendor.
const SECOND_STAGE_FAULTS: [&str; 2] = ["NPF", "EPT_VIOLATION"];
/// So much of what a refill touches the host must have taken back before. Linux reports blocks of
/// 2 MiB and more; what is free in smaller pieces is used first (12 % in a guest of 512 MiB).
const MIN_RETURNED_PERCENT: u64 = 80;
const PAGE_BYTES: u64 = 4096;

/// What is needed of the exit report that our VMM writes; unknown members are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OwnCounts {
    /// KVM's binary statistics, one per vCPU.
    vcpu_stats: Vec<Snapshot>,
    /// The VMM's own count of `KVM_RUN` returns, by kind.
    userspace_exits: BTreeMap<String, u64>,
    /// What the host half of the cooperative interface has done.
    coop: Option<CoopCounts>,
    /// The same statistics at each of the guest's marks.
    marks: Vec<MarkCounters>,
}

impl OwnCounts {
    fn exits(&self) -> Option<u64> {
        match self.vcpu_stats.is_empty() {
            true => None,
            false => self.vcpu_stats.iter().map(Snapshot::exits).sum(),
        }
    }

    fn returns(&self) -> Option<u64> {
        (!self.userspace_exits.is_empty()).then(|| self.userspace_exits.values().sum())
    }
}

/// Judges one finished VM.
pub fn evaluate(cell: &Cell, cpus: u32, attempt: u32, command: Vec<String>, vm: Finished) -> Run {
    let records = records::parse(&vm.console);
    let mut problems: Vec<String> = Vec::new();
    match &vm.end {
        End::Success => {}
        End::Status(status) => problems.push(format!("the VMM ended with {status}")),
        End::Timeout(reason) => problems.push(reason.clone()),
        End::Interrupted => problems.push("interrupted".into()),
    }
    problems.extend(records.failure());
    let wrong_platform = records
        .platform
        .as_ref()
        .and_then(|platform| cell.arm.check(platform, cpus).err());
    let is_other_arm = wrong_platform.is_some();
    // A vCPU that did not come up may do so next time; a wrong clocksource or APIC stays.
    let is_final = is_other_arm
        && records
            .platform
            .as_ref()
            .is_some_and(|p| p.cpus == u64::from(cpus));
    problems.extend(wrong_platform);
    for module in &records.modules {
        if let Some(line) = module.trouble.first() {
            problems.push(format!("the guest's kernel complained: {line}"));
        }
        if module.state.starts_with("stuck") {
            problems.push(format!("the guest's module is {}", module.state));
        }
    }

    // What an arm has its guest do beside the works of the cell is no sample, but it must be well.
    for (work, record) in &records.works {
        if !cell.works.contains(work) && !record.ok {
            let error = record.error.as_deref().unwrap_or("its own check failed");
            problems.push(format!("{}: {error}", work.name()));
        }
    }
    for (work, reason) in &records.skipped {
        if !cell.works.contains(work) {
            problems.push(format!("{}: {reason}", work.name()));
        }
    }
    let own = own_counts(&vm);
    let phases = match (&vm.degraded, &own) {
        (Some(_), Ok(own)) => degraded::phases(&own.marks),
        _ => vm.trace.phases.clone(),
    };
    let phases = phases_by_work(&phases);
    let mut samples = Vec::new();
    for &work in &cell.works {
        let phase = phases.get(&work.code());
        let sample = sample(work, &records, phase).and_then(|sample| match (work, sample) {
            (Work::Clock, Some(sample)) => clock(sample, &records, &vm.trace.phases).map(Some),
            (_, sample) => Ok(sample),
        });
        match sample {
            Ok(sample) => samples.extend(sample),
            // A guest that ended early has said so; a list of what it did not reach adds nothing.
            Err(problem) if records.done.is_some() => problems.push(problem),
            Err(_) => {}
        }
    }
    if cell.setting.backing == Backing::Returned {
        let coop = own.as_ref().ok().and_then(|own| own.coop.as_ref());
        samples.retain(|sample: &Sample| match returned(sample, coop) {
            Ok(()) => true,
            Err(problem) => {
                problems.push(problem);
                false
            }
        });
    }
    // Figures of a guest that is not what the arm says would be figures of another arm.
    if is_other_arm {
        samples.clear();
    }
    let failure = (!problems.is_empty()).then(|| Failure {
        reason: problems.join("; "),
        is_final,
        tail: tail(&vm),
    });
    let skipped = records.skipped.iter();
    let text = records.platform.as_ref();
    let text = text.and_then(|platform| platform.kernel_text.as_deref());
    let mut whole = vm.trace.whole.clone();
    for counts in samples.iter_mut().map(|sample| &mut sample.counts) {
        counts.by_place = symbols::relative(&counts.by_place, text);
    }
    whole.by_place = symbols::relative(&whole.by_place, text);
    Run {
        repetition: cell.repetition,
        arm: cell.arm.name.clone(),
        setting: cell.setting,
        attempt,
        seconds: vm.seconds,
        failure,
        command,
        platform: records.platform.clone(),
        samples,
        skipped: skipped
            .map(|(work, reason)| Skipped {
                work: work.name().into(),
                reason: reason.clone(),
            })
            .collect(),
        identity: identity(cell, &vm, &own),
        threads: vm.threads,
        coop: own.ok().and_then(|own| own.coop),
        modules: records.modules.clone(),
        lost: vm.trace.lost,
        whole,
        noise: vm.noise,
        degraded: vm.degraded,
    }
}

/// A run that could not even be started or counted.
pub fn not_launched(
    cell: &Cell,
    attempt: u32,
    command: Vec<String>,
    reason: String,
    is_final: bool,
) -> Run {
    Run {
        repetition: cell.repetition,
        arm: cell.arm.name.clone(),
        setting: cell.setting,
        attempt,
        seconds: 0.0,
        failure: Some(Failure {
            reason,
            is_final,
            tail: Vec::new(),
        }),
        command,
        platform: None,
        samples: Vec::new(),
        skipped: Vec::new(),
        whole: Counts::default(),
        lost: 0,
        identity: None,
        threads: Vec::new(),
        coop: None,
        modules: Vec::new(),
        noise: None,
        degraded: None,
    }
}

/// The sample of one work: `Ok(None)` if the guest skipped it, an error if something is missing.
fn sample(work: Work, records: &Records, phase: Option<&Phase>) -> Result<Option<Sample>, String> {
    let name = work.name();
    // Init does no work for the boot: that its mark was seen is the boot's own proof.
    if work == Work::Boot {
        return match phase {
            Some(phase) => Ok(Some(of_phase(name, 1, None, phase))),
            None => Err(unmarked(name)),
        };
    }
    if records.skipped.contains_key(&work) {
        return Ok(None);
    }
    let Some(record) = records.works.get(&work) else {
        return Err(format!("{name}: no record of it"));
    };
    if !record.ok {
        let error = record.error.as_deref().unwrap_or("its own check failed");
        return Err(format!("{name}: {error}"));
    }
    if record.ops == 0 {
        return Err(format!("{name}: no operation was done"));
    }
    let Some(phase) = phase else {
        return Err(unmarked(name));
    };
    let sample = of_phase(name, record.ops, record.latency_ns.clone(), phase);
    Ok(Some(Sample {
        guest_elapsed_ns: Some(record.elapsed_ns),
        detail: detail::numbers(record.detail.as_ref()),
        ..sample
    }))
}

/// The clock's marks are points, all of which count from the VM's start.
fn clock(sample: Sample, records: &Records, phases: &[Phase]) -> Result<Sample, String> {
    let points: Vec<&Phase> = phases
        .iter()
        .filter(|phase| phase.work == Work::Clock.code())
        .collect();
    let record = records.works.get(&Work::Clock);
    let drift = detail::drift(record.and_then(|record| record.detail.as_ref()), &points);
    let (Some(drift), Some(phase)) = (drift, detail::between(&points)) else {
        return Err("clock: the guest's marks are not those that the host has seen".into());
    };
    let mut detail = sample.detail;
    detail.extend(drift);
    Ok(Sample {
        detail,
        ..of_phase(&sample.work, sample.ops, None, &phase)
    })
}

/// A refill of memory that the host had kept is another work. Without our interface each page that
/// the host had taken back costs one fault of the second stage; with it the host counts what it took.
fn returned(sample: &Sample, coop: Option<&CoopCounts>) -> Result<(), String> {
    if sample.work != Work::Refill.name() {
        return Ok(());
    }
    let (done, what) = match coop {
        Some(coop) => {
            let bytes = coop.events.get("released_bytes").copied().unwrap_or(0);
            (bytes / PAGE_BYTES, "pages were released")
        }
        None => {
            let faults = SECOND_STAGE_FAULTS
                .iter()
                .filter_map(|name| sample.counts.by_reason.get(*name));
            (faults.sum(), "faults of the second stage")
        }
    };
    match done >= sample.ops / 100 * MIN_RETURNED_PERCENT {
        true => Ok(()),
        false => Err(format!(
            "refill: the host had not taken the memory back: {done} {what}, {} pages touched",
            sample.ops
        )),
    }
}

fn unmarked(work: &str) -> String {
    format!("{work}: its marks were not seen")
}

fn of_phase(work: &str, ops: u64, latency_ns: Option<Latency>, phase: &Phase) -> Sample {
    Sample {
        work: work.into(),
        ops,
        elapsed_ns: phase.elapsed_ns,
        guest_elapsed_ns: None,
        cpu_ns: phase.cpu_ns,
        cpu_by_thread_ns: phase.cpu_by_thread_ns.clone(),
        latency_ns,
        detail: Figures::new(),
        counts: phase.counts.clone(),
    }
}

/// The last phase of each work code: a guest does each work once.
fn phases_by_work(phases: &[Phase]) -> BTreeMap<u8, Phase> {
    phases
        .iter()
        .map(|phase| (phase.work, phase.clone()))
        .collect()
}

/// Only our VMM counts by itself.
fn identity(cell: &Cell, vm: &Finished, own: &Result<OwnCounts, String>) -> Option<Identity> {
    let Vmm::Ours(_) = cell.arm.vmm else {
        return None;
    };
    // One counter has nothing to agree with.
    if vm.degraded.is_some() || vm.trace.is_untraced {
        return None;
    }
    Some(Identity {
        traced_exits: vm.trace.whole.total,
        stats_exits: own.as_ref().ok().and_then(OwnCounts::exits),
        traced_userspace: vm.trace.whole.userspace,
        own_userspace: own.as_ref().ok().and_then(OwnCounts::returns),
        missing: own.as_ref().err().cloned(),
    })
}

/// The report of our VMM, or why there is none.
fn own_counts(vm: &Finished) -> Result<OwnCounts, String> {
    let bytes = vm.exits.as_deref().ok_or("the VMM wrote no exit report")?;
    serde_json::from_slice(bytes)
        .map_err(|error| format!("the VMM's exit report is no such: {error}"))
}

fn tail(vm: &Finished) -> Vec<String> {
    let console = records::tail(&vm.console, TAIL_LINES).into_iter();
    let messages = records::tail(&vm.messages, TAIL_LINES).into_iter();
    console
        .map(|line| format!("console: {line}"))
        .chain(messages.map(|line| format!("vmm: {line}")))
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
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
    fn without_a_trace_the_vmms_own_marks_give_the_figures() {
        let mut vm = finished();
        vm.trace = Trace::default();
        vm.degraded = Some("not allowed".into());
        let mark = |value: u32, exits: u64| {
            format!(r#"{{"mark":{value},"vcpu":0,"stats":{{"exits":{exits}}},"returns":{exits}}}"#)
        };
        let code = u32::from(Work::Pipe.code()) << 16;
        let marks = [mark(1 << 24 | code, 100), mark(2 << 24 | code, 501)].join(",");
        vm.exits = Some(format!(r#"{{"marks":[{marks}]}}"#).into());
        let run = run(&[Work::Pipe], vm);
        assert_eq!(run.failure, None);
        assert_eq!(run.samples[0].counts.total, 400);
        assert_eq!(run.samples[0].counts.net_if_known(), None);
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
}
