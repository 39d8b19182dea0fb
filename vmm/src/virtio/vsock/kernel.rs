//! vhost-vsock: the kernel moves data between the host's sockets and the guest's rings.

use std::io;
use std::sync::Arc;

use vhost::vhost_kern::vsock::Vsock as Handle;
use vhost::vsock::VhostVsock;
use vhost::VhostBackend;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::DataServer;
use crate::virtio::device::{HandedQueue, QueueError};
use crate::virtio::vhost_kernel::{hand_over, io_error, own, refused};
use crate::virtio::GuestRam;

pub(super) struct KernelServer {
    ram: GuestRam,
    handle: Handle<GuestRam>,
    features: u64,
    // The kernel found a ring corrupt.
    errors: Arc<EventFd>,
    is_running: bool,
}

impl KernelServer {
    /// Opens a handle and tells it where guest memory is.
    pub(super) fn open(ram: &GuestRam) -> io::Result<Self> {
        let handle = Handle::new(ram.clone()).map_err(io_error)?;
        let features = own(&handle, ram)?;
        Ok(Self {
            ram: ram.clone(),
            handle,
            features,
            errors: Arc::new(EventFd::new(EFD_NONBLOCK)?),
            is_running: false,
        })
    }

    /// Makes the guest known by this CID.
    pub(super) fn take_cid(&self, cid: u32) -> io::Result<()> {
        self.handle.set_guest_cid(u64::from(cid)).map_err(io_error)
    }

    fn start_all(&self, features: u64, queues: &[HandedQueue<'_>]) -> Result<(), QueueError> {
        let handle = &self.handle;
        handle
            .set_features(features & self.features)
            .map_err(refused)?;
        for queue in queues {
            let index = queue.index;
            hand_over(handle, index, queue, &self.ram, &self.errors)?;
        }
        handle.start().map_err(refused)
    }
}

impl DataServer for KernelServer {
    fn features(&self) -> u64 {
        self.features
    }

    fn errors(&self) -> Arc<EventFd> {
        self.errors.clone()
    }

    fn start(&mut self, features: u64, queues: &[HandedQueue<'_>]) -> Result<(), QueueError> {
        self.is_running = true;
        let started = self.start_all(features, queues);
        if started.is_err() {
            self.stop();
        }
        started
    }

    fn stop(&mut self) {
        if !std::mem::take(&mut self.is_running) {
            return;
        }
        // Fails only for a process that is not its owner. It waits for work on a ring to end.
        let _ = self.handle.stop();
        // What was wrong with these rings says nothing of the next.
        let _ = self.errors.read();
    }
}
