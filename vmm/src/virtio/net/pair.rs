//! A queue pair that this process serves: packets from the tap to the guest and back.
//!
//! Called on the I/O thread. A packet from the tap is in a buffer of ours until the guest has room
//! for it; a packet of the guest's goes from its memory straight to the tap.

use std::io::{self, Read};
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::tap::Tap;
use super::HEADER_BYTES;
use crate::virtio::chain::Chain;
use crate::virtio::device::{Progress, QueueError};
use crate::virtio::queue::DeviceQueue;
use crate::virtio::sys;

/// The longest packet: our header, Ethernet's with a VLAN tag, and 64 KiB of an offloaded segment.
const MAX_PACKET_BYTES: usize = HEADER_BYTES + 18 + (64 << 10);
/// In the header: how many chains the packet takes.
const NR_CHAINS: std::ops::Range<usize> = 10..12;

pub(super) struct Pair {
    pub(super) tap: Tap,
    /// Whether the tap may use it.
    pub(super) is_enabled: bool,
    buffer: Box<[u8]>,
    // How much of the buffer is a packet that waits for room.
    pending_bytes: usize,
}

/// What became of a packet for the guest.
enum Delivery {
    Done,
    /// It cannot be delivered at all.
    Dropped,
    /// There is no room yet.
    Later(Progress),
}

impl Pair {
    pub(super) fn new(tap: Tap) -> Self {
        Self {
            tap,
            is_enabled: true,
            buffer: vec![0; MAX_PACKET_BYTES].into_boxed_slice(),
            pending_bytes: 0,
        }
    }

    /// Forgets what was on its way.
    pub(super) fn reset(&mut self) {
        self.pending_bytes = 0;
    }

    /// Hands packets of the tap to the guest until one of them has no more.
    pub(super) fn receive(
        &mut self,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
        merges: bool,
    ) -> Result<Progress, QueueError> {
        loop {
            if self.pending_bytes == 0 {
                let file = Arc::clone(&self.tap.file);
                match (&*file).read(&mut self.buffer) {
                    Ok(len) => self.pending_bytes = len,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    // Nothing there, or the interface is gone: the next edge brings us back.
                    Err(_) => return Ok(Progress::Waiting),
                }
            }
            let delivery = if self.pending_bytes > HEADER_BYTES {
                deliver(&mut self.buffer[..self.pending_bytes], queue, ram, merges)?
            } else {
                Delivery::Dropped
            };
            match delivery {
                Delivery::Later(progress) => return Ok(progress),
                Delivery::Done => self.pending_bytes = 0,
                Delivery::Dropped => {
                    self.pending_bytes = 0;
                    // Packets that take no chain must not keep us here either.
                    if !queue.spend() {
                        return Ok(Progress::Drained);
                    }
                }
            }
        }
    }

    /// Hands the guest's packets to the tap. What the kernel refuses is lost, as on a wire.
    pub(super) fn transmit(
        &mut self,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        while let Some(chain) = queue.pop(ram)? {
            let fits = chain.readable.len_bytes() <= MAX_PACKET_BYTES as u64;
            if fits && self.is_enabled {
                match sys::write_packet(&self.tap.file, &chain.readable) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        queue.unpop();
                        return Ok(Progress::Waiting);
                    }
                    _ => {}
                }
            }
            queue.add_used(ram, chain.head(), 0)?;
        }
        Ok(Progress::Drained)
    }
}

fn deliver(
    packet: &mut [u8],
    queue: &mut DeviceQueue,
    ram: &GuestMemoryMmap<()>,
    merges: bool,
) -> Result<Delivery, QueueError> {
    let mut chains: Vec<Chain<'_>> = Vec::new();
    let mut room_bytes = 0;
    while room_bytes < packet.len() as u64 {
        let Some(chain) = queue.pop(ram)? else {
            let Some(delivery) = out_of_chains(queue, ram, chains.len())? else {
                continue;
            };
            chains.iter().for_each(|_| queue.unpop());
            return Ok(delivery);
        };
        let len_bytes = chain.writable.len_bytes();
        if chains.is_empty() && len_bytes < HEADER_BYTES as u64 {
            return Err(chain.malformed("no room for a packet's header"));
        }
        if !merges && len_bytes < packet.len() as u64 {
            queue.unpop();
            return Ok(Delivery::Dropped);
        }
        room_bytes += len_bytes;
        chains.push(chain);
    }
    // At most one queue's size.
    let nr_chains = u16::try_from(chains.len()).unwrap_or(u16::MAX);
    packet[NR_CHAINS].copy_from_slice(&nr_chains.to_le_bytes());
    let mut rest = &*packet;
    let mut used = Vec::with_capacity(chains.len());
    for chain in &mut chains {
        let written = chain.writable.write(rest);
        rest = &rest[written..];
        used.push((chain.head(), u32::try_from(written).unwrap_or(u32::MAX)));
    }
    queue.add_used_together(ram, &used)?;
    Ok(Delivery::Done)
}

/// The queue gives no chain, with `taken` for this packet. `None`: now there are more.
fn out_of_chains(
    queue: &mut DeviceQueue,
    ram: &GuestMemoryMmap<()>,
    taken: usize,
) -> Result<Option<Delivery>, QueueError> {
    if taken >= usize::from(queue.batch_size()) {
        // All that the queue can hold is not enough, or so much that it is of no use.
        return Ok(Some(Delivery::Dropped));
    }
    if queue.is_budget_spent() {
        return Ok(Some(Delivery::Later(Progress::Drained)));
    }
    // Before the chains are put back: the driver is to tell when there are more than these.
    if !queue.enable_notification(ram)? {
        return Ok(Some(Delivery::Later(Progress::Waiting)));
    }
    // A driver whose index flickers must not keep us here.
    let may_go_on = queue.spend();
    Ok((!may_go_on).then_some(Delivery::Later(Progress::Drained)))
}
