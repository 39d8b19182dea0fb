//! `tlb`: `madvise(MADV_DONTNEED)` of one page while threads spin on the other CPUs. Operation:
//! one call.
//!
//! Costs a flush of the page's translation on every CPU that runs a thread of the process, and a
//! page fault inside the guest. The first touch after a call is a plain store: a read would map the
//! zero page first, whose replacement is a second flush. An atomic exchange is no way round that:
//! an emulator that runs one CPU at a time makes a load and a store of it, which fault one after the
//! other. So the store goes to another word than the one whose loss is checked.

use super::bench::{in_phase, Bench, Failure, Measured};
use crate::helper::{Helper, StopFlag};
use crate::latency::Samples;
use crate::sys::memory::Pages;
use coopvirt_spec::work::Work;
use std::hint::black_box;
use std::sync::atomic::{compiler_fence, AtomicBool, Ordering};
use std::sync::Arc;

/// At scale 1.
const CALLS: u64 = 200;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Measured, Failure> {
    let [here, others @ ..] = bench.cpus() else {
        return Err(Failure::Skip("needs a CPU".to_string()));
    };
    if others.is_empty() {
        return Err(Failure::Skip("needs two CPUs".to_string()));
    }
    let calls = bench.scaled(CALLS);
    let _pinned = bench.pin(*here)?;
    let mut samples = Samples::with_room(calls);
    let map = Pages::map_touched(1).map_err(|error| format!("cannot map a page: {error}"))?;
    let stop = StopFlag::default();
    let mut spinners = Vec::new();
    for &cpu in others.iter().take(bench.tlb_threads()) {
        let watched = stop.watch();
        spinners.push(Helper::start(cpu, move || spin(&watched))?);
    }
    let nr_spinners = spinners.len();

    let phase = bench.phase(Work::Tlb, || {
        for call in 0..calls {
            samples
                .time(|| map.discard(0, 1))
                .map_err(in_phase("madvise"))?;
            map.last_word(0).store(call + 1, Ordering::Relaxed);
            // Not before the store: the two are to different words, so the compiler may change
            // their order without this.
            compiler_fence(Ordering::SeqCst);
            let found = map.word(0).load(Ordering::Relaxed);
            map.word(0).store(call + 1, Ordering::Relaxed);
            if found != 0 {
                return Err(format!("the page held {found} after call {call}"));
            }
        }
        Ok(())
    });

    drop(stop);
    let ended = spinners.into_iter().try_for_each(Helper::finish);
    let ((), span) = phase?;
    let note = Some(format!("threads spinning: {nr_spinners}"));
    Ok(Measured {
        note,
        ..Measured::with_samples(calls, span, samples).checked(ended)
    })
}

/// Spins without PAUSE: a host may take a loop of them for a lock's and exit.
fn spin(stop: &Arc<AtomicBool>) -> Result<(), String> {
    let mut rounds = 0u64;
    while !stop.load(Ordering::Relaxed) {
        rounds = black_box(rounds.wrapping_add(1));
    }
    Ok(())
}
