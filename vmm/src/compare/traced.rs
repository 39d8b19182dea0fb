//! Counts a child with the kernel's tracepoints, as [`crate::account`] does it: the [`TraceSource`]
//! of real comparisons. Without tracepoints it is [`super::degraded`]. Used by [`super::session`].

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::launch::{RunningTrace, TraceSource};
use crate::account::model::Trace;
use crate::account::names::{LateNames, NameOf, NameTable};
use crate::account::trace::decode::Detail;
use crate::account::tracer::{Tracer, TracerOptions};

/// CPU time is read at each drain: the shorter the interval, the shorter the works whose CPU time
/// is known.
const DRAIN_EVERY: Duration = Duration::from_millis(10);

/// How much is counted of each run; each level costs more than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Numbers of exits only, from KVM's own statistics at each mark: no tracepoints, our VMM only
    None,
    /// Each exit with its reason, cause and place
    #[default]
    Causes,
    /// Also how long each exit took, and the time spent in the guest
    Durations,
}

impl Level {
    /// The name on command lines and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Level::None => "none",
            Level::Causes => "causes",
            Level::Durations => "durations",
        }
    }

    /// What the tracepoints are to tell; `None`: they are not asked.
    pub const fn of_trace(self) -> Option<Detail> {
        match self {
            Level::None => None,
            Level::Causes => Some(Detail::Causes),
            Level::Durations => Some(Detail::Durations),
        }
    }
}

/// Makes a tracer for each run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracepoints(pub Detail);

impl TraceSource for Tracepoints {
    fn start(&self, pid: u32) -> Result<Box<dyn RunningTrace>> {
        let names = Arc::new(LateNames::default());
        let tracer = Tracer::start(TracerOptions {
            drain_every: DRAIN_EVERY,
            names: Arc::clone(&names) as Arc<dyn NameOf>,
            detail: self.0,
            ..TracerOptions::default()
        })?;
        tracer.target(pid);
        Ok(Box::new(Running { tracer, names }))
    }
}

struct Running {
    tracer: Tracer,
    names: Arc<LateNames>,
}

impl RunningTrace for Running {
    fn finish(self: Box<Self>, exits: Option<&[u8]>) -> Result<Trace> {
        // A VMM that ended early wrote no names: then addresses stay without.
        let said = exits.and_then(|bytes| serde_json::from_slice::<Said>(bytes).ok());
        if let Some(names) = said.and_then(|said| said.names) {
            self.names.set(names);
        }
        Ok(self.tracer.finish()?)
    }
}

/// What is needed of the exit report that our VMM writes.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    names: Option<NameTable>,
}
