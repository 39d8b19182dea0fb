//! A guest with the kernel that the module is made for, run to its end with a report of its exits.

use coopvirt::account::report::ExitReport;

use crate::files::Folder;
use crate::lab::MODULE_KERNEL;
use crate::{Guest, Image, Outcome};

/// Whether the long forms are asked for.
pub fn is_long() -> bool {
    std::env::var_os("COOPVIRT_LONG").is_some()
}

/// Such a guest in this mode, with these words on its command line.
pub fn guest(mode: &str, words: &str) -> Guest {
    Guest::with_kernel(MODULE_KERNEL, Image::Vmlinux)
        .cpus(2)
        .memory("512M")
        .arguments(["--mode", mode])
        .cmdline("tsc=reliable no_timer_check coopvirt.settle_ms=50")
        .cmdline(words)
}

/// How it went.
#[derive(Debug)]
pub struct Run {
    /// What it has said.
    pub outcome: Outcome,
    /// Its exits.
    pub report: ExitReport,
}

/// Runs it to its end with an exit report; all works must pass.
#[track_caller]
pub fn run(guest: Guest) -> Run {
    let folder = Folder::new();
    let path = folder.path("exits.json");
    let outcome = guest.arguments(["--exits".into(), path.clone()]).run();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    outcome.done();
    let text = std::fs::read(path).expect("a report");
    let report: ExitReport = serde_json::from_slice(&text).expect("the report reads back");
    assert_eq!(report.not_traced, None);
    assert_well(&outcome);
    Run { outcome, report }
}

/// The kernel has not complained.
#[track_caller]
pub fn assert_well(outcome: &Outcome) {
    for record in outcome.records("module") {
        assert_eq!(record["trouble"], serde_json::json!([]), "{record}");
    }
}
