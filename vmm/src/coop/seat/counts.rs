//! What an area's two sides say that they have done (`[COUNT-1]`).

use coopvirt_spec::counter::{GuestCounter, HostCounter, GUEST_COUNTERS, HOST_COUNTERS};
use coopvirt_spec::mem::{Load, SharedMem, Store};
use coopvirt_spec::page::at;

use super::Served;
use crate::coop::serve::Shared;

impl Served {
    /// Counts for the guest's report and for ours.
    pub fn count(&mut self, shared: &Shared, counter: HostCounter, more: u64) {
        let Some(count) = self.counts.get_mut(counter as usize) else {
            return;
        };
        if more == 0 {
            return;
        }
        *count = count.wrapping_add(more);
        self.area
            .store_u64(counter.offset(), *count, Store::Relaxed);
        shared.totals.host(counter, more);
    }

    /// How many stock paths its guest says to have taken (`[COUNT-1]`).
    pub fn stock_paths(&self) -> u64 {
        let counters = [GuestCounter::DeadlineFallback, GuestCounter::IpiFallback];
        let counts = counters.map(|counter| self.area.load_u64(counter.offset(), Load::Relaxed));
        counts.into_iter().fold(0, u64::wrapping_add)
    }

    /// Adds the guest's counters to the totals, when the area is left or the machine ends.
    pub fn collect(&self, shared: &Shared) {
        for (place, value) in self.guest_counts() {
            shared.totals.guest_at(place, value);
        }
    }

    /// What the guest says that it has done, by place in its table.
    pub fn guest_counts(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        GUEST_COUNTERS.iter().map(|(place, _)| {
            let offset = at::GUEST_COUNTERS + place * 8;
            (*place, self.area.load_u64(offset, Load::Relaxed))
        })
    }

    /// What the host has done for this area, by place in its table.
    pub fn host_counts(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        HOST_COUNTERS
            .iter()
            .filter_map(|(place, _)| Some((*place, *self.counts.get(*place)?)))
    }
}
