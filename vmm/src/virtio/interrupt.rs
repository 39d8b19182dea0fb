//! How a device interrupts its guest: which MSI-X vector stands for what, and the two flags that
//! the I/O thread shows to the transport.
//!
//! All fields are atomics, so the I/O thread raises an interrupt without the function's lock. They
//! order nothing: the ring's own fences do that, and a vector that changes while an interrupt is on
//! its way may get either.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU8, Ordering};
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::pci::Msix;

/// "No vector": the guest does not want this interrupt.
pub(super) const NO_VECTOR: u16 = 0xffff;

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

pub(super) struct Interrupts {
    msix: Arc<Msix>,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
    isr: AtomicU8,
    generation: AtomicU8,
    needs_reset: AtomicBool,
}

impl Interrupts {
    pub(super) fn new(msix: Arc<Msix>, nr_queues: usize) -> Self {
        Self {
            msix,
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..nr_queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            isr: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            needs_reset: AtomicBool::new(false),
        }
    }

    /// Tells the guest that a queue has used buffers.
    pub(super) fn signal_queue(&self, index: usize) {
        self.isr.fetch_or(ISR_QUEUE, Ordering::Relaxed);
        if let Some(vector) = self.queue_vectors.get(index) {
            self.msix.trigger(vector.load(Ordering::Relaxed));
        }
    }

    /// Which configuration the guest reads (virtio 1.2, 4.1.4.3.1). Whoever changes it holds the backend's lock, as who
    /// reads it does, until [`Interrupts::signal_config`] has been called.
    pub(super) fn generation(&self) -> u8 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Tells the guest that the device's configuration has changed.
    pub(super) fn signal_config(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.isr.fetch_or(ISR_CONFIG, Ordering::Relaxed);
        self.msix
            .trigger(self.config_vector.load(Ordering::Relaxed));
    }

    /// An eventfd that interrupts for a queue, with the vector that it has now.
    pub(super) fn call_fd(&self, index: usize) -> io::Result<EventFd> {
        self.msix.direct_fd(self.queue_vector(index))
    }

    /// Tells the guest that only a reset helps the device.
    pub(super) fn signal_needs_reset(&self) {
        self.needs_reset.store(true, Ordering::Relaxed);
        self.isr.fetch_or(ISR_CONFIG, Ordering::Relaxed);
        self.msix
            .trigger(self.config_vector.load(Ordering::Relaxed));
    }

    pub(super) fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Relaxed)
    }

    /// The interrupt status register: reading clears it.
    pub(super) fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::Relaxed)
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::Relaxed)
    }

    /// Sets a vector; one that does not exist becomes none, which the guest reads back.
    pub(super) fn set_config_vector(&self, vector: u16) {
        self.config_vector
            .store(self.checked(vector), Ordering::Relaxed);
    }

    pub(super) fn queue_vector(&self, index: usize) -> u16 {
        self.queue_vectors
            .get(index)
            .map_or(NO_VECTOR, |vector| vector.load(Ordering::Relaxed))
    }

    pub(super) fn set_queue_vector(&self, index: usize, vector: u16) {
        if let Some(target) = self.queue_vectors.get(index) {
            target.store(self.checked(vector), Ordering::Relaxed);
        }
    }

    pub(super) fn reset(&self) {
        self.config_vector.store(NO_VECTOR, Ordering::Relaxed);
        self.queue_vectors
            .iter()
            .for_each(|vector| vector.store(NO_VECTOR, Ordering::Relaxed));
        self.isr.store(0, Ordering::Relaxed);
        self.needs_reset.store(false, Ordering::Relaxed);
        self.msix.clear_pending();
    }

    fn checked(&self, vector: u16) -> u16 {
        if vector < self.msix.nr_vectors() {
            vector
        } else {
            NO_VECTOR
        }
    }
}
