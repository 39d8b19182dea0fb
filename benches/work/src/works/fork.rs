//! `fork`: a child is made, exits at once and is waited for. Operation: one child.
//!
//! Costs page table copies, write protection with its flushes, and mostly a child that starts on
//! another CPU: this thread is not pinned. The check is the exit code, another one each time. What a child
//! costs depends on its parent, so the record's `detail` says how large that is and what both fault on.

use super::bench::{in_phase, Bench, Failure, Measured};
use crate::latency::Samples;
use crate::sys::process;
use coopvirt_spec::work::Work;
use serde_json::json;
use std::fs;

/// At scale 1: so many that some ticks fall into it.
const CHILDREN: u64 = 250;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Measured, Failure> {
    let children = bench.scaled(CHILDREN);
    let mut samples = Samples::with_room(children);
    let parent_pages = resident_pages();
    let before = process::page_faults().map_err(in_phase("count page faults"))?;
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
    let after = process::page_faults().map_err(in_phase("count page faults"))?;
    let detail = json!({
        "parent_pages": parent_pages,
        "parent_faults": after[0] - before[0],
        "child_faults": after[1] - before[1],
    });
    Ok(Measured {
        detail: Some(detail),
        ..Measured::with_samples(children, span, samples)
    })
}

/// Pages of this process that are in memory (`/proc/self/statm`); none where that cannot be read.
fn resident_pages() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    statm.split_whitespace().nth(1)?.parse().ok()
}

fn one_child(code: u8) -> Result<Option<i32>, String> {
    let pid = process::fork_exiting(code).map_err(in_phase("fork"))?;
    process::wait_for(pid).map_err(in_phase("wait for the child"))
}
