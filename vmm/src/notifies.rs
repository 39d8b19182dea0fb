//! Addresses that a guest writes to in order to be heard: the vCPU thread that made the write carries
//! it out, with no bus's and no device's lock held.
//!
//! An address is heard here only while the kernel does not turn its writes into an eventfd (ioeventfd),
//! which comes first and leaves nothing to exit for. Whoever binds an address to an eventfd therefore
//! need not take it from this table: what exits meanwhile is heard here as well.
//!
//! Called by `vcpu::dispatch` for each write to memory that is none, before the bus.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Hears the writes to an address.
pub trait Notified: Send + Sync {
    /// The guest has written, whatever it was. Must not wait: it is a vCPU that would.
    fn notified(&self);
}

/// The addresses of one machine.
#[derive(Default)]
pub struct Notifies {
    at: RwLock<BTreeMap<u64, Arc<dyn Notified>>>,
}

impl Notifies {
    /// Creates a table without addresses.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on `notified` hears writes to `gpa`, instead of whoever has heard them.
    pub fn insert(&self, gpa: u64, notified: Arc<dyn Notified>) {
        let mut at = self.at.write().unwrap_or_else(PoisonError::into_inner);
        at.insert(gpa, notified);
    }

    /// Nobody hears writes to `gpa` any more; one that is being heard may still last a moment.
    pub fn remove(&self, gpa: u64) {
        let mut at = self.at.write().unwrap_or_else(PoisonError::into_inner);
        at.remove(&gpa);
    }

    /// A write to `gpa`. Returns whether somebody has heard it.
    pub fn hear(&self, gpa: u64) -> bool {
        let notified = {
            let at = self.at.read().unwrap_or_else(PoisonError::into_inner);
            at.get(&gpa).cloned()
        };
        // Without the lock: who moves addresses must not wait for a device.
        notified.is_some_and(|notified| {
            notified.notified();
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU64);

    impl Notified for Count {
        fn notified(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_the_very_address_is_heard_and_only_while_it_is_there() {
        let (notifies, count) = (Notifies::new(), Arc::new(Count::default()));
        assert!(!notifies.hear(0x1000));
        notifies.insert(0x1000, count.clone());
        assert!(notifies.hear(0x1000) && !notifies.hear(0x1001) && !notifies.hear(0xfff));
        notifies.insert(0x1000, Arc::new(Count::default()));
        assert!(notifies.hear(0x1000), "by the other one");
        notifies.remove(0x1000);
        assert!(!notifies.hear(0x1000));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
}
