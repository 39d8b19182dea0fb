//! The exit report of a bare-metal guest's run, and what tests look for in it.

use coopvirt::account::model::{Counts, Phase};
use coopvirt::account::report::ExitReport;

use crate::files::Folder;
use crate::guest::Running;
use crate::micro::MicroRun;
use crate::MicroGuest;

/// A guest that has ended, with its report.
#[derive(Debug)]
pub struct Reported {
    /// What it said.
    pub run: MicroRun,
    /// What the host counted.
    pub report: ExitReport,
}

impl Reported {
    /// Runs these tests, which have to pass.
    #[track_caller]
    pub fn run(guest: MicroGuest, tests: &str) -> Self {
        Self::of(guest, tests, Running::finish)
    }

    /// The same; `end` brings the running guest to its end.
    #[track_caller]
    pub fn of(guest: MicroGuest, tests: &str, end: impl FnOnce(Running) -> crate::Outcome) -> Self {
        let folder = Folder::new();
        let path = folder.path("exits.json");
        let guest = guest.arguments(["--exits".into(), path.clone()]);
        let run = MicroRun::new(end(guest.start(tests)));
        run.assert_passed();
        let text = std::fs::read(path).expect("a report");
        let report: ExitReport = serde_json::from_slice(&text).expect("the report reads back");
        eprintln!("{}", run.transcript);
        for phase in &report.phases {
            eprintln!("{:#x}: {:?}", phase.work, phase.counts);
        }
        eprintln!("{:?}", report.coop);
        assert_eq!(report.not_traced, None);
        Self { run, report }
    }

    /// The phase of a work.
    #[track_caller]
    pub fn phase(&self, work: u8) -> &Phase {
        let found = self.report.phases.iter().find(|phase| phase.work == work);
        found.unwrap_or_else(|| panic!("no phase of work {work:#x}"))
    }

    /// A counter of the host's that the specification names.
    #[track_caller]
    pub fn host_counter(&self, name: &str) -> u64 {
        let coop = self.report.coop.as_ref().expect("coop mode");
        coop.host.get(name).copied().unwrap_or(0)
    }
}

/// Exits by reason.
pub fn reason(counts: &Counts, name: &str) -> u64 {
    counts.by_reason.get(name).copied().unwrap_or(0)
}

/// Exits whose cause begins so.
pub fn causes(counts: &Counts, beginning: &str) -> u64 {
    let causes = counts.by_cause.iter();
    let matching = causes.filter(|(cause, _)| cause.starts_with(beginning));
    matching.map(|(_, count)| count).sum()
}
