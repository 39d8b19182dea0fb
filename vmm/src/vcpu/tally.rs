//! The VMM's own count of its vCPUs' returns to userspace, by kind and address.
//!
//! One vCPU thread writes, reports read. Addresses are the guest's choice, so the number of
//! different ones is bounded; what comes later is counted together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

const MAX_KINDS: usize = 4096;

/// What a vCPU came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `OUT` to a port.
    PortOut(u16),
    /// `IN` from a port.
    PortIn(u16),
    /// Write to an MMIO address.
    MmioWrite(u64),
    /// Read from an MMIO address.
    MmioRead(u64),
    /// Filtered MSR write.
    MsrWrite(u32),
    /// Filtered MSR read.
    MsrRead(u32),
    /// Triple fault.
    Shutdown,
    /// `EINTR`: a signal, a kick or a completed pause.
    Interrupted,
    /// `EAGAIN`: the vCPU was waiting to be started.
    NotStarted,
    /// Anything else.
    Other,
}

/// Counters of one vCPU.
#[derive(Debug, Default)]
pub struct Tally {
    total: AtomicU64,
    kinds: Mutex<BTreeMap<Kind, u64>>,
}

impl Tally {
    /// Counts one return of `KVM_RUN`.
    pub fn count(&self, kind: Kind) {
        // Only this vCPU's thread writes; readers want a recent value, not an order.
        self.total.fetch_add(1, Ordering::Relaxed);
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = if kinds.len() < MAX_KINDS || kinds.contains_key(&kind) {
            kind
        } else {
            Kind::Other
        };
        *kinds.entry(kind).or_default() += 1;
    }

    /// All returns so far.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// All returns so far by kind.
    pub fn kinds(&self) -> BTreeMap<Kind, u64> {
        self.kinds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_grow_the_table_without_bound() {
        let tally = Tally::default();
        for gpa in 0..10_000 {
            tally.count(Kind::MmioRead(gpa));
        }
        assert_eq!(tally.total(), 10_000);
        let kinds = tally.kinds();
        assert!(kinds.len() <= MAX_KINDS + 1);
        assert_eq!(kinds.values().sum::<u64>(), 10_000);
    }
}
