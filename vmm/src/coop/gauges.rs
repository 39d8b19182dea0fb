//! What the host half has done so far, read while it goes on: for metrics.
//!
//! [`Coop::counts`] ends the account; this one takes nothing away. It waits for whoever serves a seat,
//! for one bounded look, and keeps nobody out for longer than it takes to read some words.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use coopvirt_spec::counter::{GUEST_COUNTERS, HOST_COUNTERS};
use serde::{Deserialize, Serialize};

use super::counters::CoopCounts;
use super::{Coop, SidecorePolicy};

/// The host half at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoopGauges {
    /// What the polling thread does.
    pub polling: PollingState,
    /// One per vCPU.
    pub areas: Vec<AreaCounts>,
    /// All vCPUs together, areas that are gone included: what the exit report says at the end. CPU
    /// times of threads are not in it before they have ended.
    pub totals: CoopCounts,
}

/// What the polling thread does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PollingState {
    /// It never polls.
    Off,
    /// It looks at all areas without a pause, under leases.
    Polling,
    /// It waits for a doorbell or a deadline.
    Asleep,
}

/// One vCPU's area.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AreaCounts {
    /// The vCPU.
    pub vcpu: usize,
    /// Whether it has an area now. Without one there are no counts: they are in the totals.
    pub is_registered: bool,
    /// Whether the host has found that area broken and serves it no more.
    pub is_broken: bool,
    /// The guest's counters since it registered, as the guest says.
    pub guest: BTreeMap<String, u64>,
    /// The host's counters for this area since then.
    pub host: BTreeMap<String, u64>,
}

impl Coop {
    /// Everything now. An area that comes or goes meanwhile may be counted in neither place.
    pub fn gauges(&self) -> CoopGauges {
        let mut totals = CoopCounts {
            no_timing: self.no_timing.get().cloned(),
            ..self.shared.totals.snapshot()
        };
        let areas: Vec<AreaCounts> = (0..self.stations.len())
            .map(|vcpu| self.area(vcpu))
            .collect();
        for area in &areas {
            for (name, value) in &area.guest {
                let total = totals.guest.entry(name.clone()).or_default();
                // A guest chooses these; the totals wrap too.
                *total = total.wrapping_add(*value);
            }
        }
        let polling = match self.options.sidecore.policy {
            SidecorePolicy::Off => PollingState::Off,
            _ if self.is_polling.load(Ordering::Relaxed) => PollingState::Polling,
            _ => PollingState::Asleep,
        };
        CoopGauges {
            polling,
            areas,
            totals,
        }
    }

    fn area(&self, vcpu: usize) -> AreaCounts {
        let mut counts = AreaCounts {
            vcpu,
            ..AreaCounts::default()
        };
        let Some(station) = self.stations.get(vcpu) else {
            return counts;
        };
        let seat = station.seat.lock();
        let Some(served) = seat.as_ref() else {
            return counts;
        };
        counts.is_registered = true;
        counts.is_broken = served.broken().is_some();
        counts.guest = named(GUEST_COUNTERS, served.guest_counts());
        counts.host = named(HOST_COUNTERS, served.host_counts());
        counts
    }
}

fn named(
    table: &[(usize, &str)],
    counts: impl Iterator<Item = (usize, u64)>,
) -> BTreeMap<String, u64> {
    let name = |place: usize| table.iter().find(|(index, _)| *index == place);
    counts
        .filter_map(|(place, count)| Some((name(place)?.1.to_owned(), count)))
        .collect()
}
