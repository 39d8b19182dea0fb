//! `sleep`: one thread sleeps 1 ms at a time. Operation: one sleep.
//!
//! Costs a timer that is armed, a CPU that goes idle, and an interrupt that wakes it. The timer
//! slack stays at the kernel's default. Latency is the whole sleep with its delay.

use super::bench::{in_phase, Bench, Failure, Measured};
use crate::latency::Samples;
use crate::sys::time;
use coopvirt_spec::work::Work;
use std::time::Duration;

/// At scale 1.
const SLEEPS: u64 = 200;
const SLEEP: Duration = Duration::from_millis(1);

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Measured, Failure> {
    let sleeps = bench.scaled(SLEEPS);
    let _pinned = bench.pin_first()?;
    let mut samples = Samples::with_room(sleeps);
    let ((), span) = bench.phase(Work::Sleep, || {
        for _ in 0..sleeps {
            samples
                .time(|| time::sleep(SLEEP))
                .map_err(in_phase("sleep"))?;
        }
        Ok(())
    })?;
    let check = if u128::from(span.ns) >= SLEEP.as_nanos() * u128::from(sleeps) {
        Ok(())
    } else {
        Err(format!(
            "{sleeps} sleeps of {SLEEP:?} took only {} ns",
            span.ns
        ))
    };
    Ok(Measured::with_samples(sleeps, span, samples).checked(check))
}
