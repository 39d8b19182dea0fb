//! The guest's kernel module, loaded and unloaded again and again beside a busy guest: afterwards a guest does what one does
//! that never had it, for as many exits.

use std::time::Duration;

use coopvirt_spec::work::Work;
use coopvirt_tests::files::Folder;
use coopvirt_tests::kmod::{guest, is_long, run, Run};

/// Repetitions of each work whose exits are compared.
const REPS: usize = 5;
/// What medians of two guests may differ by, in percent, where their repetitions differ by less.
const NOISE_PERCENT: f64 = 10.0;

/// Net exits per operation, of each repetition.
#[track_caller]
fn exits(run: &Run, work: Work) -> Vec<f64> {
    let records = run.outcome.records("work");
    let ops = records.filter(|record| record["work"] == work.name());
    let phases = run.report.phases.iter();
    let phases = phases.filter(|phase| Work::from_code(phase.work) == Some(work));
    let exits = ops.zip(phases).map(|(record, phase)| {
        let ops = record["ops"].as_u64().expect("a number of operations");
        phase.counts.net() as f64 / ops as f64
    });
    let exits: Vec<f64> = exits.collect();
    assert_eq!(exits.len(), REPS, "repetitions of {}", work.name());
    exits
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn width(values: &[f64]) -> f64 {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    values.iter().copied().fold(0.0, f64::max) - least
}

/// Many cycles under load: nothing is left of the module, and what the guest does costs what it cost before. The
/// medians of each work's repetitions are apart by no more than [`NOISE_PERCENT`], or than the repetitions of one guest.
#[test]
fn a_guest_that_had_it_many_times_is_as_one_that_never_had() {
    let folder = Folder::new();
    let disk = folder.disk("disk", 4096).display().to_string();
    // Half a second each where code runs 20 times slower. The works are of one length: longer ones have more events than
    // are read in time there.
    let (cycles, limit_s) = if is_long() { (1000, 7200) } else { (100, 600) };
    let limit = Duration::from_secs(limit_s);
    let words = format!(
        "coopvirt.works=sleep,busy,read1,pipe,tlb coopvirt.reps={REPS} coopvirt.seconds=1 coopvirt.timeout_s={limit_s}"
    );
    let with = |more: &str| {
        let guest = guest("coop", &format!("{words} {more}")).limit(limit);
        run(guest.arguments(["--disk", &disk, "--sidecore", "adaptive"]))
    };
    let cycled = with(&format!("coopvirt.first=cycles coopvirt.cycles={cycles}"));
    let never = with("");

    let record = cycled.outcome.work("cycles");
    assert_eq!(record["ops"], cycles, "{record}");
    let load = &record["detail"]["load"];
    let seconds = record["elapsed_ns"].as_u64().unwrap_or(0) / 1_000_000_000;
    eprintln!("{cycles} cycles in {seconds} s beside {load}");
    for kind in ["messages", "received", "sleeps", "children", "reads"] {
        assert!(load[kind].as_u64() > Some(0), "{kind}: {load}");
    }
    let hooks = &record["detail"]["hooks"];
    assert_eq!(hooks["before"], hooks["after"]);
    // The same reading does show the hooks while they are in.
    assert_ne!(hooks["before"], hooks["loaded"]);
    assert!(
        hooks["after"].to_string().contains("lapic_next_deadline"),
        "{hooks}"
    );

    for work in [Work::Sleep, Work::Busy, Work::Read1, Work::Pipe, Work::Tlb] {
        let (ours, theirs) = (exits(&cycled, work), exits(&never, work));
        let apart = (median(&ours) - median(&theirs)).abs();
        let noise = f64::max(
            median(&theirs) * NOISE_PERCENT / 100.0,
            f64::max(width(&ours), width(&theirs)),
        );
        eprintln!(
            "{}: exits per operation {:.2} after the cycles, {:.2} without; {apart:.2} apart, noise {noise:.2}",
            work.name(),
            median(&ours),
            median(&theirs),
        );
        assert!(apart <= noise, "{}: {ours:?}, {theirs:?}", work.name());
    }
}
