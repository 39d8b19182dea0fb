//! The works (`[WORK-1]`): one file each, all of the same shape.
//!
//! `run` of a work prepares everything, hands its body to [`Bench::phase`], which settles and
//! makes the marks, then checks what the body did. Only the body is measured, so only the body has
//! to be careful. `bench` is what works get, `table` finds a work by its name.

mod bench;
mod busy;
mod clock;
mod cycles;
mod cyclictest;
mod disk;
mod fork;
mod idle;
mod load;
mod pipe;
mod read1;
mod read32;
mod readpoll;
mod refill;
mod sleep;
mod table;
mod tlb;
mod touch;
mod wakeup;

pub(crate) use bench::{Bench, Failure, Measured};
pub(crate) use table::run;
