//! What a virtio device implements.

use std::io;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::queue::DeviceQueue;

/// Largest queue that a guest can make.
pub const QUEUE_SIZE_MAX: u16 = 256;

/// Where a device stopped in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It took everything that there was, or the queue's budget for one batch is spent.
    Drained,
    /// There may be more, but it waits for the host's side; [`VirtioDevice::host_event`] will tell.
    Waiting,
}

/// Why a queue is broken until the guest resets the device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The addresses or the size that the guest set cannot be used.
    #[error("addresses or size are not valid")]
    Setup,
    /// The ring's indices make no sense, or the ring is no longer in memory.
    #[error("ring is corrupt: {0}")]
    Ring(String),
    /// A chain has a loop, a bad table, an order or a buffer that is not allowed.
    #[error("descriptor chain {head} is malformed: {what}")]
    Chain {
        /// Its first descriptor.
        head: u16,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// A virtio device without its transport.
///
/// All methods are called with the backend's lock held: `process` on the I/O thread, the others on
/// vCPU threads.
pub trait VirtioDevice: Send {
    /// The virtio device type (2 is block).
    fn device_type(&self) -> u16;
    /// Names the device in reports ("virtio-blk").
    fn name(&self) -> &str;
    /// The class code of the PCI function.
    fn pci_class(&self) -> u32;
    /// The feature bits of this device type; the transport adds its own.
    fn features(&self) -> u64;
    /// The largest size of each queue; powers of two up to [`QUEUE_SIZE_MAX`].
    fn queue_sizes(&self) -> Vec<u16>;
    /// Fills `data` from the configuration; bytes past its end are zero. Any offset can come.
    fn config_read(&self, offset: u64, data: &mut [u8]);
    /// Takes a write to the configuration. Any offset can come.
    fn config_write(&mut self, _offset: u64, _data: &[u8]) {}
    /// Gives the device its doorbells, one per queue, before anything else: signalling one has its
    /// queue processed, as if the guest had notified it.
    fn connect(&mut self, _doorbells: &Arc<[EventFd]>) -> io::Result<()> {
        Ok(())
    }
    /// The guest's driver is ready, with these features.
    fn activate(&mut self, _features: u64) {}
    /// Takes chains from the queue until it is empty or the device has to wait.
    ///
    /// An error says that the guest's ring is broken; a request that is merely bad gets its answer
    /// in the chain.
    fn process(
        &mut self,
        queue_index: usize,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError>;
    /// The guest reset the device: forget everything about requests. Nothing touches the guest's
    /// memory any more when this returns.
    fn reset(&mut self) {}
    /// An event of the host's side after which all queues are processed (input arrived, output has
    /// room again).
    fn host_event(&self) -> Option<Arc<EventFd>> {
        None
    }
}

/// Copies what `config` has at `offset`; the rest of `data` is zero.
pub(super) fn read_config(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let Some(from) = usize::try_from(offset)
        .ok()
        .and_then(|offset| config.get(offset..))
    else {
        return;
    };
    let len = from.len().min(data.len());
    data[..len].copy_from_slice(&from[..len]);
}
