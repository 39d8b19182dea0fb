//! What every work gets, and what every work gives back.

use crate::latency::{Latency, Moment, Samples, Span};
use crate::marks::Marks;
use crate::options::Options;
use crate::sys::alarm::Alarm;
use crate::sys::{cpu, time};
use coopvirt_spec::work::Work;
use serde_json::Value;
use std::io;
use std::path::Path;
use std::time::Duration;

/// What is counted at a mark and what is sampled around it agree only if nothing else happens right behind
/// it: CPU time is sampled every some ten milliseconds, and taken to grow evenly in between.
const LINGER: Duration = Duration::from_millis(120);
/// The time-out of one phase, at scale 1 and below; grows with the scale.
const PHASE_TIMEOUT_SECONDS: u64 = 60;
/// The same of works that test.
const TEST_TIMEOUT_SECONDS: u64 = 600;

/// Why a work has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It cannot be done here.
    #[error("{0}")]
    Skip(String),
    /// It went wrong.
    #[error("{0}")]
    Error(String),
}

impl From<String> for Failure {
    fn from(error: String) -> Self {
        Failure::Error(error)
    }
}

/// What a work did.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Operations done.
    pub(crate) ops: u64,
    /// From just before the begin mark until just behind the end mark.
    pub(crate) elapsed_ns: u64,
    /// Durations of single operations, where they mean something.
    pub(crate) latency: Option<Latency>,
    /// The work's own check of what it did.
    pub(crate) check: Result<(), String>,
    /// What a reader has to know beside that.
    pub(crate) note: Option<String>,
    /// Figures that only this work has.
    pub(crate) detail: Option<Value>,
}

impl Measured {
    /// The result of `ops` operations, before any check.
    pub(crate) fn new(ops: u64, span: Span) -> Measured {
        Measured {
            ops,
            elapsed_ns: span.ns,
            latency: None,
            check: Ok(()),
            note: None,
            detail: None,
        }
    }

    /// The same with the durations of single operations.
    pub(crate) fn with_samples(ops: u64, span: Span, samples: Samples) -> Measured {
        Measured {
            latency: samples.summarize(span),
            ..Measured::new(ops, span)
        }
    }

    /// The result of a work that went wrong.
    pub(crate) fn failed(error: String) -> Measured {
        Measured {
            check: Err(error),
            ..Measured::new(0, Span { ns: 0, ticks: 0 })
        }
    }

    /// Adds the outcome of the work's own check.
    pub(crate) fn checked(self, check: Result<(), String>) -> Measured {
        Measured { check, ..self }
    }
}

/// Settings, CPUs and marks, as works see them.
pub(crate) struct Bench<'a> {
    options: &'a Options,
    marks: &'a mut Marks,
    cpus: Vec<usize>,
}

impl<'a> Bench<'a> {
    /// `cpus` are those that works may use.
    pub(crate) fn new(options: &'a Options, marks: &'a mut Marks, cpus: Vec<usize>) -> Bench<'a> {
        Bench {
            options,
            marks,
            cpus,
        }
    }

    /// A number of operations at the scale asked for.
    pub(crate) fn scaled(&self, count: u64) -> u64 {
        self.options.scale.apply(count)
    }

    /// Whole seconds for a work that lasts.
    pub(crate) fn seconds(&self, at_scale_1: u64) -> u64 {
        let scaled = self.options.scale.apply(at_scale_1);
        self.options.seconds.unwrap_or(scaled)
    }

    /// How long `refill` waits at most for the host to take memory back; `None` for not at all.
    pub(crate) fn return_wait(&self) -> Option<Duration> {
        self.options.return_wait
    }

    /// The CPUs in ascending order.
    pub(crate) fn cpus(&self) -> &[usize] {
        &self.cpus
    }

    /// The most threads that `tlb` may spin.
    pub(crate) fn tlb_threads(&self) -> usize {
        self.options.tlb_threads.unwrap_or(usize::MAX)
    }

    /// Makes a point mark, outside of any phase.
    pub(crate) fn point(&mut self, work: Work) {
        self.marks.point(work);
    }

    /// How often the module is to come and go, if somebody has said.
    pub(crate) fn cycles(&self) -> Option<u64> {
        self.options.cycles
    }

    /// Parameters of the module where a work loads it itself.
    pub(crate) fn cycle_params(&self) -> &str {
        &self.options.cycle_params
    }

    /// The disk for the reads.
    pub(crate) fn disk(&self) -> &Path {
        &self.options.disk
    }

    /// Keeps this thread on one CPU until the guard is dropped.
    pub(crate) fn pin(&self, cpu: usize) -> Result<Pinned, Failure> {
        cpu::pin_to(&[cpu]).map_err(|error| format!("cannot pin to CPU {cpu}: {error}"))?;
        Ok(Pinned {
            back_to: self.cpus.clone(),
        })
    }

    /// Keeps this thread on the first CPU until the guard is dropped.
    pub(crate) fn pin_first(&self) -> Result<Pinned, Failure> {
        let first = self.cpus.first().copied();
        self.pin(first.ok_or_else(|| "no CPU to run on".to_string())?)
    }

    /// Lets the machine become quiet, then runs `body` between the marks of `work`, and lets it be quiet
    /// for a moment more.
    pub(crate) fn phase<T>(
        &mut self,
        work: Work,
        body: impl FnOnce() -> Result<T, String>,
    ) -> Result<(T, Span), Failure> {
        time::sleep(self.options.settle).map_err(|error| format!("cannot settle: {error}"))?;
        let _alarm = Alarm::arm(self.timeout(work));
        // The clock is read outside the marks, because reading it may cost exits.
        let start = Moment::now();
        let result = self.marks.phase(work, body);
        let span = start.elapsed();
        let linger = self.options.settle.min(LINGER);
        time::sleep(linger).map_err(|error| format!("cannot linger: {error}"))?;
        Ok((result?, span))
    }

    fn timeout(&self, work: Work) -> Duration {
        let at_scale_1 = match Work::TESTS.contains(&work) {
            true => TEST_TIMEOUT_SECONDS,
            false => PHASE_TIMEOUT_SECONDS,
        };
        let seconds = self.scaled(at_scale_1).max(at_scale_1);
        self.options.timeout.unwrap_or(Duration::from_secs(seconds))
    }
}

/// Says in a body what failed; an interrupted call means that the phase's time is over.
pub(crate) fn in_phase(what: &'static str) -> impl Fn(io::Error) -> String {
    move |error| match error.kind() {
        io::ErrorKind::Interrupted => format!("{what}: not done when the phase timed out"),
        _ => format!("{what}: {error}"),
    }
}

/// Gives a thread all its CPUs back when dropped.
#[derive(Debug)]
pub(crate) struct Pinned {
    back_to: Vec<usize>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // They were allowed before; if one has gone, the next work's own pinning says so.
        let _ = cpu::pin_to(&self.back_to);
    }
}
