//! virtio-vsock: sockets between the guest and programs of the host.
//!
//! Two ways for the data. [`Vsock`] leaves it to the host's kernel (vhost-vsock, `kernel.rs`): a
//! connection of the guest to CID 2 reaches what listens on the host's AF_VSOCK sockets, and the other
//! way round. The queues for receiving and sending are the kernel's while a driver is there; no byte of
//! them is looked at here. The event queue is ours: its buffers wait for a transport reset, which only a
//! machine that moves to another host needs. [`UnixVsock`] moves the data itself, between the rings and
//! UNIX sockets (`unix/`). The machine builder opens one of them before the guest starts.

mod kernel;
mod open;
mod unix;

use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

pub use self::open::VsockError;
pub use self::unix::{UnixVsock, UnixVsockError, VsockCounts, VsockGauges};
use super::device::{read_config, HandedQueue, Progress, QueueError, VirtioDevice, QUEUE_SIZE_MAX};
use super::queue::DeviceQueue;

const TYPE_SOCKET: u16 = 19;
/// "Other communication controller".
const CLASS_COMMUNICATION: u32 = 0x07_80_00;

const FEATURE_STREAM: u64 = 1 << 0;
const FEATURE_SEQPACKET: u64 = 1 << 1;

/// Receiving and sending queue; the event queue comes behind them.
const HANDED_QUEUES: usize = 2;
const NR_QUEUES: usize = 3;

/// Who serves the queues of data.
pub(super) trait DataServer: Send {
    /// The virtio features that it knows.
    fn features(&self) -> u64;
    /// Signalled when it finds a ring corrupt.
    fn errors(&self) -> Arc<EventFd>;
    /// Lets it serve these queues.
    fn start(&mut self, features: u64, queues: &[HandedQueue<'_>]) -> Result<(), QueueError>;
    /// Stops it. When this returns, it touches no ring any more.
    fn stop(&mut self);
}

/// The socket device.
pub struct Vsock {
    cid: u32,
    server: Box<dyn DataServer>,
    // The server has given up on a ring of this driver.
    has_failed: bool,
}

impl Vsock {
    pub(super) fn new(cid: u32, server: Box<dyn DataServer>) -> Self {
        Self {
            cid,
            server,
            has_failed: false,
        }
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u16 {
        TYPE_SOCKET
    }
    fn name(&self) -> &str {
        "virtio-vsock"
    }
    fn pci_class(&self) -> u32 {
        CLASS_COMMUNICATION
    }
    fn features(&self) -> u64 {
        // Streams are what each server has, also those that know no bit for it.
        FEATURE_STREAM | FEATURE_SEQPACKET & self.server.features()
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE_MAX; NR_QUEUES]
    }
    fn config_read(&self, offset: u64, data: &mut [u8]) {
        read_config(&u64::from(self.cid).to_le_bytes(), offset, data);
    }

    fn process(
        &mut self,
        _queue_index: usize,
        _queue: &mut DeviceQueue,
        _ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        // Only the event queue comes here; there is no event to say.
        Ok(Progress::Waiting)
    }

    fn reset(&mut self) {
        self.server.stop();
        self.has_failed = false;
    }

    fn host_event(&self) -> Option<Arc<EventFd>> {
        Some(self.server.errors())
    }

    fn host_event_came(&mut self) {
        self.server.stop();
        self.has_failed = true;
    }

    fn has_failed_elsewhere(&self) -> bool {
        self.has_failed
    }

    fn is_served_elsewhere(&self, queue_index: usize) -> bool {
        queue_index < HANDED_QUEUES
    }

    fn hand_over(&mut self, features: u64, queues: &[HandedQueue<'_>]) -> Result<(), QueueError> {
        // The server starts with both or not at all.
        if queues.len() != HANDED_QUEUES {
            return Err(QueueError::Setup);
        }
        self.server.start(features, queues)
    }
}
