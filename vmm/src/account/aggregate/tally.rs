//! Running counts, cheap to add to, to copy at a mark and to subtract.

use std::collections::BTreeMap;

use super::cause::Cause;
use crate::account::model::Counts;
use crate::account::names::NameOf;
use crate::account::reason::Reason;

/// A guest chooses ports, MSRs and addresses: more different causes than this count as "other".
const MAX_CAUSES: usize = 1024;

/// Counts of exits by reason and cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) total: u64,
    pub(super) userspace: u64,
    exits: BTreeMap<(Reason, Cause), u64>,
}

impl Tally {
    /// Counts one exit.
    pub(super) fn add(&mut self, reason: Reason, cause: Cause) {
        self.total += 1;
        let is_new = !self.exits.contains_key(&(reason, cause));
        let is_full = self.exits.len() >= MAX_CAUSES;
        let is_open_ended = !matches!(cause, Cause::Plain | Cause::HostTick | Cause::GuestTimer);
        let cause = if is_new && is_full && is_open_ended {
            Cause::Other
        } else {
            cause
        };
        *self.exits.entry((reason, cause)).or_insert(0) += 1;
    }

    /// What was counted since `earlier`, a copy of this tally.
    pub(super) fn since(&self, earlier: &Tally) -> Tally {
        let mut exits = BTreeMap::new();
        for (key, count) in &self.exits {
            let more = count - earlier.exits.get(key).copied().unwrap_or(0).min(*count);
            if more > 0 {
                exits.insert(*key, more);
            }
        }
        Tally {
            total: self.total.saturating_sub(earlier.total),
            userspace: self.userspace.saturating_sub(earlier.userspace),
            exits,
        }
    }

    /// Both together.
    pub(super) fn plus(&self, other: &Tally) -> Tally {
        let mut sum = self.clone();
        sum.total += other.total;
        sum.userspace += other.userspace;
        for (key, count) in &other.exits {
            *sum.exits.entry(*key).or_insert(0) += count;
        }
        sum
    }

    /// The counts with names.
    pub(super) fn to_counts(&self, names: &dyn NameOf, is_tick_known: bool) -> Counts {
        let mut counts = Counts {
            total: self.total,
            userspace: self.userspace,
            host_tick_unknown: !is_tick_known,
            ..Counts::default()
        };
        for ((reason, cause), count) in &self.exits {
            *counts
                .by_reason
                .entry(reason.name().into_owned())
                .or_insert(0) += count;
            if *cause == Cause::HostTick {
                counts.host_tick += count;
            }
            if let Some(label) = cause.label(*reason, names) {
                *counts.by_cause.entry(label).or_insert(0) += count;
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::names::PcNames;
    use crate::account::reason::Isa;

    #[test]
    fn too_many_causes_count_as_other_and_the_sum_stays_right() {
        let npf = Reason::new(Isa::Svm, 0x400);
        let mut tally = Tally::default();
        for page in 0..10_000u64 {
            tally.add(npf, Cause::Mmio { gpa: page << 12 });
        }
        assert!(tally.exits.len() <= MAX_CAUSES + 1);
        let counts = tally.to_counts(&PcNames, true);
        assert_eq!(counts.by_reason["NPF"], 10_000);
        assert_eq!(counts.by_cause.values().sum::<u64>(), 10_000);
        assert_eq!(counts.by_cause["NPF other"], 10_000 - MAX_CAUSES as u64);
    }
}
