//! `fork`: a child is made, exits at once and is waited for. Operation: one child.
//!
//! Costs page table copies, write protection with its flushes, and mostly a child that starts on
//! another CPU: this thread is not pinned. The check is the exit code, another one each time.

use super::bench::{in_phase, Bench, Failure, Measured};
use crate::latency::Samples;
use crate::sys::process;
use coopvirt_spec::work::Work;

/// At scale 1: so many that some ticks fall into it.
const CHILDREN: u64 = 250;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Measured, Failure> {
    let children = bench.scaled(CHILDREN);
    let mut samples = Samples::with_room(children);
    let ((), span) = bench.phase(Work::Fork, || {
        (0..=u8::MAX)
            .cycle()
            .zip(0..children)
            .try_for_each(|(code, _)| {
                let got = samples.time(|| one_child(code))?;
                if got != Some(i32::from(code)) {
                    return Err(format!("exit code {got:?} instead of {code}"));
                }
                Ok(())
            })
    })?;
    Ok(Measured::with_samples(children, span, samples))
}

fn one_child(code: u8) -> Result<Option<i32>, String> {
    let pid = process::fork_exiting(code).map_err(in_phase("fork"))?;
    process::wait_for(pid).map_err(in_phase("wait for the child"))
}
