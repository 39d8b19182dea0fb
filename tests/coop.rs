//! The cooperative interface (`spec/SPEC.md`), as a guest without operating system uses it.
//!
//! The tests themselves are in `guests/micro/src/tests/coop_*.rs`; here is on which machines they
//! run, and what only the host can see: which exits there were. Memory is `coop_memory.rs`'s.

use coopvirt_tests::exits::{causes, own_exits, phase, run_with_report};
use coopvirt_tests::MicroGuest;

/// Works of the guest's tests.
const WORK_BATCH: u8 = 0xe4;
const WORK_CALLS: u8 = 0xe8;
const WORK_IPIS: u8 = 0xe9;

fn guest() -> MicroGuest {
    MicroGuest::new().arguments(["--mode", "coop"])
}

fn with_sidecore(policy: &str) -> MicroGuest {
    guest().arguments(["--sidecore", policy])
}

#[test]
fn set_up() {
    for policy in ["off", "adaptive"] {
        let guest = with_sidecore(policy).cpus(2);
        guest.run("coop_discovery,coop_negotiation,coop_bad_*,coop_register_*,coop_smp_*");
    }
}

/// One exit for 32 calls; one for each where they are not batched.
#[test]
fn a_batch_is_one_exit() {
    let calls = 3_200;
    let guest = with_sidecore("off").param("calls", calls);
    let (run, report) = run_with_report(guest, "coop_batch_*");
    let test = "coop_batch_one_exit_for_many_calls";
    assert_eq!(run.value(test, "calls"), 2 * calls + 32);
    let batches = report
        .phases
        .iter()
        .filter(|phase| phase.work == WORK_BATCH);
    let batches: Vec<_> = batches.map(|phase| &phase.counts).collect();
    let [echoes, nops, single] = batches[..] else {
        panic!("{:?}", report.phases);
    };
    for counts in [echoes, nops] {
        assert_eq!(counts.userspace, calls / 32, "{counts:?}");
        assert!(own_exits(counts) <= calls / 32 + 2, "{counts:?}");
    }
    assert_eq!(single.userspace, 32, "{single:?}");
}

#[test]
fn hostile_guests_get_answers() {
    for policy in ["off", "adaptive", "always"] {
        let guest = with_sidecore(policy).cpus(2);
        guest.run("coop_hostile_*,coop_register_*,coop_batch_*");
    }
}

/// While the host listens a call costs no exit; where it had fallen asleep, one doorbell for a
/// batch. A machine that takes the polling thread's CPU away only adds doorbells, so the best of a
/// few runs is what the interface does.
#[test]
fn calls_without_exits() {
    const TRIES: u32 = 3;
    let calls = 64_000;
    for policy in ["adaptive", "always"] {
        let mut seen = Vec::new();
        for _ in 0..TRIES {
            let (bells, starved) = bells_of_calls(policy, calls);
            seen.push((bells, starved));
            if bells <= calls / 1_000 {
                break;
            }
        }
        eprintln!("{policy}: doorbells of {calls} calls, gaps and rests, run by run: {seen:?}");
        let is_met = seen.iter().any(|(bells, _)| *bells <= calls / 1_000);
        // Where nobody gives the polling thread a CPU it misses turns and rests: then it is rung for a batch.
        let is_starved = seen
            .iter()
            .all(|(bells, starved)| *starved > 0 && *bells <= calls / 16);
        assert!(is_met || is_starved, "{policy}: {seen:?} of {calls}");
    }
}

/// The doorbells of so many calls, which are all the exits that they cost, and how often the polling
/// thread had no CPU for longer than a lease, or rested for that reason.
fn bells_of_calls(policy: &str, calls: u64) -> (u64, u64) {
    let guest = with_sidecore(policy).param("calls", calls);
    let (run, report) = run_with_report(guest, "coop_sidecore_calls_*");
    let bells = run.value("coop_sidecore_calls_without_exits", "bells");
    let counts = &phase(&report, WORK_CALLS).counts;
    assert_eq!(own_exits(counts), bells, "{counts:?}");
    let coop = report.coop.as_ref().expect("coop mode");
    (bells, coop.events["gaps"] + coop.events["rests"])
}

/// An elided interrupt costs its sender nothing. How many are elided depends on whether the host
/// polls: for `adaptive` on a busy machine that is chance, for `always` half of them and more, unless
/// the machine took the polling thread's CPU away in each of a few runs.
#[test]
fn interrupts_without_exits_of_the_sender() {
    const TRIES: u32 = 3;
    interrupts_and_gaps("adaptive");
    let mut seen = Vec::new();
    for _ in 0..TRIES {
        let (sent, elided, gaps) = interrupts_and_gaps("always");
        seen.push((elided, gaps));
        if elided >= sent / 2 {
            return;
        }
    }
    eprintln!("always: elided interrupts and gaps, run by run: {seen:?}");
    let is_starved = |(elided, gaps): &(u64, u64)| *elided > 0 && *gaps > 0;
    assert!(seen.iter().all(is_starved), "{seen:?}");
}

/// The interrupts sent, those of them that cost no exit, and the gaps in which the polling thread had
/// no CPU.
fn interrupts_and_gaps(policy: &str) -> (u64, u64, u64) {
    let guest = with_sidecore(policy).cpus(2).param("ipis", 300);
    let guest = guest.pinned(2);
    let (run, report) = run_with_report(guest, "coop_sidecore_smp_ipis");
    let value = |name| run.value("coop_sidecore_smp_ipis", name);
    let counts = &phase(&report, WORK_IPIS).counts;
    let writes = causes(counts, "WRMSR 0x830");
    assert_eq!(writes, value("fallback"), "{policy}: {counts:?}");
    assert_eq!(value("elided") + value("fallback"), value("sent"));
    let coop = report.coop.as_ref().expect("coop mode");
    (value("sent"), value("elided"), coop.events["gaps"])
}

/// Whatever is in `guests/micro/src/tests/experiments.rs`.
#[test]
fn experiments() {
    let guest = guest().arguments(["--coop", "all,experimental"]);
    guest.run("experiment_*");
}
