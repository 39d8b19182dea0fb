//! What the VMM's own counters said at each mark of the guest.
//!
//! A mark is served by the vCPU thread that made it, before that vCPU runs on, so with one vCPU the
//! figures are exact; other vCPUs run on while theirs are read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use coopvirt_spec::mark::Mark;

use crate::account::stats_fd::{Snapshot, StatsFd};
use crate::machine::Gauges;
use crate::vcpu::tally::{Kind, Tally};
use crate::vcpu::VcpuEvent;

/// Marks kept; a guest that makes more only loses these figures.
const MAX_ENTRIES: usize = 4096;

/// The counters at one mark, summed over vCPUs.
#[derive(Clone, Debug)]
pub struct MarkEntry {
    /// Which vCPU made it.
    pub vcpu: u8,
    /// The mark.
    pub mark: Mark,
    /// KVM's statistics.
    pub stats: Snapshot,
    /// Returns to userspace by kind, the mark's own included.
    pub returns: BTreeMap<Kind, u64>,
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

    /// All entries so far, in the order of the marks.
    pub fn entries(&self) -> Vec<MarkEntry> {
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
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

impl VcpuEvent for MarkLog {
    fn mark(&self, vcpu: u8, mark: Mark) {
        let stats = sum_stats(&self.stats);
        let returns = sum_returns(&self.tallies);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() < MAX_ENTRIES {
            entries.push(MarkEntry {
                vcpu,
                mark,
                stats,
                returns,
            });
        }
    }
}
