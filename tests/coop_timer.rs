//! Deadlines of the cooperative interface (`[TIMER-1]` to `[TIMER-11]`), as a guest without operating
//! system sets them: by a polling host, and by one that only predicts.
//!
//! The guest's half is `guests/micro/src/tests/coop_timer.rs`. Figures are printed; under emulation
//! lateness says how busy the machine was, so no bar is about it.

use coopvirt::account::model::Counts;
use coopvirt::account::report::ExitReport;
use coopvirt_tests::files::Folder;
use coopvirt_tests::micro::MicroRun;
use coopvirt_tests::MicroGuest;

const WORK_DEADLINES: u8 = 0xea;
const WORK_REARM: u8 = 0xeb;

const DEADLINES: u64 = 1_000;

/// What a run cost, as the host has seen it.
struct Run {
    guest: MicroRun,
    report: ExitReport,
    test: &'static str,
}

/// Runs one of the guest's tests, which has to pass.
#[track_caller]
fn run(policy: &str, cpus: u32, test: &'static str, parameters: &[(&str, u64)]) -> Run {
    let folder = Folder::new();
    let path = folder.path("exits.json");
    let mut guest = MicroGuest::new()
        .arguments(["--mode", "coop", "--sidecore", policy])
        .arguments(["--exits".into(), path.clone()])
        .cpus(cpus);
    for (name, value) in parameters {
        guest = guest.param(name, value);
    }
    let guest = guest.run_to_end(test);
    guest.assert_passed();
    let text = std::fs::read(path).expect("a report");
    let report: ExitReport = serde_json::from_slice(&text).expect("the report reads back");
    assert_eq!(report.not_traced, None);
    let run = Run {
        guest,
        report,
        test,
    };
    run.print(policy, cpus);
    run
}

impl Run {
    fn value(&self, name: &str) -> u64 {
        self.guest.value(self.test, name)
    }

    fn event(&self, name: &str) -> u64 {
        let coop = self.report.coop.as_ref().expect("coop mode");
        coop.events.get(name).copied().unwrap_or(0)
    }

    fn phases(&self, work: u8) -> impl Iterator<Item = &Counts> {
        let phases = self.report.phases.iter();
        phases
            .filter(move |phase| phase.work == work)
            .map(|phase| &phase.counts)
    }

    /// Writes of the TSC-deadline MSR in all phases of a work.
    fn deadline_writes(&self, work: u8) -> u64 {
        let causes = self.phases(work).flat_map(|counts| &counts.by_cause);
        let writes = causes.filter(|(cause, _)| cause.starts_with("WRMSR 0x6e0"));
        writes.map(|(_, count)| count).sum()
    }

    /// Exits that the guest's own instructions made, in all phases of a work.
    fn own_exits(&self, work: u8) -> u64 {
        let interrupts = |counts: &Counts| counts.by_reason.get("INTR").copied().unwrap_or(0);
        self.phases(work)
            .map(|counts| counts.total - interrupts(counts))
            .sum()
    }

    fn print(&self, policy: &str, cpus: u32) {
        let coop = self.report.coop.as_ref().expect("coop mode");
        eprintln!("{}: sidecore {policy}, {cpus} vCPUs", self.test);
        for work in [WORK_DEADLINES, WORK_REARM] {
            for counts in self.phases(work) {
                eprintln!("  exits {:?} {:?}", counts.by_reason, counts.by_cause);
            }
        }
        let tests = self.guest.transcript.tests.iter();
        for value in tests.flat_map(|test| &test.values) {
            eprint!("  {} {}", value.0, value.1);
        }
        eprintln!("\n  host {:?}", coop.host);
        let events = coop.events.iter().filter(|(_, count)| **count > 0);
        eprintln!("  events {:?}", events.collect::<Vec<_>>());
        eprintln!("  late, below us {:?}", coop.late_below_us);
        let (cpu, wait) = (&coop.thread_cpu_ns, &coop.thread_wait_ns);
        eprintln!("  CPU time, ns {cpu:?}, waited for a CPU {wait:?}");
    }

    /// Stock writes at most 20 for each CPU's thousand deadlines, and those that fall into times in which
    /// the machine did not let the polling thread run.
    #[track_caller]
    fn assert_elided(&self, cpus: u32, period_us: u64) {
        assert!(self.event("sleeps") > 0);
        // And those after which it has rested, because the machine did not.
        let lost_us = self.event("gap_us") + self.event("rest_us");
        let explained = self.event("gaps") + lost_us / period_us;
        let allowed = (20 + explained) * u64::from(cpus);
        let writes = self.deadline_writes(WORK_DEADLINES);
        eprintln!("  {writes} stock writes, allowed 20 and {explained} explained, for each CPU");
        assert!(writes <= allowed, "{writes} of {allowed}");
    }

    /// On a machine that is not busy less than one in twenty needs a stock write. Where nothing runs
    /// when it should, predictions fail; still most must not.
    #[track_caller]
    fn assert_predicted(&self, cpus: u32) {
        let (writes, deadlines) = (self.value("fallback"), DEADLINES * u64::from(cpus));
        eprintln!("  {writes} of {deadlines} deadlines needed a stock write");
        assert!(writes < deadlines / 2, "{writes} of {deadlines}");
    }

    /// None lost, and none early but for what a stock write explains (`[TIMER-8]`).
    #[track_caller]
    fn assert_kept(&self, cpus: u32) {
        assert_eq!(self.value("expired"), DEADLINES * u64::from(cpus));
        assert!(self.value("early") + self.value("extra") <= self.value("fallback"));
        // One write for each fallback, and the last one of each CPU at its end.
        let writes = self.deadline_writes(WORK_DEADLINES);
        assert!(writes <= self.value("fallback") + u64::from(cpus));
    }
}

const TICK: &str = "coop_timer_tick_of_a_busy_cpu";
const SLEEPS: &str = "coop_timer_sleeps_that_are_roughly_periodic";
const RANDOM: &str = "coop_timer_random_deadlines";
const MOVED: &str = "coop_timer_moved_on_and_on";

/// A host that never polls predicts.
#[test]
fn predicted_ticks() {
    for cpus in [1, 2] {
        let tick = run("off", cpus, TICK, &[("deadlines", DEADLINES)]);
        tick.assert_kept(cpus);
        tick.assert_predicted(cpus);
    }
}

#[test]
fn predicted_sleeps() {
    let parameters = [("deadlines", DEADLINES), ("period_us", 1_050)];
    let sleeps = run("off", 1, SLEEPS, &parameters);
    sleeps.assert_kept(1);
    sleeps.assert_predicted(1);
}

#[test]
fn polled_ticks() {
    for cpus in [1, 2] {
        let parameters = [("deadlines", DEADLINES), ("period_us", 1_000)];
        let tick = run("adaptive", cpus, TICK, &parameters);
        tick.assert_kept(cpus);
        tick.assert_elided(cpus, 1_000);
    }
}

#[test]
fn polled_random_deadlines() {
    for cpus in [1, 2] {
        let random = run("adaptive", cpus, RANDOM, &[("deadlines", DEADLINES)]);
        random.assert_kept(cpus);
        // Some lie so near that a gap can have many of them.
        random.assert_elided(cpus, 100);
    }
}

#[test]
fn moved_deadlines() {
    let moved = run("adaptive", 1, MOVED, &[("moves", 10_000)]);
    let exits = moved.own_exits(WORK_REARM);
    // Five times 10,000; a gap's beginning, until the worker stands in, has about a hundred moves.
    let allowed = match moved.event("rests") {
        0 => 50 + moved.event("gaps") * 100,
        // The machine did not let it poll: then by the stock path, and by no more.
        _ => 5 * 10_000 * 11 / 10,
    };
    eprintln!("  {exits} exits for five times 10,000 moves, allowed {allowed}");
    assert!(exits <= allowed);
}

#[test]
fn the_timers_vector_is_the_guests_word() {
    let guest = MicroGuest::new().arguments(["--mode", "coop", "--sidecore", "always"]);
    guest.run("coop_timer_vector");
}

/// Also while CPUs halt, and for eight of them.
#[test]
fn deadlines_end_halts() {
    for (policy, cpus) in [("adaptive", 2), ("off", 2), ("off", 8), ("adaptive", 8)] {
        let guest = MicroGuest::new()
            .arguments(["--mode", "coop", "--sidecore", policy])
            .cpus(cpus)
            .param("deadlines", 100);
        guest.run("coop_timer_end_halts");
    }
}
