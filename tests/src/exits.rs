//! The exits of a bare-metal guest, between its own marks, from the exit report.

use coopvirt::account::model::{Counts, Phase};
use coopvirt::account::report::ExitReport;

use crate::micro::{MicroGuest, MicroRun};
use crate::reported::Reported;

/// Runs these tests, which have to pass; with the exit report.
#[track_caller]
pub fn run_with_report(guest: MicroGuest, tests: &str) -> (MicroRun, ExitReport) {
    let Reported { run, report } = Reported::run(guest, tests);
    (run, report)
}

/// The phase of this work.
#[track_caller]
pub fn phase(report: &ExitReport, work: u8) -> &Phase {
    let found = report.phases.iter().find(|phase| phase.work == work);
    found.unwrap_or_else(|| panic!("no phase of work {work:#x}"))
}

/// Exits for this reason.
pub fn reason(counts: &Counts, name: &str) -> u64 {
    counts.by_reason.get(name).copied().unwrap_or(0)
}

/// Exits by causes that begin so.
pub fn causes(counts: &Counts, beginning: &str) -> u64 {
    let causes = counts.by_cause.iter();
    let matching = causes.filter(|(cause, _)| cause.starts_with(beginning));
    matching.map(|(_, count)| count).sum()
}

/// Exits that the guest's own instructions made: all but the host's interrupts, which come whatever
/// the guest does.
pub fn own_exits(counts: &Counts) -> u64 {
    counts.total - reason(counts, "INTR")
}
