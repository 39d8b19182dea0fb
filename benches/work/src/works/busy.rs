//! `busy`: one thread computes on the last CPU. Operation: one second.
//!
//! Costs the guest's tick on a CPU that never rests. The thread runs a linear congruential
//! generator and looks at the time stamp counter about once per millisecond: a look at the clock
//! may be an exit. The check jumps over all steps at once and has to arrive at the same state.

use super::bench::{Bench, Failure, Measured};
use crate::latency::{Moment, Span};
use crate::sys::alarm::Alarm;
use crate::sys::time::read_tsc;
use coopvirt_spec::work::Work;
use std::hint::black_box;

/// At scale 1; always whole seconds, at least one.
const SECONDS: u64 = 2;
/// How long calibration runs before it trusts its rate.
const CALIBRATION_NS: u64 = 20_000_000;
const LOOK_EVERY_NS: u64 = 1_000_000;

const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
const INCREMENT: u64 = 1_442_695_040_888_963_407;
const SEED: u64 = 0x0c00_9017;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Measured, Failure> {
    let seconds = bench.seconds(SECONDS);
    let last = bench
        .cpus()
        .last()
        .copied()
        .ok_or_else(|| "no CPU to run on".to_string())?;
    let _pinned = bench.pin(last)?;
    let (steps_per_look, rate) = calibrate()?;
    let ticks = rate.ns_as_ticks(seconds.saturating_mul(1_000_000_000));

    let ((state, looks), span) =
        bench.phase(Work::Busy, || compute(SEED, steps_per_look, ticks))?;

    let expected = jump(SEED, steps_per_look.wrapping_mul(looks));
    let check = if state != expected {
        Err(format!(
            "computed {state:#x} instead of {expected:#x} in {looks} rounds"
        ))
    } else if span.ns < seconds.saturating_mul(900_000_000) {
        Err(format!(
            "the counter says {seconds} s, but the clock says {} ns",
            span.ns
        ))
    } else {
        Ok(())
    };
    Ok(Measured::new(seconds, span).checked(check))
}

/// Finds how many steps take a millisecond, and how fast the counter runs.
fn calibrate() -> Result<(u64, Span), String> {
    let mut steps = 100_000u64;
    loop {
        let start = Moment::now();
        black_box(step(SEED, steps));
        let span = start.elapsed();
        if span.ns >= CALIBRATION_NS {
            if span.ticks == 0 {
                return Err("the time stamp counter stands still".to_string());
            }
            let per_look = u128::from(steps) * u128::from(LOOK_EVERY_NS) / u128::from(span.ns);
            return Ok((u64::try_from(per_look).unwrap_or(u64::MAX).max(1), span));
        }
        // Ends even if the clock stands still, which nothing else here could survive.
        steps = steps
            .checked_mul(2)
            .ok_or_else(|| "the clock stands still".to_string())?;
    }
}

/// Runs for `ticks`; returns the last state and how often it looked at the counter.
fn compute(seed: u64, steps_per_look: u64, ticks: u64) -> Result<(u64, u64), String> {
    let start = read_tsc();
    let mut state = seed;
    let mut looks = 0;
    while read_tsc().saturating_sub(start) < ticks {
        state = step(state, steps_per_look);
        looks += 1;
        if Alarm::has_expired() {
            return Err("compute: not done when the phase timed out".to_string());
        }
    }
    Ok((state, looks))
}

#[inline(never)]
fn step(mut state: u64, steps: u64) -> u64 {
    for _ in 0..steps {
        state = state.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
    }
    black_box(state)
}

/// Does `steps` steps in the time of their logarithm, by squaring the step.
fn jump(state: u64, mut steps: u64) -> u64 {
    let (mut multiplier, mut increment) = (MULTIPLIER, INCREMENT);
    let mut state = state;
    while steps != 0 {
        if steps & 1 == 1 {
            state = state.wrapping_mul(multiplier).wrapping_add(increment);
        }
        increment = increment.wrapping_mul(multiplier.wrapping_add(1));
        multiplier = multiplier.wrapping_mul(multiplier);
        steps >>= 1;
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_arrives_where_the_steps_do() {
        for steps in [0, 1, 2, 3, 64, 1000, 65_537] {
            assert_eq!(jump(SEED, steps), step(SEED, steps), "{steps}");
        }
    }

    #[test]
    fn computing_ends_at_its_deadline_with_whole_rounds() {
        let (state, looks) = compute(SEED, 100, 1_000_000).unwrap();
        assert!(looks > 0);
        assert_eq!(state, jump(SEED, 100 * looks));
    }
}
