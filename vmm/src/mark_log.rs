//! What the VMM's own counters said at each mark of the guest.
//!
//! A mark is served by the vCPU thread that made it, before that vCPU runs on, so with one vCPU the
//! figures are exact; other vCPUs run on while theirs are read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coopvirt_spec::mark::Mark;

use crate::account::report::MarkCounters;
use crate::account::stats_fd::{Snapshot, StatsFd};
use crate::machine::Gauges;
use crate::vcpu::tally::{Kind, Tally};
use crate::vcpu::VcpuEvent;

/// Marks kept; a guest that makes more only loses these figures.
const MAX_ENTRIES: usize = 1024;
/// Kinds of return kept at one mark, the most frequent ones: the guest chooses how many there are.
const MAX_KINDS: usize = 64;

/// The counters at one mark, summed over vCPUs.
#[derive(Clone, Debug)]
pub struct MarkEntry {
    /// Which vCPU made it.
    pub vcpu: u8,
    /// The mark.
    pub mark: Mark,
    /// KVM's statistics.
    pub stats: Snapshot,
    /// Returns to userspace by kind, the mark's own included; the most frequent kinds.
    pub returns: BTreeMap<Kind, u64>,
    /// All returns to userspace.
    pub total_returns: u64,
}

/// Collects [`MarkEntry`]s.
pub struct MarkLog {
    tallies: Arc<Vec<Arc<Tally>>>,
    stats: Arc<Vec<StatsFd>>,
    entries: Mutex<Vec<MarkEntry>>,
}

impl MarkLog {
    /// A log of the machine that these gauges belong to.
    pub fn new(gauges: &Gauges) -> Self {
        let (tallies, stats) = (Arc::clone(&gauges.tallies), Arc::clone(&gauges.stats));
        Self {
            tallies,
            stats,
            entries: Mutex::new(Vec::new()),
        }
    }

    /// All entries so far, for a report.
    pub fn counters(&self) -> Vec<MarkCounters> {
        let counters = |entry: MarkEntry| MarkCounters {
            mark: entry.mark.encode(),
            vcpu: entry.vcpu,
            stats: entry.stats,
            returns: entry.total_returns,
        };
        self.entries().into_iter().map(counters).collect()
    }

    /// All entries so far, in the order of the marks.
    pub fn entries(&self) -> Vec<MarkEntry> {
        self.lock().clone()
    }

    fn is_full(&self) -> bool {
        self.lock().len() >= MAX_ENTRIES
    }

    fn lock(&self) -> MutexGuard<'_, Vec<MarkEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// KVM's statistics summed over vCPUs; what cannot be read is left out.
pub fn sum_stats(stats: &[StatsFd]) -> Snapshot {
    let mut sum = Snapshot::default();
    for snapshot in stats.iter().filter_map(|stats| stats.read().ok()) {
        for (name, value) in snapshot.values {
            *sum.values.entry(name).or_default() += value;
        }
    }
    sum
}

/// Returns to userspace by kind, summed over vCPUs.
pub fn sum_returns(tallies: &[Arc<Tally>]) -> BTreeMap<Kind, u64> {
    let mut sum = BTreeMap::new();
    for (kind, count) in tallies.iter().flat_map(|tally| tally.kinds()) {
        *sum.entry(kind).or_default() += count;
    }
    sum
}

fn most_frequent(mut returns: BTreeMap<Kind, u64>) -> BTreeMap<Kind, u64> {
    if returns.len() > MAX_KINDS {
        let mut counts: Vec<u64> = returns.values().copied().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let least = counts[MAX_KINDS - 1];
        returns.retain(|_, count| *count >= least);
        while returns.len() > MAX_KINDS {
            returns.pop_last();
        }
    }
    returns
}

impl VcpuEvent for MarkLog {
    fn mark(&self, vcpu: u8, mark: Mark) {
        // Looked at first: a guest may set marks for ever, and a thread that polls for all may serve them.
        if self.is_full() {
            return;
        }
        let stats = sum_stats(&self.stats);
        let returns = most_frequent(sum_returns(&self.tallies));
        let total_returns = self.tallies.iter().map(|tally| tally.total()).sum();
        let mut entries = self.lock();
        if entries.len() < MAX_ENTRIES {
            entries.push(MarkEntry {
                vcpu,
                mark,
                stats,
                returns,
                total_returns,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_make_a_mark_expensive() {
        let many: BTreeMap<Kind, u64> = (0..4096)
            .map(|gpa| (Kind::MmioRead(gpa), gpa % 7))
            .collect();
        let kept = most_frequent(many);
        assert_eq!(kept.len(), MAX_KINDS);
        assert!(kept.values().all(|count| *count == 6));
    }
}
