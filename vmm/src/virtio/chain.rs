//! A descriptor chain, checked once and turned into slices of guest memory.
//!
//! Devices never see descriptors. What they get is in guest memory, in the right order and bounded;
//! only its contents can still change under them.

use std::collections::VecDeque;

use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

use super::device::QueueError;

/// A request of the guest: what the device may read, then what it may write.
#[derive(Debug)]
pub struct Chain<'r> {
    head: u16,
    /// Buffers from the driver.
    pub readable: Segments<'r>,
    /// Buffers for the device's answer.
    pub writable: Segments<'r>,
}

impl<'r> Chain<'r> {
    /// Checks a whole chain, of at most so many buffers.
    pub(super) fn parse(
        descriptors: DescriptorChain<&'r GuestMemoryMmap<()>>,
        most: u16,
        ram: &'r GuestMemoryMmap<()>,
    ) -> Result<Self, QueueError> {
        let head = descriptors.head_index();
        let malformed = |what| QueueError::Chain { head, what };
        let mut chain = Self {
            head,
            readable: Segments::default(),
            writable: Segments::default(),
        };
        // The iterator ends silently at whatever it cannot follow (bad index, bad table, loop), but
        // then the last descriptor that it gave says that there is a next one, or it gave none.
        let mut is_open = true;
        for (index, descriptor) in descriptors.enumerate() {
            if index >= usize::from(most) {
                return Err(malformed("longer than the largest queue"));
            }
            let (segments, access) = if descriptor.is_write_only() {
                (&mut chain.writable, Permissions::Write)
            } else if chain.writable.slices.is_empty() {
                (&mut chain.readable, Permissions::Read)
            } else {
                return Err(malformed("readable buffer after a writable one"));
            };
            is_open = descriptor.has_next();
            let len = descriptor.len() as usize;
            let slices = ram
                .get_slices(descriptor.addr(), len, access)
                .map_err(|_| malformed("buffer outside of memory"))?;
            for slice in slices.take(if len == 0 { 0 } else { usize::MAX }) {
                let slice = slice.map_err(|_| malformed("buffer outside of memory"))?;
                segments.slices.push_back(slice);
            }
        }
        if is_open {
            return Err(malformed("loop, bad index or bad indirect table"));
        }
        Ok(chain)
    }

    /// The chain's first descriptor, which names it in the used ring.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// An error that breaks the queue because of this chain.
    pub fn malformed(&self, what: &'static str) -> QueueError {
        QueueError::Chain {
            head: self.head,
            what,
        }
    }
}

/// Guest memory that is one buffer in several pieces. Consumed from its front.
#[derive(Debug, Default)]
pub struct Segments<'r> {
    slices: VecDeque<VolatileSlice<'r, ()>>,
}

impl<'r> From<VolatileSlice<'r, ()>> for Segments<'r> {
    fn from(slice: VolatileSlice<'r, ()>) -> Self {
        Self {
            slices: VecDeque::from([slice]),
        }
    }
}

impl<'r> Segments<'r> {
    /// How many bytes are left. A chain has at most 2^32.
    pub fn len_bytes(&self) -> u64 {
        self.slices.iter().map(|slice| slice.len() as u64).sum()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.slices.iter().all(|slice| slice.is_empty())
    }

    /// The pieces, in order.
    pub fn slices(&self) -> impl Iterator<Item = &VolatileSlice<'r, ()>> {
        self.slices.iter()
    }

    /// Takes the first `len_bytes`, or everything if there is less.
    pub fn take_front(&mut self, len_bytes: u64) -> Segments<'r> {
        let mut front = Segments::default();
        let mut left = len_bytes;
        while left > 0 {
            let Some(slice) = self.slices.pop_front() else {
                break;
            };
            // A split in the middle of a slice cannot fail; at its end, all of it is taken.
            match usize::try_from(left).ok().filter(|&at| at < slice.len()) {
                Some(at) => {
                    let Ok((first, rest)) = slice.split_at(at) else {
                        break;
                    };
                    front.slices.push_back(first);
                    self.slices.push_front(rest);
                    left = 0;
                }
                None => {
                    left -= slice.len() as u64;
                    front.slices.push_back(slice);
                }
            }
        }
        front
    }

    /// Takes the first pieces, so many at most.
    pub fn take_pieces(&mut self, most: usize) -> Segments<'r> {
        let rest = self.slices.split_off(most.min(self.slices.len()));
        Segments {
            slices: std::mem::replace(&mut self.slices, rest),
        }
    }

    /// Takes the last byte.
    pub fn take_last_byte(&mut self) -> Option<Segments<'r>> {
        let front = self.take_front(self.len_bytes().checked_sub(1)?);
        let last = std::mem::replace(self, front);
        Some(last)
    }

    /// Copies from the front into `buffer`. Returns how many bytes there were.
    pub fn read(&mut self, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in &self.take_front(buffer.len() as u64).slices {
            done += slice.copy_to(&mut buffer[done..]);
        }
        done
    }

    /// Copies `data` to the front. Returns how many bytes had room.
    pub fn write(&mut self, data: &[u8]) -> usize {
        let mut done = 0;
        for slice in &self.take_front(data.len() as u64).slices {
            slice.copy_from(&data[done..]);
            done += slice.len();
        }
        done
    }
}
