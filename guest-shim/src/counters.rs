//! What the shim counts (`[COUNT-1]`): privately, and a copy in the area for the host's report.

use coopvirt_spec::counter::{GuestCounter, GUEST_COUNTERS};
use coopvirt_spec::mem::{SharedMem, Store};

/// The counters of one vCPU. They go on across areas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    values: [u64; 16],
}

const _: () = assert!(GUEST_COUNTERS.len() <= 16);

impl Counters {
    /// All zero.
    pub const fn new() -> Self {
        Self { values: [0; 16] }
    }

    /// The value of a counter.
    pub const fn get(&self, counter: GuestCounter) -> u64 {
        self.values[counter as usize]
    }

    /// All values, by index.
    pub const fn values(&self) -> &[u64; 16] {
        &self.values
    }

    /// Counts `by`, and stores the sum in the area if there is one.
    pub(crate) fn add<M: SharedMem>(&mut self, mem: Option<&M>, counter: GuestCounter, by: u64) {
        let value = &mut self.values[counter as usize];
        *value = value.wrapping_add(by);
        if let Some(mem) = mem {
            // Relaxed: a report may be a little behind, and nothing is decided by it.
            mem.store_u64(counter.offset(), *value, Store::Relaxed);
        }
    }
}
