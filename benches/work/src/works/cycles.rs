//! `cycles`: the guest's module is loaded and unloaded while the machine is busy. Operation: one
//! cycle.
//!
//! Busy means: a storm of pipe messages between many threads, a sleeper on each CPU, direct disk
//! reads, children that come and go, and hackbench where the initramfs has it. Each of them must get
//! on in every stretch of cycles, or something that unloading left behind has stopped it. After the
//! last unload, still under load, each hook must be what it was before the first load; then the last
//! CPU goes and comes back. Nothing is
//! unloaded before this work, so it is not run beside `coopvirt.module=`.

use super::bench::{Bench, Failure, Measured};
use super::load::Load;
use crate::sys::{cpu, time};
use crate::{hooks, module};
use coopvirt_spec::work::Work;
use serde_json::json;
use std::thread;
use std::time::Duration;

/// At scale 1.
const CYCLES: u64 = 100;
/// Every so many cycles all loads must have gone on.
const STRETCH: u64 = 10;
/// How long the module stays in, and out: longer and shorter than a tick.
const STAY: [Duration; 3] = [
    Duration::from_micros(500),
    Duration::from_millis(7),
    Duration::from_millis(20),
];
/// What a load may take to get on, on a machine that is emulated.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of the thread that loads and unloads.
const PRIORITY: i32 = 50;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Measured, Failure> {
    if !module::is_there() {
        return Err(Failure::Skip("there is no module to load".to_string()));
    }
    let cycles = bench.cycles().unwrap_or_else(|| bench.scaled(CYCLES));
    let params = bench.cycle_params().replace(',', " ");
    let since = module::log_time();
    let load = Load::start(bench.cpus(), bench.disk())?;
    let mut progress = load.progress();
    let mut trouble = Vec::new();
    let before = hooks::read()?;
    let mut loaded = Vec::new();
    let once = || {
        for cycle in 0..cycles {
            let stay = STAY[usize::try_from(cycle % 3).unwrap_or(0)];
            module::load_once(&params)
                .map_err(|error| format!("cannot load the module, cycle {cycle}: {error}"))?;
            pause(stay)?;
            if cycle == 0 {
                loaded = hooks::read()?;
            }
            module::unload_once()
                .map_err(|error| format!("cannot unload the module, cycle {cycle}: {error}"))?;
            pause(stay)?;
            if (cycle + 1) % STRETCH == 0 {
                progress = load.wait_for_more(&progress, PATIENCE)?;
                // The log keeps its latest lines only.
                note(&mut trouble, module::trouble_since(since));
            }
        }
        Ok(())
    };
    let phase = bench.phase(Work::Cycles, || at_real_time(once));
    let after = hooks::read()?;
    let done = load.progress();
    let ended = load.finish();
    let ((), span) = phase?;
    let plugged = hooks::replug_last_cpu(bench.cpus());
    note(&mut trouble, module::trouble_since(since));
    let check = match trouble.first() {
        Some(line) => Err(format!("the kernel complained: {line}")),
        None if after != before => Err(format!("left behind: {after:?}; it was {before:?}")),
        None => ended.and(plugged),
    };
    let detail = json!({
        "trouble": trouble,
        "load": done,
        "hooks": { "before": before, "loaded": loaded, "after": after },
    });
    Ok(Measured {
        detail: Some(detail),
        ..Measured::new(cycles, span).checked(check)
    })
}

/// Runs it on a thread that goes before the load: else it would wait for its turn most of the time.
fn at_real_time(once: impl FnOnce() -> Result<(), String> + Send) -> Result<(), String> {
    let run = || {
        cpu::become_real_time(PRIORITY)
            .map_err(|error| format!("cannot become real-time: {error}"))?;
        once()
    };
    let ended = thread::scope(|scope| scope.spawn(run).join());
    ended.unwrap_or_else(|_| Err("the thread that loads panicked".to_string()))
}

/// Adds the lines that are new.
fn note(all: &mut Vec<String>, lines: Vec<String>) {
    for line in lines {
        if !all.contains(&line) {
            all.push(line);
        }
    }
}

fn pause(duration: Duration) -> Result<(), String> {
    time::sleep(duration).map_err(|error| format!("pause: {error}"))
}
