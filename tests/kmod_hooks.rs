//! The hooks of the guest's kernel module, each alone: what they save, that nothing is lost, and that the kernel works
//! as before while they are in and when they are gone.
//!
//! Counted by the host (exits between a work's marks) and by the module itself (its counters, read before it goes). The
//! polling host never rests here (`--sidecore always`); but where it has no CPU of its own it is late, its lease ends, and
//! the module takes the stock path. So how much is saved is left to `coopvirt compare`, and what is asked here is that
//! whatever is not saved was a fallback.

use coopvirt::account::model::Counts;
use coopvirt::account::report::ExitReport;
use coopvirt_spec::work::Work;
use coopvirt_tests::files::Folder;
use coopvirt_tests::lab::MODULE_KERNEL;
use coopvirt_tests::{Guest, Image, Outcome};
use serde_json::Value;

/// All switches of the module, each off.
const ALL_OFF: &str = "idle=0,timer=0,ipi=0,populate=0,release=0";
/// The least part that is saved, on a machine where several threads want the polling host's CPU.
const LEAST_PART: u64 = 20;
/// How often a guest is tried that depends on its host's having a CPU to spare.
const TRIES: u32 = 3;
/// Pages that the work `touch` writes to.
const TOUCHED_PAGES: u64 = 24_576;

struct Run {
    outcome: Outcome,
    report: ExitReport,
}

/// Runs works with the module; `switches` are those that are on, as `timer=1`.
#[track_caller]
fn run(switches: &str, works: &str, sidecore: &str, words: &str, arguments: &[&str]) -> Run {
    let folder = Folder::new();
    let path = folder.path("exits.json");
    let guest = Guest::with_kernel(MODULE_KERNEL, Image::Vmlinux)
        .cpus(2)
        .memory("512M")
        .works(works)
        .cmdline(&format!("coopvirt.module={ALL_OFF},{switches} {words}"))
        .arguments(["--mode", "coop", "--sidecore", sidecore])
        .arguments(arguments.iter().copied())
        .arguments(["--exits".into(), path.clone()]);
    let outcome = guest.run();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    outcome.done();
    let text = std::fs::read(path).expect("a report");
    let report: ExitReport = serde_json::from_slice(&text).expect("the report reads back");
    let run = Run { outcome, report };
    for state in ["loaded", "unloaded"] {
        let record = run.module(state);
        assert_eq!(record["trouble"], serde_json::json!([]), "{record}");
    }
    eprintln!(
        "{switches} {sidecore}: {}",
        run.module("unloaded")["counters"]
    );
    for phase in &run.report.phases {
        eprintln!("{:#x}: {:?}", phase.work, phase.counts);
    }
    run
}

impl Run {
    #[track_caller]
    fn module(&self, state: &str) -> &Value {
        let mut records = self.outcome.records("module");
        let found = records.find(|record| record["state"] == state);
        found.unwrap_or_else(|| panic!("the module was never {state}"))
    }

    /// What the module said of itself when it was loaded: `timer on`.
    #[track_caller]
    fn assert_says(&self, line: &str) {
        let text = self.module("loaded")["text"].as_str().unwrap_or_default();
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }

    /// The sum of a counter over all CPUs.
    fn counter(&self, name: &str) -> u64 {
        let counters = &self.module("unloaded")["counters"];
        let groups = counters.as_object().expect("counters by CPU").values();
        groups.filter_map(|group| group[name].as_u64()).sum()
    }

    /// Exits of the nth phase of a work.
    #[track_caller]
    fn phase(&self, work: Work, nth: usize) -> &Counts {
        let phases = self.report.phases.iter();
        let mut found = phases.filter(|phase| Work::from_code(phase.work) == Some(work));
        &found.nth(nth).expect("the phase").counts
    }

    /// Exits with this cause in all phases of a work.
    fn causes(&self, work: Work, beginning: &str) -> u64 {
        let causes = self.phase(work, 0).by_cause.iter();
        let found = causes.filter(|(cause, _)| cause.starts_with(beginning));
        found.map(|(_, count)| count).sum()
    }
}

fn reason(counts: &Counts, name: &str) -> u64 {
    counts.by_reason.get(name).copied().unwrap_or(0)
}

#[test]
fn deadlines_by_a_word() {
    let run = run("timer=1", "sleep,busy", "always", "", &[]);
    run.assert_says("timer on");
    let [published, elided, fallback] =
        ["deadline_published", "deadline_elided", "deadline_fallback"]
            .map(|name| run.counter(name));
    assert_eq!(published, elided + fallback);
    assert!(elided >= published / LEAST_PART, "{elided} of {published}");
    let writes = run.causes(Work::Sleep, "WRMSR 0x6e0") + run.causes(Work::Busy, "WRMSR 0x6e0");
    assert!(writes <= fallback, "{writes} writes, {fallback} fallbacks");
    // A CPU that goes idle without a timer masks and clears nothing any more.
    assert_eq!(run.causes(Work::Sleep, "WRMSR 0x832"), 0);
    assert_eq!(run.counter("timer_lost"), 0);
}

/// Halts by the doorbell hand deadlines over ([HALT-2]), with a host that polls and with one that does not; nearly no
/// sleep needs a stock write or wakes the polling thread then, unless others want the vCPU's CPU between a deadline and its
/// halt. With the parameter off all is as before.
#[test]
fn deadlines_are_handed_over_at_a_halt() {
    for policy in ["off", "adaptive"] {
        let sleep = |switches| run(switches, "sleep", policy, "", &[]);
        let event =
            |run: &Run, name: &str| run.report.coop.as_ref().expect("coop mode").events[name];
        let writes = |run: &Run| run.causes(Work::Sleep, "WRMSR 0x6e0");
        let sleeps = |run: &Run| run.outcome.work("sleep")["ops"].as_u64().expect("a number");
        let mut tries = (1..TRIES).map(|_| sleep("idle=1,timer=1"));
        let on = tries.find(|run| writes(run) <= sleeps(run) / 2);
        let on = on.unwrap_or_else(|| sleep("idle=1,timer=1"));
        let (writes, sleeps) = (writes(&on), sleeps(&on));
        let (rung, halted) = (on.counter("idle_rung"), on.counter("idle_halted"));
        assert!(
            rung >= sleeps / 2 && rung <= halted,
            "{rung} of {halted}, {sleeps} sleeps"
        );
        assert!(event(&on, "halt_bell") >= rung);
        assert!(
            writes <= sleeps / 2,
            "{writes} stock writes for {sleeps} sleeps"
        );
        let off = sleep("idle=1,timer=1,halt=0");
        assert_eq!((off.counter("idle_rung"), event(&off, "halt_bell")), (0, 0));
        assert_eq!(off.causes(Work::Sleep, "OUT 0xd14"), 0);
        for run in [on, off] {
            assert_eq!(run.counter("timer_lost"), 0);
        }
    }
}

/// A CPU that polls takes its disk's interrupts from a word ([POST-2]), unless the parameter says no. Every read ends all
/// the same, and has read what is on the disk. How many interrupts that spares is left to `coopvirt compare`.
#[test]
fn interrupts_are_posted_to_a_cpu_that_polls() {
    let folder = Folder::new();
    let disk = format!("{},ro", folder.disk("disk", 1_024).display());
    let read = |switches| run(switches, "read1,read32", "always", "", &["--disk", &disk]);
    let posted = |run: &Run| run.report.coop.as_ref().expect("coop mode").events["posted"];
    // Where others want its CPU all the time it does not poll.
    let mut tries = (1..TRIES).map(|_| read("idle=1,post=1"));
    let on = tries.find(|run| posted(run) > 0);
    let on = on.unwrap_or_else(|| read("idle=1,post=1"));
    let off = read("idle=1,post=0");
    eprintln!("posted: {} with it, {} without", posted(&on), posted(&off));
    // The module was asked before it went.
    let taken = on.counter("posted_taken");
    assert!(0 < taken && taken <= posted(&on), "{taken} taken");
    assert_eq!((posted(&off), off.counter("posted_taken")), (0, 0));
}

/// A CPU that sleeps for a quarter of its tick's period idles without it, unless the parameter says no. How many halts
/// that spares is left to `coopvirt compare`.
#[test]
fn ticks_stay_out_of_halts() {
    let sleep = |switches| run(switches, "sleep", "off", "coopvirt.scale=2", &[]);
    let stopped = sleep("idle=1,timer=1,tick=1");
    let kept = sleep("idle=1,timer=1,tick=0");
    let halts = |run: &Run| reason(run.phase(Work::Sleep, 0), "HLT");
    eprintln!(
        "halts: {} without ticks, {} with",
        halts(&stopped),
        halts(&kept)
    );
    assert!(stopped.counter("idle_tickless") > 0);
    assert_eq!(kept.counter("idle_tickless"), 0);
    for run in [&stopped, &kept] {
        assert_eq!(run.counter("timer_lost"), 0);
    }
}

/// CPUs that answer each other take their ticks by themselves, unless the parameter says no; none is lost. How many
/// exits that spares is left to `coopvirt compare`.
#[test]
fn ticks_of_an_exchange_are_taken_without_the_host() {
    let exchange = |switches| run(switches, "pipe", "off", "", &[]);
    let taken = exchange("idle=1,timer=1,post=1,tick=1");
    let raised = exchange("idle=1,timer=1,post=1,tick=0");
    eprintln!("ticks taken: {}", taken.counter("idle_ticks_taken"));
    assert!(taken.counter("idle_ticks_taken") > 0);
    assert_eq!(raised.counter("idle_ticks_taken"), 0);
    for run in [&taken, &raised] {
        assert_eq!(run.counter("timer_lost"), 0);
    }
}

#[test]
fn interrupts_by_the_ring() {
    let run = run("ipi=1", "pipe,tlb", "always", "", &[]);
    run.assert_says("ipi on");
    let [elided, fallback] = ["ipi_elided", "ipi_fallback"].map(|name| run.counter(name));
    let least = (elided + fallback) / LEAST_PART;
    assert!(elided > least, "{elided} elided, {fallback} not");
    let writes = run.causes(Work::Pipe, "WRMSR 0x830") + run.causes(Work::Tlb, "WRMSR 0x830");
    assert!(writes <= fallback, "{writes} writes, {fallback} fallbacks");
}

/// Nobody listens: everything takes the kernel's own path, and only that.
#[test]
fn level_1_without_a_polling_host_interrupts_are_the_kernels() {
    let run = run("ipi=1,timer=1", "pipe,tlb,fork", "off", "", &[]);
    run.assert_says("ipi on");
    assert_eq!(run.counter("ipi_elided"), 0);
    assert!(run.counter("ipi_fallback") > 0);
    assert_eq!(run.counter("sync_bell"), 0);
    assert_eq!(run.counter("timer_lost"), 0);
}

#[test]
fn what_is_switched_off_does_nothing() {
    let run = run("level=2", "sleep,pipe", "always", "", &[]);
    for hook in ["idle", "timer", "ipi", "populate", "release"] {
        run.assert_says(&format!("{hook} off"));
    }
    for name in [
        "deadline_published",
        "ipi_elided",
        "ipi_fallback",
        "submitted",
    ] {
        assert_eq!(run.counter(name), 0, "{name}");
    }
}

/// A timer that is no TSC deadline cannot be a word; the other hooks do not mind.
#[test]
fn another_timer_is_refused_and_the_rest_goes_on() {
    let words = "lapic=notscdeadline";
    let run = run("timer=1,ipi=1", "pipe", "always", words, &[]);
    assert_eq!(run.outcome.platform()["clockevent"], "lapic");
    run.assert_says("timer refused -19");
    run.assert_says("ipi on");
    assert_eq!(run.counter("deadline_published"), 0);
    assert!(run.counter("ipi_elided") + run.counter("ipi_fallback") > 0);
    let log = run.module("loaded")["log"].to_string();
    assert!(
        log.contains("timer is off: a CPU's clock event device"),
        "{log}"
    );
}

/// A kernel that keeps its periodic tick sets the next one in the handler of the last, and only if that is still the
/// device's: none may be missing.
#[test]
fn a_periodic_tick_goes_on() {
    let words = "nohz=off highres=off";
    for sidecore in ["off", "always"] {
        let run = run("idle=1,timer=1", "sleep,busy", sidecore, words, &[]);
        run.assert_says("timer on");
        assert!(run.counter("deadline_published") > 0);
        assert_eq!(run.counter("timer_lost"), 0);
    }
}

/// Free memory is given back; when it is used again the module asks for it in whole blocks. The same without it
/// shows what that spares.
#[test]
fn released_memory_is_refilled_without_faults() {
    // Long enough that the kernel reports most of what is free, a part of it each two seconds.
    let words = "coopvirt.reps=2 coopvirt.settle_ms=20000";
    let refill = |switches| run(switches, "touch", "off", words, &["--no-huge-pages"]);
    let plain = refill("release=1");
    plain.assert_says("release on");
    assert!(plain.counter("blocks_released") * 512 > TOUCHED_PAGES);
    let faults = reason(plain.phase(Work::Touch, 1), "NPF");
    assert!(faults > TOUCHED_PAGES / 2, "{faults} of {TOUCHED_PAGES}");

    let run = refill("release=1,populate=1");
    run.assert_says("populate on");
    assert_eq!(
        run.counter("populate_failed") + run.counter("release_failed"),
        0
    );
    let counts = run.phase(Work::Touch, 1);
    let faults = reason(counts, "NPF");
    assert!(faults <= TOUCHED_PAGES / 100, "{faults} of {TOUCHED_PAGES}");
    // What asks for the blocks costs no more: a doorbell and at most an interrupt to itself for each.
    let calls = run.counter("populate_pieces");
    assert!(calls <= 4 * TOUCHED_PAGES / 512, "{calls} calls");
}
