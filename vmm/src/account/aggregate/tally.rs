//! Running counts, cheap to add to, to copy at a mark and to subtract.

use std::collections::BTreeMap;

use super::cause::Cause;
use crate::account::durations::Durations;
use crate::account::model::Counts;
use crate::account::names::NameOf;
use crate::account::reason::{Class, Reason};

/// A guest chooses ports, MSRs and addresses: more different causes than this count as "other".
const MAX_CAUSES: usize = 1024;
/// And its instruction pointers: exits at more different places than this are at none.
const MAX_PLACES: usize = 512;
/// So many places are told, those with the most exits.
const MAX_PLACES_TOLD: usize = 16;
/// Reasons with durations; the hardware has less than this.
const MAX_REASONS: usize = 256;

/// Counts of exits by reason and cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) total: u64,
    pub(super) userspace: u64,
    /// Time that vCPUs spent in the guest, where that is traced.
    pub(super) guest_ns: u64,
    exits: BTreeMap<(Reason, Cause), u64>,
    /// By reason and the guest's instruction pointer.
    places: BTreeMap<(Reason, u64), u64>,
    durations: BTreeMap<Reason, Durations>,
}

/// One exit, as it is counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    pub(super) reason: Reason,
    pub(super) cause: Cause,
    /// Where the guest was, if it was the instruction there that caused the exit.
    pub(super) rip: Option<u64>,
    /// How long the guest did not run, if that was traced.
    pub(super) duration_ns: Option<u64>,
}

impl Tally {
    /// Counts one exit.
    pub(super) fn add(&mut self, exit: Counted) {
        let Counted { reason, cause, .. } = exit;
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
        if let Some(rip) = exit.rip.filter(|_| reason.class() != Class::Interrupt) {
            let has_room = self.places.len() < MAX_PLACES;
            if has_room || self.places.contains_key(&(reason, rip)) {
                *self.places.entry((reason, rip)).or_insert(0) += 1;
            }
        }
        if let Some(ns) = exit.duration_ns {
            if self.durations.len() < MAX_REASONS || self.durations.contains_key(&reason) {
                self.durations.entry(reason).or_default().add(ns);
            }
        }
    }

    /// What was counted since `earlier`, a copy of this tally.
    pub(super) fn since(&self, earlier: &Tally) -> Tally {
        let mut durations = BTreeMap::new();
        for (reason, later) in &self.durations {
            let before = earlier.durations.get(reason);
            let more = before.map_or_else(|| later.clone(), |before| later.since(before));
            if more.count() > 0 {
                durations.insert(*reason, more);
            }
        }
        Tally {
            total: self.total.saturating_sub(earlier.total),
            userspace: self.userspace.saturating_sub(earlier.userspace),
            guest_ns: self.guest_ns.saturating_sub(earlier.guest_ns),
            exits: difference(&self.exits, &earlier.exits),
            places: difference(&self.places, &earlier.places),
            durations,
        }
    }

    /// Both together.
    pub(super) fn plus(&self, other: &Tally) -> Tally {
        let mut sum = self.clone();
        sum.total += other.total;
        sum.userspace += other.userspace;
        sum.guest_ns += other.guest_ns;
        for (key, count) in &other.exits {
            *sum.exits.entry(*key).or_insert(0) += count;
        }
        for (key, count) in &other.places {
            *sum.places.entry(*key).or_insert(0) += count;
        }
        for (reason, durations) in &other.durations {
            sum.durations.entry(*reason).or_default().merge(durations);
        }
        sum
    }

    /// The counts with names.
    pub(super) fn to_counts(&self, names: &dyn NameOf, is_tick_known: bool) -> Counts {
        let mut counts = Counts {
            total: self.total,
            userspace: self.userspace,
            guest_ns: self.guest_ns,
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
            if !cause.is_known() {
                counts.unexplained += count;
            }
            let label = cause.label(*reason, names);
            *counts.by_cause.entry(label).or_insert(0) += count;
        }
        let mut places: Vec<_> = self.places.iter().collect();
        places.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for ((reason, rip), count) in places.into_iter().take(MAX_PLACES_TOLD) {
            let place = format!("{} {rip:#x}", reason.name());
            counts.by_place.insert(place, *count);
        }
        for (reason, durations) in &self.durations {
            let name = reason.name().into_owned();
            counts.durations.insert(name, durations.clone());
        }
        counts
    }
}

/// Each count less that of `earlier`, without those that are none.
fn difference<K: Ord + Copy>(
    counts: &BTreeMap<K, u64>,
    earlier: &BTreeMap<K, u64>,
) -> BTreeMap<K, u64> {
    let more = |(key, count): (&K, &u64)| {
        let more = count.saturating_sub(earlier.get(key).copied().unwrap_or(0));
        (more > 0).then_some((*key, more))
    };
    counts.iter().filter_map(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::names::PcNames;
    use crate::account::reason::Isa;

    fn exit(cause: Cause, rip: u64) -> Counted {
        Counted {
            reason: Reason::new(Isa::Svm, 0x400),
            cause,
            rip: Some(rip),
            duration_ns: Some(rip),
        }
    }

    #[test]
    fn too_many_causes_count_as_other_and_the_sum_stays_right() {
        let mut tally = Tally::default();
        for page in 0..10_000u64 {
            tally.add(exit(Cause::Mmio { gpa: page << 12 }, page));
        }
        assert!(tally.exits.len() <= MAX_CAUSES + 1);
        assert_eq!(tally.places.len(), MAX_PLACES);
        let counts = tally.to_counts(&PcNames, true);
        assert_eq!(counts.by_reason["NPF"], 10_000);
        assert_eq!(counts.by_cause.values().sum::<u64>(), 10_000);
        assert_eq!(counts.by_cause["NPF other"], 10_000 - MAX_CAUSES as u64);
        assert_eq!(counts.unexplained, 10_000 - MAX_CAUSES as u64);
        assert_eq!(counts.by_place.len(), MAX_PLACES_TOLD);
        assert_eq!(counts.durations["NPF"].count(), 10_000);
    }

    #[test]
    fn places_and_durations_are_differences_too() {
        let mut tally = Tally::default();
        tally.add(exit(Cause::Other, 0x10));
        let begin = tally.clone();
        for _ in 0..3 {
            tally.add(exit(Cause::Other, 0x20));
        }
        let counts = tally.since(&begin).to_counts(&PcNames, true);
        assert_eq!(counts.by_place, [("NPF 0x20".to_string(), 3)].into());
        assert_eq!(counts.durations["NPF"].sum_ns, 0x60);
        let whole = tally.since(&begin).plus(&begin);
        assert_eq!(whole, tally);
    }
}
