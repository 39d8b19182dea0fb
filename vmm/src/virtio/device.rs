//! What a virtio device implements.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::queue::DeviceQueue;
use super::receiver::NotifyPolicy;

/// Largest queue that a guest can make of a device that has no reason for another size.
pub const QUEUE_SIZE_MAX: u16 = 256;

/// Where a device stopped in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It took everything that there was, or the queue's budget for one batch is spent.
    Drained,
    /// There may be more, but it waits for the host's side; [`VirtioDevice::host_event`] will tell.
    Waiting,
}

/// Where a device stopped in a queue that it was asked to serve without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// It took everything that there was, or the queue's budget for one look is spent.
    Drained,
    /// The next chain is work for the I/O thread, which may wait for files and locks.
    Left,
    /// As [`Progress::Waiting`].
    Waiting,
}

impl From<Progress> for Polled {
    fn from(progress: Progress) -> Self {
        match progress {
            Progress::Drained => Polled::Drained,
            Progress::Waiting => Polled::Waiting,
        }
    }
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
    /// Whoever serves the queue in our place does not.
    #[error("its back end refused it: {0}")]
    Backend(String),
}

/// A file of the host's that the I/O thread watches for a device.
pub struct Watched {
    /// What has news.
    pub file: Arc<File>,
    /// The queues that are processed then.
    pub queues: Vec<usize>,
}

/// A queue that is served elsewhere: checked addresses, and the eventfds to the guest and from it.
pub struct HandedQueue<'a> {
    /// Which one.
    pub index: usize,
    /// Entries.
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring.
    pub avail: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
    /// Signalled by the guest's notifications.
    pub kick: &'a EventFd,
    /// Interrupts the guest.
    pub call: EventFd,
}

/// A virtio device without its transport.
///
/// All methods are called with the backend's lock held: `process` on the I/O thread, `process_now` on
/// the polling thread or a vCPU thread, the others on vCPU threads.
pub trait VirtioDevice: Send {
    /// The virtio device type (2 is block).
    fn device_type(&self) -> u16;
    /// Names the device in reports ("virtio-blk").
    fn name(&self) -> &str;
    /// The class code of the PCI function.
    fn pci_class(&self) -> u32;
    /// The feature bits of this device type; the transport adds its own.
    fn features(&self) -> u64;
    /// The largest size of each queue: [`QUEUE_SIZE_MAX`], or another power of two.
    fn queue_sizes(&self) -> Vec<u16>;
    /// The most buffers that a chain may have; `None`: as many as its queue has entries.
    fn longest_chain(&self) -> Option<u16> {
        None
    }
    /// A queue that is served on although the guest took the device's right to touch its memory: what its driver
    /// waits for without end, and gives no memory away. `None`: all of them stop.
    fn outlives_bus_master(&self) -> Option<usize> {
        None
    }
    /// Fills `data` from the configuration; bytes past its end are zero. Any offset can come.
    fn config_read(&self, offset: u64, data: &mut [u8]);
    /// Takes a write to the configuration. Any offset can come.
    fn config_write(&mut self, _offset: u64, _data: &[u8]) {}
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
    /// Whether the polling thread may own a queue. Asked once, before anything else.
    fn can_be_polled(&self, _queue_index: usize) -> bool {
        false
    }
    /// How long the I/O thread goes on looking at the queues that can be polled after each work of theirs, by which it is
    /// spared notifications (`linger.rs`); zero for not at all. Asked once, before anything else. For a device that has
    /// it, the polling thread takes no queue over because of notifications.
    fn lingers(&self) -> Duration {
        Duration::ZERO
    }
    /// Who receives a queue's notifications. Asked once, before anything else; of a queue that is served
    /// elsewhere nothing else than the default can come.
    fn notify_policy(&self, _queue_index: usize) -> NotifyPolicy {
        NotifyPolicy::Thread
    }
    /// As `process`, on the polling thread, for a queue that it owns, or on the thread of a vCPU that has
    /// notified. Must not wait for anything: the guest waits for this thread meanwhile. It takes the
    /// chains from the front that can be served by copying memory, [`DeviceQueue::copy_bytes`] in all, or
    /// by a call that returns at once; the first that cannot is put back.
    fn process_now(
        &mut self,
        _queue_index: usize,
        _queue: &mut DeviceQueue,
        _ram: &GuestMemoryMmap<()>,
    ) -> Result<Polled, QueueError> {
        Ok(Polled::Left)
    }
    /// The guest reset the device: forget everything about requests. Nothing touches the guest's
    /// memory any more when this returns.
    fn reset(&mut self) {}
    /// An event of the host's side after which this queue is processed, apart from the guest's doorbell.
    /// Does not block. A device that has taken its signal back has done what it was for.
    fn queue_event(&self, _queue_index: usize) -> Option<Arc<EventFd>> {
        None
    }
    /// An event of the host's side after which all queues are processed (input arrived, output has
    /// room again).
    fn host_event(&self) -> Option<Arc<EventFd>> {
        None
    }
    /// That event came; the queues are processed next.
    fn host_event_came(&mut self) {}
    /// Whether those who serve queues elsewhere have given up; asked when such a queue is processed.
    fn has_failed_elsewhere(&self) -> bool {
        false
    }
    /// Files of the host's that tell, edge by edge, that there is something to do.
    fn watched(&self) -> Vec<Watched> {
        Vec::new()
    }
    /// One of the watched files has news; its queues are processed next.
    fn file_ready(&mut self, _index: usize) {}
    /// Whether the configuration has changed since this was last asked.
    fn take_config_change(&mut self) -> bool {
        false
    }
    /// Whether the time from taking a chain of this queue to giving it back says how long a request
    /// takes.
    fn is_timed(&self, _queue_index: usize) -> bool {
        false
    }
    /// Whether somebody else (the kernel) serves a queue. Asked before a driver is there, when the
    /// answer decides whether the I/O thread listens to the queue's doorbell, and after `activate`.
    fn is_served_elsewhere(&self, _queue_index: usize) -> bool {
        false
    }
    /// Gives the live queues to those that serve them. Never called without a queue.
    fn hand_over(&mut self, _features: u64, _queues: &[HandedQueue<'_>]) -> Result<(), QueueError> {
        Ok(())
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
