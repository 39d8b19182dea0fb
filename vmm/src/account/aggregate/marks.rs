//! Cuts the running counts at the guest's marks (`[MARK-3]`).

use std::collections::{BTreeMap, VecDeque};

use coopvirt_spec::mark::{Mark, MarkKind};
use coopvirt_spec::work::Work;

use super::tally::Tally;
use crate::account::threads::Times;

/// Begins that a guest may leave open; the oldest is dropped for a new one.
const MAX_OPEN: usize = 64;
/// Phases that are kept.
const MAX_PHASES: usize = 1024;
/// Of these, phases of one work: a module that is loaded a thousand times leaves room for what is measured behind that.
const MAX_PHASES_OF_ONE: usize = 512;

/// The state of the VM at a moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Moment {
    pub(super) time_ns: u64,
    pub(super) cpu_ns: u64,
    pub(super) thread_ns: Times,
    pub(super) tally: Tally,
}

/// A finished phase, names not yet looked up.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    pub(super) work: u8,
    pub(super) seq: u16,
    pub(super) elapsed_ns: u64,
    pub(super) cpu_ns: u64,
    pub(super) thread_ns: Times,
    pub(super) tally: Tally,
}

/// Open begins and finished phases.
#[derive(Debug, Default)]
pub(super) struct Marks {
    open: BTreeMap<(u8, u16), Moment>,
    /// Order of the begins, for dropping the oldest.
    order: VecDeque<(u8, u16)>,
    pub(super) cuts: Vec<Cut>,
    /// Phases by work, also those that are not kept.
    of_each: BTreeMap<u8, usize>,
    pub(super) dropped: u64,
}

impl Marks {
    /// Takes a mark seen at `now`; `start` is the VM's first exit.
    pub(super) fn take(&mut self, mark: Mark, now: Moment, start: &Moment) {
        let key = (mark.work, mark.seq);
        match mark.kind {
            MarkKind::Begin => self.begin(key, now),
            MarkKind::Point => self.cut(key, &now, start),
            MarkKind::End => match self.open.remove(&key) {
                Some(begin) => {
                    self.order.retain(|open| *open != key);
                    self.cut(key, &now, &begin);
                }
                // Booting has no place for a begin mark: it begins with the VM.
                None if mark.work == Work::Boot.code() => self.cut(key, &now, start),
                None => self.dropped += 1,
            },
        }
    }

    fn begin(&mut self, key: (u8, u16), now: Moment) {
        if self.open.insert(key, now).is_some() {
            // The same begin again: the later one counts, the earlier gave no phase.
            self.order.retain(|open| *open != key);
            self.dropped += 1;
        }
        self.order.push_back(key);
        if self.order.len() > MAX_OPEN {
            if let Some(oldest) = self.order.pop_front() {
                self.open.remove(&oldest);
                self.dropped += 1;
            }
        }
    }

    fn cut(&mut self, (work, seq): (u8, u16), end: &Moment, begin: &Moment) {
        let of_this = self.of_each.entry(work).or_insert(0);
        *of_this += 1;
        if self.cuts.len() >= MAX_PHASES || *of_this > MAX_PHASES_OF_ONE {
            self.dropped += 1;
            return;
        }
        let mut thread_ns = end.thread_ns;
        for (ns, before) in thread_ns.iter_mut().zip(begin.thread_ns) {
            *ns = ns.saturating_sub(before);
        }
        self.cuts.push(Cut {
            work,
            seq,
            elapsed_ns: end.time_ns.saturating_sub(begin.time_ns),
            cpu_ns: end.cpu_ns.saturating_sub(begin.cpu_ns),
            thread_ns,
            tally: end.tally.since(&begin.tally),
        });
    }
}
