//! The control queue: how many queue pairs the driver uses.

use vm_memory::GuestMemoryMmap;

use crate::virtio::device::{Progress, QueueError};
use crate::virtio::queue::DeviceQueue;

const CLASS_MQ: u8 = 4;
const MQ_PAIRS_SET: u8 = 0;
const ACK_OK: u8 = 0;
const ACK_ERROR: u8 = 1;

/// Takes commands; `set_pairs` says whether it can be this many.
pub(super) fn process(
    queue: &mut DeviceQueue,
    ram: &GuestMemoryMmap<()>,
    mut set_pairs: impl FnMut(u16) -> bool,
) -> Result<Progress, QueueError> {
    while let Some(mut chain) = queue.pop(ram)? {
        if chain.writable.is_empty() {
            return Err(chain.malformed("no room for a command's answer"));
        }
        let mut command = [0; 4];
        let len = chain.readable.read(&mut command);
        let is_done = match command {
            [CLASS_MQ, MQ_PAIRS_SET, low, high] if len == command.len() => {
                set_pairs(u16::from_le_bytes([low, high]))
            }
            _ => false,
        };
        chain
            .writable
            .write(&[if is_done { ACK_OK } else { ACK_ERROR }]);
        queue.add_used(ram, chain.head(), 1)?;
    }
    Ok(Progress::Drained)
}
