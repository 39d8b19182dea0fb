//! A bare-metal guest's run with its exit report; `exits` looks things up in it.

use coopvirt::account::model::Phase;
use coopvirt::account::report::ExitReport;

use crate::exits::phase;
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
        phase(&self.report, work)
    }

    /// A counter of the host's that the specification names.
    #[track_caller]
    pub fn host_counter(&self, name: &str) -> u64 {
        let coop = self.report.coop.as_ref().expect("coop mode");
        coop.host.get(name).copied().unwrap_or(0)
    }
}
