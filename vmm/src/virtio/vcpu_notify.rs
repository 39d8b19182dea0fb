//! A notification in the thread of the vCPU that made it: served there at once, or left to the I/O thread.
//!
//! [`VcpuNotify`] is what `dispatch` calls for a write to the notify address of a queue that no eventfd
//! has taken (`bindings.rs`). The vCPU is out of the guest meanwhile, so it never waits and does little:
//! one request of a few pages, if it is a copy of memory (`Backend::hear`). What it cannot do is left by
//! ringing the doorbell, as the kernel would have done. A guest that notifies in a loop takes time from
//! that vCPU only; whoever else wants the device waits for one such copy at most. The only lock that is
//! waited for is a leaf's: the MSI-X state, to raise the interrupt.
//!
//! **Nothing is lost.** The driver publishes before it notifies (virtio 1.2, 2.7.13), and here is one
//! thread for both, so this look finds the buffer or somebody has found it before. The look goes by the
//! rules of the I/O thread's (`ownership.rs`): it ends with the driver being asked to notify, a fence and
//! another glance, or with the doorbell rung. Where the device is busy, the doorbell is rung: whoever
//! works on it may have had that last glance before the buffer came, but the I/O thread looks after it.
//! A reset waits for the look by the backend's lock, as for every other, and a look that comes too late
//! finds no queue. The interrupt is raised before the thread goes back, so the guest is entered with it,
//! or MSI-X keeps it pending if it is masked.
//!
//! `tests/ownership.rs` explores two vCPUs that share a queue so, and shows that a busy device without a
//! ring loses a buffer.

use std::sync::{Arc, TryLockError};

use vmm_sys_util::eventfd::EventFd;

use super::backend::{ring, Backend, Heard, SharedBackend};
use super::counters::DeviceCounters;
use super::poll::PollState;
use crate::notifies::Notified;

/// A queue as it is notified by vCPU threads.
pub(super) struct VcpuNotify {
    backend: SharedBackend,
    doorbells: Arc<[EventFd]>,
    index: usize,
    /// Told of notifications, if a polling thread may own the queue.
    poll: Option<Arc<PollState>>,
    counters: Arc<DeviceCounters>,
}

impl VcpuNotify {
    /// For a queue of `backend`, which is `locked`.
    pub(super) fn new(
        backend: &SharedBackend,
        locked: &Backend,
        doorbells: &Arc<[EventFd]>,
        index: usize,
    ) -> Self {
        Self {
            backend: Arc::clone(backend),
            doorbells: Arc::clone(doorbells),
            index,
            poll: locked.poll_state(index),
            counters: Arc::clone(locked.counters()),
        }
    }
}

impl Notified for VcpuNotify {
    fn notified(&self) {
        let heard = match self.backend.try_lock() {
            Ok(mut backend) => backend.hear(self.index),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().hear(self.index),
            Err(TryLockError::WouldBlock) => Heard::Left,
        };
        match heard {
            Heard::Served => self.counters.add_served_by_vcpu(),
            Heard::More => {
                self.counters.add_served_by_vcpu();
                self.counters.add_own_rings(1);
            }
            Heard::Left => self.counters.add_left_by_vcpu(),
        }
        if heard != Heard::Served {
            self.doorbells.get(self.index).into_iter().for_each(ring);
        }
        // The I/O thread tells of those that are left.
        if let Some(poll) = self.poll.as_ref().filter(|_| heard != Heard::Left) {
            poll.note_kick(self.index);
        }
    }
}
