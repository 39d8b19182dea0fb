//! virtio-rng: random bytes of the host's kernel.

use vm_memory::GuestMemoryMmap;

use super::device::{read_config, Progress, QueueError, VirtioDevice, QUEUE_SIZE_MAX};
use super::queue::DeviceQueue;
use super::sys;

const TYPE_ENTROPY: u16 = 4;
const CLASS_OTHER: u32 = 0xff_00_00;

/// More than this is not given for one request, however large; drivers ask again.
const MAX_REQUEST_BYTES: u64 = 64 << 10;

/// The entropy device.
#[derive(Debug, Default)]
pub struct Rng;

impl Rng {
    /// Creates the device.
    pub fn new() -> Self {
        Self
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u16 {
        TYPE_ENTROPY
    }
    fn name(&self) -> &str {
        "virtio-rng"
    }
    fn pci_class(&self) -> u32 {
        CLASS_OTHER
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE_MAX]
    }
    fn config_read(&self, offset: u64, data: &mut [u8]) {
        read_config(&[], offset, data);
    }

    fn can_be_polled(&self, _queue_index: usize) -> bool {
        // The polling thread leaves each request to the I/O thread: random bytes take their time.
        true
    }

    fn process(
        &mut self,
        _queue_index: usize,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        while let Some(mut chain) = queue.pop(ram)? {
            let target = chain.writable.take_front(MAX_REQUEST_BYTES);
            let len = u32::try_from(target.len_bytes()).unwrap_or(0);
            // A host without random numbers gives none: the guest waits or asks elsewhere.
            let len = sys::fill_random(&target).map_or(0, |()| len);
            queue.add_used(ram, chain.head(), len)?;
        }
        Ok(Progress::Drained)
    }
}
