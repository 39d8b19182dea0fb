//! virtio-balloon, for free page reporting only: the guest says which memory is free, and the host
//! takes it back.
//!
//! This is what stock Linux offers for it, and what the cooperative release is compared with. The
//! balloon itself stays empty: nobody asks the guest to inflate it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::device::{read_config, Progress, QueueError, VirtioDevice, QUEUE_SIZE_MAX};
use super::queue::DeviceQueue;
use super::sys;

const TYPE_BALLOON: u16 = 5;
const CLASS_OTHER: u32 = 0xff_00_00;
const F_REPORTING: u64 = 1 << 5;
/// Behind the queues for inflating and deflating; those of features that are not offered have no
/// number.
const REPORTING_QUEUE: usize = 2;
/// Pages wanted and pages in the balloon: none.
const CONFIG: [u8; 8] = [0; 8];

/// The balloon device.
#[derive(Debug, Default)]
pub struct Balloon {
    returned_bytes: Arc<AtomicU64>,
}

impl Balloon {
    /// Creates the device.
    pub fn new() -> Self {
        Self::default()
    }

    /// How much memory the host has taken back so far.
    pub fn returned_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.returned_bytes)
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u16 {
        TYPE_BALLOON
    }
    fn name(&self) -> &str {
        "virtio-balloon"
    }
    fn pci_class(&self) -> u32 {
        CLASS_OTHER
    }
    fn features(&self) -> u64 {
        F_REPORTING
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE_MAX; REPORTING_QUEUE + 1]
    }
    fn config_read(&self, offset: u64, data: &mut [u8]) {
        read_config(&CONFIG, offset, data);
    }

    fn process(
        &mut self,
        queue_index: usize,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        while let Some(chain) = queue.pop(ram)? {
            if queue_index == REPORTING_QUEUE {
                // A report that is not whole pages, or whose pages cannot be given back, is one that
                // the host makes no use of: the guest's memory stays as it is.
                let bytes = sys::discard(&chain.writable, ram).unwrap_or(0);
                self.returned_bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            queue.add_used(ram, chain.head(), 0)?;
        }
        Ok(Progress::Drained)
    }
}
