//! Guests that do what they must not while the host looks (`[TRUST-4]`): what they get for it, and what
//! a neighbour notices. The guest's side is `guests/micro/src/tests/coop_abuse.rs` and
//! `coop_neighbour.rs`; what needs no host that looks is in `coop.rs`.

use coopvirt::account::report::ExitReport;
use coopvirt_tests::exits::run_with_report;
use coopvirt_tests::files::Folder;
use coopvirt_tests::MicroGuest;

const NEIGHBOUR: &str = "coop_neighbour_notices_nothing";

fn guest(policy: &str) -> MicroGuest {
    MicroGuest::new()
        .arguments(["--mode", "coop", "--sidecore", policy])
        .cpus(2)
        .pinned(2)
}

/// Each abuse has its answer, whoever looks.
#[test]
fn abuse_gets_its_answers() {
    for policy in ["adaptive", "always"] {
        let (_, report) = run_with_report(guest(policy), "coop_abuse_*");
        let coop = report.coop.expect("coop mode");
        // Reached the host, and was refused there.
        assert!(coop.events["tsc_writes"] >= 20, "{:?}", coop.events);
        assert!(coop.refused["UNKNOWN_OPCODE"] > 0, "{:?}", coop.refused);
    }
}

/// No-ops of the other vCPU, in permille of their rate while the first one is busy with itself.
/// The host polls all the time, so that the machine
/// is equally busy in both; the rates are those of the median batch.
#[test]
fn abuse_leaves_the_neighbour_its_pace() {
    let (run, _) = run_with_report(guest("always"), NEIGHBOUR);
    let tests = run.transcript.tests;
    let left = &tests
        .iter()
        .find(|run| run.name == NEIGHBOUR)
        .unwrap()
        .values;
    assert_eq!(left.len(), 11);
    eprintln!("permille of the neighbour's rate: {left:?}");
    for (abuse, permille) in left {
        assert!(*permille >= 900, "{abuse}: {permille} permille");
    }
}

/// A reset ends this machine. With it every area has been left, also those in use.
#[test]
fn life_1_a_reset_leaves_every_area() {
    for policy in ["off", "always"] {
        let folder = Folder::new();
        let path = folder.path("exits.json");
        let guest = guest(policy).arguments(["--exits".into(), path.clone()]);
        let run = guest.run_to_end("end_by_a_reset_with_areas");
        assert_eq!(run.outcome.status(), 3, "{}", run.outcome.stderr);
        assert!(run.outcome.stderr.contains("reset the machine"));
        assert_eq!(run.value("end_by_a_reset_with_areas", "areas"), 2);
        let text = std::fs::read(path).expect("a report");
        let report: ExitReport = serde_json::from_slice(&text).expect("the report reads back");
        let events = report.coop.expect("coop mode").events;
        assert_eq!((events["registered"], events["unregistered"]), (2, 2));
    }
}
