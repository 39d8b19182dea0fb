//! The exits of a bare-metal guest, between its own marks, from the exit report.

use coopvirt::account::model::{Counts, Phase};
use coopvirt::account::report::ExitReport;

use crate::files::Folder;
use crate::guest::Running;
use crate::micro::{MicroGuest, MicroRun};
use crate::Outcome;

/// Runs these tests, which have to pass; with the exit report.
#[track_caller]
pub fn run_with_report(guest: MicroGuest, tests: &str) -> (MicroRun, ExitReport) {
    with_report(guest, |guest| guest.run_to_end(tests))
}

/// The same; `end` brings the running guest to its end.
#[track_caller]
pub fn end_with_report(
    guest: MicroGuest,
    tests: &str,
    end: impl FnOnce(Running) -> Outcome,
) -> (MicroRun, ExitReport) {
    with_report(guest, |guest| MicroRun::new(end(guest.start(tests))))
}

#[track_caller]
fn with_report(
    guest: MicroGuest,
    run: impl FnOnce(MicroGuest) -> MicroRun,
) -> (MicroRun, ExitReport) {
    let folder = Folder::new();
    let path = folder.path("exits.json");
    let run = run(guest.arguments(["--exits".into(), path.clone()]));
    run.assert_passed();
    eprintln!("{}", run.transcript);
    let text = std::fs::read(path).expect("a report");
    let report: ExitReport = serde_json::from_slice(&text).expect("the report reads back");
    for phase in &report.phases {
        eprintln!("{:#x}: {:?}", phase.work, phase.counts);
    }
    eprintln!("{:?}", report.coop);
    assert_eq!(report.not_traced, None);
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
