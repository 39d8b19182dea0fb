//! Counts a child: the [`TraceSource`] of real comparisons, at each level of detail.
//!
//! With the kernel's tracepoints, as [`crate::account`] does it, or from what our VMM has read of
//! KVM's statistics at each mark. Used by [`super::session`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use coopvirt_spec::mark::{Mark, MarkKind};
use serde::{Deserialize, Serialize};

use super::launch::{RunningTrace, TraceSource};
use crate::account::model::{Counts, Phase, Trace};
use crate::account::names::{LateNames, NameOf, NameTable};
use crate::account::report::MarkCounters;
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
}

/// Makes a tracer for each run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracepoints(pub Level);

impl TraceSource for Tracepoints {
    fn start(&self, pid: u32) -> Result<Box<dyn RunningTrace>> {
        let detail = match self.0 {
            Level::None => return Ok(Box::new(Untraced)),
            Level::Causes => Detail::Causes,
            Level::Durations => Detail::Durations,
        };
        let names = Arc::new(LateNames::default());
        let tracer = Tracer::start(TracerOptions {
            drain_every: DRAIN_EVERY,
            names: Arc::clone(&names) as Arc<dyn NameOf>,
            detail,
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
    marks: Vec<MarkCounters>,
}

/// No tracepoints: what our VMM says is all there is.
struct Untraced;

impl RunningTrace for Untraced {
    fn finish(self: Box<Self>, exits: Option<&[u8]>) -> Result<Trace> {
        let Some(bytes) = exits else {
            // The run has failed in a way that its messages say; there is nothing to count.
            return Ok(Trace {
                is_untraced: true,
                ..Trace::default()
            });
        };
        let said: Said =
            serde_json::from_slice(bytes).context("the VMM's exit report is no such")?;
        Ok(Trace {
            phases: phases(&said.marks),
            host_tick_unknown: Some("no tracepoints were asked for".into()),
            is_untraced: true,
            ..Trace::default()
        })
    }
}

/// The phases between marks, without times: a report of marks has none.
fn phases(marks: &[MarkCounters]) -> Vec<Phase> {
    let mut open = BTreeMap::new();
    let mut phases = Vec::new();
    for counters in marks {
        let Some(mark) = Mark::decode(counters.mark) else {
            continue;
        };
        let now = (counters.stats.exits().unwrap_or(0), counters.returns);
        let key = (mark.work, mark.seq);
        // Each pair of counters holds its own mark's exit and return already.
        let begin = match mark.kind {
            MarkKind::Begin => {
                open.insert(key, now);
                continue;
            }
            MarkKind::End => match open.remove(&key) {
                Some(begin) => begin,
                None => continue,
            },
            MarkKind::Point => (0, 0),
        };
        let less = |later: u64, earlier: u64| later.saturating_sub(earlier).saturating_sub(1);
        let total = less(now.0, begin.0);
        phases.push(Phase {
            work: mark.work,
            seq: mark.seq,
            counts: Counts {
                total,
                userspace: less(now.1, begin.1),
                host_tick_unknown: true,
                unexplained: total,
                ..Counts::default()
            },
            ..Phase::default()
        });
    }
    phases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::stats_fd::Snapshot;

    fn counters(kind: MarkKind, work: u8, exits: u64, returns: u64) -> MarkCounters {
        MarkCounters {
            mark: Mark { kind, work, seq: 0 }.encode(),
            vcpu: 0,
            stats: Snapshot {
                values: [("exits".to_string(), exits)].into(),
            },
            returns,
        }
    }

    #[test]
    fn statistics_at_marks_give_phases_without_the_marks_own_exits() {
        let phases = phases(&[
            counters(MarkKind::Point, 1, 101, 11),
            counters(MarkKind::Begin, 3, 200, 20),
            counters(MarkKind::End, 3, 231, 25),
            counters(MarkKind::End, 4, 300, 30),
        ]);
        assert_eq!(phases.len(), 2);
        assert_eq!(
            (phases[0].counts.total, phases[0].counts.userspace),
            (100, 10)
        );
        assert_eq!(
            (phases[1].counts.total, phases[1].counts.userspace),
            (30, 4)
        );
        assert_eq!(phases[1].counts.net_if_known(), None);
        assert_eq!(phases[1].counts.explained_percent(), Some(0.0));
    }
}
