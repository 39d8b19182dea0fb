//! Counting without tracepoints: what KVM's statistics said at the guest's marks, as phases.
//!
//! For users who may open /dev/kvm but not trace, and for comparisons that want no more. Only our VMM
//! reads these statistics, so a peer is then a gap. What is lost is said in [`LOST`]. Called by
//! [`super::session`].

use anyhow::Result;
use coopvirt_spec::mark::{Mark, MarkKind};
use serde::Deserialize;

use super::launch::{RunningTrace, TraceSource};
use crate::account::model::{Counts, Phase, Trace};
use crate::account::report::MarkCounters;

/// What a reader must do without.
pub const LOST: &str = "exits are counted by KVM's statistics at the guest's marks: no reasons, no causes, \
     no CPU time, no wall time of boots, the host's own tick cannot be told (net exits), and other vCPUs run \
     on while the statistics are read";

/// Counts by the exit report of our VMM.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Why there are no tracepoints, if they were wished for.
    pub missing: Option<String>,
}

impl TraceSource for Statistics {
    fn start(&self, _: u32) -> Result<Box<dyn RunningTrace>> {
        Ok(Box::new(AtMarks {
            missing: self.missing.clone(),
        }))
    }

    fn missing(&self) -> Option<String> {
        self.missing.clone()
    }
}

/// There is nothing to do before the VMM has written its report.
struct AtMarks {
    missing: Option<String>,
}

/// What is needed of the exit report that our VMM writes.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    marks: Vec<MarkCounters>,
}

impl RunningTrace for AtMarks {
    fn finish(self: Box<Self>, exits: Option<&[u8]>) -> Result<Trace> {
        // A VMM that ended early has written none, or half of it. What became of the run is said by its
        // end and by the works of which no mark was seen.
        let said = exits.and_then(|bytes| serde_json::from_slice::<Said>(bytes).ok());
        let missing = self.missing;
        Ok(Trace {
            phases: phases(&said.unwrap_or_default().marks),
            host_tick_unknown: missing.or(Some("no tracepoints were asked for".into())),
            is_untraced: true,
            ..Trace::default()
        })
    }
}

/// The phases between marks; a point mark's phase begins with the machine. A mark's own exit is in
/// none, as with the tracer.
fn phases(marks: &[MarkCounters]) -> Vec<Phase> {
    let mut phases = Vec::new();
    let mut open: Vec<(Mark, &MarkCounters)> = Vec::new();
    for entry in marks {
        let Some(mark) = Mark::decode(entry.mark) else {
            continue;
        };
        match mark.kind {
            MarkKind::Begin => {
                // A work that begins again has not ended: its first begin counts for nothing.
                open.retain(|(begun, _)| begun.work != mark.work);
                open.push((mark, entry));
            }
            MarkKind::Point => phases.extend(phase(mark, None, entry)),
            MarkKind::End => {
                let is_its =
                    |(begun, _): &(Mark, _)| (begun.work, begun.seq) == (mark.work, mark.seq);
                if let Some(at) = open.iter().position(is_its) {
                    let (_, begin) = open.swap_remove(at);
                    phases.extend(phase(mark, Some(begin), entry));
                }
            }
        }
    }
    phases
}

fn phase(mark: Mark, begin: Option<&MarkCounters>, end: &MarkCounters) -> Option<Phase> {
    let (exits, returns) = match begin {
        Some(begin) => (begin.stats.exits()?, begin.returns),
        None => (0, 0),
    };
    // One less on either side: the end mark's own.
    let total = end.stats.exits()?.checked_sub(exits)?.saturating_sub(1);
    let userspace = end.returns.checked_sub(returns)?.saturating_sub(1);
    Some(Phase {
        work: mark.work,
        seq: mark.seq,
        elapsed_ns: 0,
        cpu_ns: 0,
        cpu_by_thread_ns: Default::default(),
        counts: Counts {
            total,
            userspace,
            host_tick_unknown: true,
            unexplained: total,
            ..Counts::default()
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::stats_fd::Snapshot;

    fn entry(kind: MarkKind, work: u8, seq: u16, exits: u64, returns: u64) -> MarkCounters {
        MarkCounters {
            mark: Mark { kind, work, seq }.encode(),
            vcpu: 0,
            stats: Snapshot {
                values: [("exits".to_string(), exits)].into(),
            },
            returns,
        }
    }

    #[test]
    fn phases_are_what_lies_between_marks() {
        let marks = [
            entry(MarkKind::Point, 1, 0, 1001, 501),
            entry(MarkKind::Begin, 4, 1, 1100, 510),
            entry(MarkKind::Begin, 5, 2, 1200, 520),
            entry(MarkKind::End, 4, 1, 1301, 531),
            // Of another repetition: it belongs to none.
            entry(MarkKind::End, 5, 3, 1400, 540),
        ];
        let phases = phases(&marks);
        let figures: Vec<_> = phases
            .iter()
            .map(|phase| (phase.work, phase.counts.total, phase.counts.userspace))
            .collect();
        assert_eq!(figures, [(1, 1000, 500), (4, 200, 20)]);
        assert_eq!(phases[0].counts.net_if_known(), None);
        assert_eq!(phases[0].counts.explained_percent(), Some(0.0));
    }

    #[test]
    fn a_report_that_is_missing_or_cut_off_gives_no_phase() {
        let source = Statistics {
            missing: Some("not allowed".into()),
        };
        assert_eq!(source.missing().as_deref(), Some("not allowed"));
        for exits in [None, Some(&b""[..]), Some(b"{\"marks\":[{")] {
            let trace = source.start(1).unwrap().finish(exits).unwrap();
            assert!(trace.is_untraced && trace.phases.is_empty());
            assert_eq!(trace.host_tick_unknown.as_deref(), Some("not allowed"));
        }
    }

    #[test]
    fn hostile_marks_give_nothing() {
        let mut broken = entry(MarkKind::End, 4, 1, 0, 0);
        broken.mark = 0xff00_0000;
        let backwards = [
            entry(MarkKind::Begin, 4, 1, 100, 10),
            entry(MarkKind::End, 4, 1, 50, 5),
            broken,
        ];
        assert_eq!(phases(&backwards), []);
    }
}
