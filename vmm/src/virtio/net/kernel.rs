//! vhost-net: the kernel moves packets between the tap and the guest's rings.
//!
//! One handle per queue pair. Addresses that a guest chose are checked against its memory before
//! the kernel gets them: it would take any address of this process.

use std::io;
use std::sync::Arc;

use vhost::net::VhostNet;
use vhost::vhost_kern::net::Net as Handle;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::tap::Tap;
use crate::virtio::device::{HandedQueue, QueueError};
use crate::virtio::GuestRam;

/// Queues of a handle: the receiving one, then the sending one.
const QUEUES: [usize; 2] = [0, 1];

pub(super) struct KernelServer {
    ram: GuestRam,
    handles: Vec<Handle<GuestRam>>,
    features: u64,
    // The kernel found a ring corrupt.
    errors: Arc<EventFd>,
    is_running: bool,
}

impl KernelServer {
    /// Opens a handle for each queue pair and tells it where guest memory is.
    pub(super) fn open(pairs: usize, ram: &GuestRam) -> io::Result<Self> {
        let regions: Vec<VhostUserMemoryRegionInfo> = ram
            .iter()
            .map(|region| VhostUserMemoryRegionInfo {
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
                ..Default::default()
            })
            .collect();
        let mut features = u64::MAX;
        let mut handles = Vec::new();
        for _ in 0..pairs {
            let handle = Handle::new(ram.clone()).map_err(io_error)?;
            handle.set_owner().map_err(io_error)?;
            handle.set_mem_table(&regions).map_err(io_error)?;
            features &= handle.get_features().map_err(io_error)?;
            handles.push(handle);
        }
        Ok(Self {
            ram: ram.clone(),
            handles,
            features,
            errors: Arc::new(EventFd::new(EFD_NONBLOCK)?),
            is_running: false,
        })
    }

    /// Signalled when the kernel finds a ring corrupt.
    pub(super) fn errors(&self) -> Arc<EventFd> {
        self.errors.clone()
    }

    /// The virtio features that the kernel has to know of.
    pub(super) fn features(&self) -> u64 {
        self.features
    }

    /// Lets the kernel serve these queues. All their taps have to be enabled.
    pub(super) fn start(
        &mut self,
        features: u64,
        queues: &[HandedQueue<'_>],
        taps: &[&Tap],
    ) -> Result<(), QueueError> {
        self.is_running = true;
        let started = self.start_all(features, queues, taps);
        if started.is_err() {
            self.stop();
        }
        started
    }

    fn start_all(
        &self,
        features: u64,
        queues: &[HandedQueue<'_>],
        taps: &[&Tap],
    ) -> Result<(), QueueError> {
        for handle in &self.handles {
            handle
                .set_features(features & self.features)
                .map_err(refused)?;
        }
        for queue in queues {
            self.check(queue)?;
            let (handle, tap) = (self.handles.get(queue.index / 2), taps.get(queue.index / 2));
            let (Some(handle), Some(tap)) = (handle, tap) else {
                return Err(QueueError::Setup);
            };
            let index = queue.index % 2;
            handle.set_vring_num(index, queue.size).map_err(refused)?;
            handle.set_vring_base(index, 0).map_err(refused)?;
            let addresses = VringConfigData {
                queue_max_size: queue.size,
                queue_size: queue.size,
                flags: 0,
                desc_table_addr: queue.descriptors,
                used_ring_addr: queue.used,
                avail_ring_addr: queue.avail,
                log_addr: None,
            };
            handle.set_vring_addr(index, &addresses).map_err(refused)?;
            handle.set_vring_call(index, &queue.call).map_err(refused)?;
            handle.set_vring_kick(index, queue.kick).map_err(refused)?;
            handle.set_vring_err(index, &self.errors).map_err(refused)?;
            handle
                .set_backend(index, Some(&tap.file))
                .map_err(refused)?;
        }
        Ok(())
    }

    /// Stops the kernel. When this returns, it touches no ring any more.
    pub(super) fn stop(&mut self) {
        if !std::mem::take(&mut self.is_running) {
            return;
        }
        for handle in &self.handles {
            for queue in QUEUES {
                // Fails only for a queue that was never started.
                let _ = handle.set_backend(queue, None);
            }
        }
        // What was wrong with these rings says nothing of the next.
        let _ = self.errors.read();
    }

    /// Each part of the ring lies in one piece of guest memory, so that its first address stands
    /// for all of it. Lengths include the event indices.
    fn check(&self, queue: &HandedQueue<'_>) -> Result<(), QueueError> {
        let size = u64::from(queue.size);
        let parts = [
            (queue.descriptors, 16 * size),
            (queue.avail, 6 + 2 * size),
            (queue.used, 6 + 8 * size),
        ];
        let is_inside = |&(address, len_bytes): &(u64, u64)| {
            let address = GuestAddress(address);
            self.ram.find_region(address).is_some_and(|region| {
                let offset = address.unchecked_offset_from(region.start_addr());
                offset
                    .checked_add(len_bytes)
                    .is_some_and(|end| end <= region.len())
            })
        };
        if parts.iter().all(is_inside) {
            Ok(())
        } else {
            Err(QueueError::Setup)
        }
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "used as a function for map_err"
)]
fn refused(error: vhost::Error) -> QueueError {
    QueueError::Backend(error.to_string())
}

fn io_error(error: vhost::Error) -> io::Error {
    match error {
        vhost::Error::VhostOpen(error) | vhost::Error::IoctlError(error) => error,
        other => io::Error::other(other),
    }
}
