//! `idle`: nobody has anything to do. Operation: one second.
//!
//! Costs whatever the guest's kernel does by itself, and one timer for the end.

use super::bench::{in_phase, Bench, Failure, Measured};
use crate::sys::time;
use coopvirt_spec::work::Work;
use std::time::Duration;

/// At scale 1; always whole seconds, at least one.
const SECONDS: u64 = 2;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Measured, Failure> {
    let seconds = bench.seconds(SECONDS);
    let duration = Duration::from_secs(seconds);
    let ((), span) = bench.phase(Work::Idle, || {
        time::sleep(duration).map_err(in_phase("sleep"))
    })?;
    let check = if Duration::from_nanos(span.ns) >= duration {
        Ok(())
    } else {
        Err(format!("{duration:?} of sleep took only {} ns", span.ns))
    };
    Ok(Measured::new(seconds, span).checked(check))
}
