//! The machine, as a guest without operating system sees it: one function there is one test.
//!
//! The tests themselves are in `guests/micro/src/tests`; here is on which machines they run, and
//! what only the host can see.

use coopvirt::account::report::ExitReport;
use coopvirt_tests::files::Folder;
use coopvirt_tests::micro::Verdict;
use coopvirt_tests::MicroGuest;
use micro_protocol::EXIT_PANICKED;

/// The work that the guest's marks at the port name.
const WORK_BY_PORT: u8 = 0xe0;

#[test]
fn one_cpu() {
    MicroGuest::new().run("machine_*,kvm_*,smp_all_cpus_start");
}

#[test]
fn two_cpus() {
    let run = MicroGuest::new().cpus(2).run("machine_*,kvm_*,smp_*");
    let trips = run.value("smp_ipi_round_trips_are_exact", "round_trips");
    assert_eq!(trips, 200);
}

#[test]
fn eight_cpus() {
    let run = MicroGuest::new().cpus(8).run("machine_*,kvm_*,smp_*");
    assert_eq!(run.value("smp_all_cpus_start", "cpus"), 8);
}

#[test]
fn hvm_mode_without_x2apic() {
    let guest = MicroGuest::new().cpus(2).arguments(["--mode", "hvm"]);
    guest.run("machine_*,hvm_*,smp_*");
}

#[test]
fn memory_above_4_gib() {
    let guest = MicroGuest::new().memory_mib(4 << 10);
    let guest = guest.arguments(["--overcommit"]);
    let run = guest.run("high_*,machine_memory_map_has_all_memory");
    assert!(run.value("high_memory", "words") > 100);
}

/// [MARK-1] [MARK-3] [MARK-4]: each mark by port is one exit to userspace, and the exit report has
/// a phase for each pair, and for nothing else. [MARK-2]: so is each access of the mark MSR and its
/// neighbours one exit; the report is cut by marks at the port only.
#[test]
fn marks_are_one_exit_each_and_cut_the_exit_report() {
    let folder = Folder::new();
    let path = folder.path("exits.json");
    let guest = MicroGuest::new().arguments(["--exits".into(), path.clone()]);
    let run = guest.run_to_end("machine_mark_port,machine_mark_msr");
    assert_eq!(run.transcript.done, Some(2), "{}", run.transcript);
    let text = std::fs::read(path).expect("a report");
    let report: ExitReport = serde_json::from_slice(&text).expect("the report reads back");
    let phases = report.phases.iter().map(|phase| (phase.work, phase.seq));
    // The first is a point: from the start to it.
    let expected = [0, 1, 2].map(|seq| (WORK_BY_PORT, seq));
    assert_eq!(phases.collect::<Vec<_>>(), expected);
    for phase in &report.phases[1..] {
        // Nothing is in it but what the host itself may put there.
        assert_eq!(phase.counts.userspace, 0, "{phase:?}");
    }
    let returns = &report.userspace_exits;
    // Five marks, and three writes that are none.
    for (kind, count) in [
        ("OUT 0xd0c mark", 8),
        ("IN 0xd0c mark", 1),
        ("WRMSR 0x43560000", 2),
        ("RDMSR 0x43560000", 2),
        ("WRMSR 0x43560001", 1),
        ("RDMSR 0x43560007", 1),
    ] {
        assert_eq!(returns.get(kind), Some(&count), "{kind} in {returns:?}");
    }
}

#[test]
fn a_code_of_the_guests_own_is_the_exit_status() {
    let run = MicroGuest::new()
        .param("code", 42)
        .run_to_end("end_with_a_code");
    assert_eq!(run.transcript.tests[0].verdict, Verdict::Unfinished);
    run.outcome.assert_ended(42, "code 42");
}

#[test]
fn a_failure_in_the_guest_is_seen_with_its_place() {
    for (test, place, text) in [
        ("end_by_a_failure", "src/tests/end.rs:", "on purpose"),
        ("end_by_a_fault", "src/x86/interrupts.rs:", "fault 6 at"),
        ("no_such_test", "src/test.rs:", "no test is called"),
    ] {
        let run = MicroGuest::new().run_to_end(test);
        let [only] = &run.transcript.tests[..] else {
            panic!("{}", run.transcript);
        };
        let Verdict::Failed(how) = &only.verdict else {
            panic!("{}", run.transcript);
        };
        assert!(how.starts_with(place) && how.contains(text), "{how}");
        assert_eq!(run.transcript.done, None);
        run.outcome.assert_ended(EXIT_PANICKED.into(), "code");
    }
}

#[test]
#[should_panic(expected = "Skipped")]
fn a_test_that_cannot_run_is_no_success() {
    MicroGuest::new().run("end_without_a_test");
}
