//! vhost-net: the kernel moves packets between the tap and the guest's rings.
//!
//! One handle per queue pair.

use std::io;
use std::sync::Arc;

use vhost::net::VhostNet;
use vhost::vhost_kern::net::Net as Handle;
use vhost::VhostBackend;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::tap::Tap;
use crate::virtio::device::{HandedQueue, QueueError};
use crate::virtio::vhost_kernel::{hand_over, io_error, own, refused, set_busy_poll};
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
    /// Opens a handle for each queue pair and tells it where guest memory is, and how long it polls a
    /// queue before it asks the guest to notify, zero for not at all.
    pub(super) fn open(pairs: usize, ram: &GuestRam, busy_poll_us: u32) -> io::Result<Self> {
        let mut features = u64::MAX;
        let mut handles = Vec::new();
        for _ in 0..pairs {
            let handle = Handle::new(ram.clone()).map_err(io_error)?;
            features &= own(&handle, ram)?;
            for queue in QUEUES {
                if busy_poll_us > 0 {
                    set_busy_poll(&handle, queue, busy_poll_us)?;
                }
            }
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
            let (handle, tap) = (self.handles.get(queue.index / 2), taps.get(queue.index / 2));
            let (Some(handle), Some(tap)) = (handle, tap) else {
                return Err(QueueError::Setup);
            };
            let index = queue.index % 2;
            hand_over(handle, index, queue, &self.ram, &self.errors)?;
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
}
