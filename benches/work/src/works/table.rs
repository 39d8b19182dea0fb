//! Which function does which work.

use super::bench::{Bench, Failure, Measured};
use super::{
    busy, clock, cycles, cyclictest, fork, idle, pipe, read1, read32, readpoll, refill, sleep, tlb,
    touch, wakeup,
};
use coopvirt_spec::work::Work;

/// Does one work once.
pub(crate) fn run(work: Work, bench: &mut Bench<'_>) -> Result<Measured, Failure> {
    match work {
        Work::Boot => Err(Failure::Skip("boot is over when works start".to_string())),
        Work::Idle => idle::run(bench),
        Work::Busy => busy::run(bench),
        Work::Sleep => sleep::run(bench),
        Work::Pipe => pipe::run(bench),
        Work::Tlb => tlb::run(bench),
        Work::Touch => touch::run(bench),
        Work::Refill => refill::run(bench),
        Work::Fork => fork::run(bench),
        Work::Read1 => read1::run(bench),
        Work::Read32 => read32::run(bench),
        Work::Cycles => cycles::run(bench),
        Work::Wakeup => wakeup::run(bench),
        Work::Clock => clock::run(bench),
        Work::Cyclictest => cyclictest::run(bench),
        Work::Readpoll => readpoll::run(bench),
    }
}
