//! Halts by the doorbell (`[HALT-1]` to `[HALT-4]`), as a guest without operating system makes them under a true KVM.
//!
//! The guest's half is `guests/micro/src/tests/coop_halt.rs`; on Linux it is `kmod_hooks`.

use coopvirt_tests::exits::{causes, phase, run_with_report};
use coopvirt_tests::micro::Verdict;
use coopvirt_tests::MicroGuest;

const WORK_HALTS: u8 = 0xed;
const DEADLINES: &str = "coop_halt_until_deadlines";
const PENDING: &str = "coop_halt_is_ended_by_what_is_pending";

fn guest(policy: &str, cpus: u32) -> MicroGuest {
    MicroGuest::new()
        .arguments(["--mode", "coop", "--sidecore", policy])
        .cpus(cpus)
}

/// A thousand sleeps of a millisecond: each is one exit, for which no thread of the host wakes up.
#[test]
fn halt_2_a_deadline_ends_a_halt_by_the_local_apics_timer() {
    const NUMBER: u64 = 1_000;
    for policy in ["off", "adaptive"] {
        let guest = guest(policy, 1).param("deadlines", NUMBER);
        let (run, report) = run_with_report(guest, DEADLINES);
        let value = |name| run.value(DEADLINES, name);
        let coop = report.coop.as_ref().expect("coop mode");
        let event = |name| coop.events.get(name).copied().unwrap_or(0);
        let counts = &phase(&report, WORK_HALTS).counts;
        let wakes = event("timer_wakes") + event("naps");
        eprintln!(
            "{policy}: {counts:?}\n{:?}, {wakes} wake-ups, {} early, {} us late at most",
            coop.host,
            value("early"),
            value("latest_us"),
        );
        let (rung, fallback) = (value("rung"), value("fallback"));
        assert_eq!(causes(counts, "OUT 0xd14"), rung);
        assert_eq!(event("halt_bell"), rung);
        // One more for each interrupt that came before its deadline, and where the machine was in the way of a promise.
        assert!(rung >= NUMBER - NUMBER / 10, "{rung} halts by the doorbell");
        let writes = causes(counts, "WRMSR 0x6e0");
        assert!(writes <= fallback + 1, "{writes} writes, {fallback} said");
        assert!(fallback <= NUMBER / 10, "{fallback} stock writes");
        let handed = coop.host["timer_handed"];
        assert!(handed + NUMBER / 10 >= NUMBER, "{handed} handed over");
        assert!(
            wakes <= NUMBER / 5,
            "{wakes} wake-ups of the polling thread"
        );
    }
}

/// An interrupt that comes anywhere between the last look for work and the halt ends the halt.
#[test]
fn halt_1_an_interrupt_that_is_pending_ends_a_halt() {
    for policy in ["off", "adaptive"] {
        guest(policy, 2).param("rounds", 2_000).run(PENDING);
    }
}

/// A guest whose HLT is no exit is not offered one that is.
#[test]
fn bell_7_where_hlt_is_no_exit_there_is_no_doorbell_for_it() {
    let guest = guest("off", 1).arguments(["--disable-exits", "hlt"]);
    let run = guest.run_to_end(DEADLINES);
    let verdicts: Vec<_> = run
        .transcript
        .tests
        .iter()
        .map(|test| &test.verdict)
        .collect();
    assert!(
        matches!(verdicts[..], [Verdict::Skipped(_)]),
        "{verdicts:?}"
    );
}
