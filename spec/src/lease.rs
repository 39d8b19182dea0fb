//! The lease: the host's promise to look (`[LEASE-1]` to `[LEASE-6]`).
//!
//! "The host polls" is not a flag but a promise with an end, a value of the guest's TSC. The guest
//! publishes, then asks [`listens`]; the host stops looking by [`revoke`], then looks once more.
//! Both put a full fence between their store and their load, so at least one of them sees the
//! other's store: either the host's last look finds what was published, or the guest sees that
//! nobody listens and takes its stock path. Without either fence both may miss the other.

use crate::mem::{Defect, Load, SharedMem, Store};
use crate::page::at;

/// No promise: nobody looks.
pub const NONE: u64 = 0;

/// Guest: whether the host looks at the area now, before anything is published.
///
/// Only a hint, to leave the ring alone while nobody listens; it proves nothing.
pub fn seems_held<M: SharedMem>(mem: &M, now_tsc: u64) -> bool {
    mem.load_u64(at::LEASE, Load::Relaxed) > now_tsc
}

/// Guest: whether the host will see what was published before this call (`[LEASE-3]`).
///
/// If not, the guest MUST take the stock path at once, for what it published. `now_tsc` is called
/// after the fence.
#[must_use = "without a listener the stock path has to be taken"]
pub fn listens<M: SharedMem>(mem: &M, now_tsc: impl FnOnce() -> u64) -> bool {
    // The store of the publication before, the load of the lease after. Pairs with the fence in
    // `revoke`, which stands between the store of the lease and the host's last look. Acquire and
    // release are not enough: they let the load pass the store, and the guest would see a lease
    // while the host no longer sees the entry. The interrupt in it would be lost.
    if !matches!(M::DEFECT, Defect::PublishNoFence) {
        mem.fence_full();
    }
    let lease = mem.load_u64(at::LEASE, Load::Relaxed);
    lease > now_tsc()
}

/// Guest: publishes by `publish` if the host seems to listen, and says whether it still does.
///
/// `false`: the stock path has to be taken; what was published may be carried out twice, so this is
/// for idempotent operations (`[LEASE-5]`).
#[must_use = "without a listener the stock path has to be taken"]
pub fn publish_elided<M: SharedMem>(
    mem: &M,
    now_tsc: impl Fn() -> u64,
    publish: impl FnOnce(),
) -> bool {
    if !seems_held(mem, now_tsc()) {
        return false;
    }
    publish();
    if matches!(M::DEFECT, Defect::LeaseReadOnce) {
        return true;
    }
    listens(mem, now_tsc)
}

/// Host: promises to look again within `duration_tsc` of the guest's TSC `now_tsc` (`[LEASE-2]`).
///
/// A guest can set its TSC to any value, so the end saturates: near the end of the counter a lease
/// is shorter, and at its very end there is none.
///
/// Called before a look, by whoever will look; never by a second thread.
pub fn renew<M: SharedMem>(mem: &M, now_tsc: u64, duration_tsc: u64) {
    let until_tsc = now_tsc.saturating_add(duration_tsc);
    // Relaxed: the promise is about looks to come, and no earlier store has to be seen with it.
    mem.store_u64(at::LEASE, until_tsc, Store::Relaxed);
}

/// Host: ends the promise. The caller MUST look once more at ring and deadline (`[LEASE-4]`).
pub fn revoke<M: SharedMem>(mem: &M) -> LastLook {
    mem.store_u64(at::LEASE, NONE, Store::Relaxed);
    // See `listens`: the store of the lease before, the last look after.
    if !matches!(M::DEFECT, Defect::RevokeNoFence) {
        mem.fence_full();
    }
    LastLook(())
}

/// The duty to look once more after a lease was revoked.
#[must_use = "what was published just before the lease ended is found only by another look"]
#[derive(Debug)]
pub struct LastLook(());

impl LastLook {
    /// Discharges the duty by looking.
    pub fn take<T>(self, look: impl FnOnce() -> T) -> T {
        look()
    }
}
