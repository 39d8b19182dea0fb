//! Turns what came back from a VM into a run of the report: samples, or a named failure.
//!
//! Pure; called by [`super::session`].

use std::collections::BTreeMap;

use coopvirt_spec::work::Work;
use serde::Deserialize;

use super::arm::Vmm;
use super::detail::{self, Figures};
use super::launch::{End, Finished};
use super::model::{Failure, Identity, Run, Sample, Skipped};
use super::plan::Cell;
use super::records::{self, Latency, Records};
use super::setting::Backing;
use super::symbols;
use crate::account::identity::untraced;
use crate::account::model::{Counts, Phase};
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
    problems.extend(untraced(&vm.trace.untraced_cpus));
    let own = own_counts(&vm);
    let phases = phases_by_work(&vm.trace.phases);
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
    if vm.trace.is_untraced {
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
pub(super) mod tests;
