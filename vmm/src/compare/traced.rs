//! Counts a child with the kernel's tracepoints: the [`TraceSource`] of real comparisons.
//!
//! Used by [`super::session`]; everything that counts is in [`crate::account`].

use std::time::Duration;

use anyhow::Result;

use super::launch::{RunningTrace, TraceSource};
use crate::account::model::Trace;
use crate::account::tracer::{Tracer, TracerOptions};

/// CPU time is read at each drain: the shorter the interval, the shorter the works whose CPU time
/// is known.
const DRAIN_EVERY: Duration = Duration::from_millis(10);

/// Makes a tracer for each run.
#[derive(Clone, Copy, Debug)]
pub struct Tracepoints;

impl TraceSource for Tracepoints {
    fn start(&self, pid: u32) -> Result<Box<dyn RunningTrace>> {
        let tracer = Tracer::start(TracerOptions {
            drain_every: DRAIN_EVERY,
            ..TracerOptions::default()
        })?;
        tracer.target(pid);
        Ok(Box::new(Running(tracer)))
    }
}

struct Running(Tracer);

impl RunningTrace for Running {
    fn finish(self: Box<Self>) -> Result<Trace> {
        Ok(self.0.finish()?)
    }
}
