//! A request of the guest on its way through a back end: its head and where its buffers are.

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, VolatileSlice};

use crate::virtio::chain::Chain;
use crate::virtio::device::{QueueError, QUEUE_SIZE_MAX};

/// Most pieces of a request: as many as a chain has buffers, and some for buffers that cross from one
/// region of memory to the next.
pub(super) const MAX_PIECES: usize = QUEUE_SIZE_MAX as usize + 8;

/// A buffer of the guest's, in one region of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) gpa: u64,
    pub(super) len_bytes: u32,
    pub(super) is_written: bool,
}

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    head: u16,
    pieces: Vec<Piece>,
}

impl Request {
    /// What a chain asks, which is not looked at.
    pub(super) fn new(chain: &Chain<'_>, ram: &GuestMemoryMmap<()>) -> Result<Self, QueueError> {
        let mut pieces = Vec::new();
        for (segments, is_written) in [(&chain.readable, false), (&chain.writable, true)] {
            for slice in segments.slices() {
                let piece = piece(slice, is_written, ram);
                pieces.push(piece.ok_or_else(|| chain.malformed("buffer outside of memory"))?);
            }
        }
        if pieces.is_empty() {
            return Err(chain.malformed("no buffer"));
        }
        if pieces.len() > MAX_PIECES {
            return Err(chain.malformed("in too many pieces"));
        }
        Ok(Self {
            head: chain.head(),
            pieces,
        })
    }

    #[cfg(test)]
    pub(super) fn from_pieces(head: u16, pieces: Vec<Piece>) -> Self {
        Self { head, pieces }
    }

    pub(super) fn head(&self) -> u16 {
        self.head
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Room for the answer.
    pub(super) fn writable_bytes(&self) -> u32 {
        let written = self.pieces.iter().filter(|piece| piece.is_written);
        written.fold(0, |sum, piece| sum.saturating_add(piece.len_bytes))
    }
}

/// How a device fails a chain that no back end answers: writes what the guest has to see, and returns
/// how many bytes that was.
pub(super) type Fail = fn(&Request, &GuestMemoryMmap<()>) -> u32;

/// Where a slice of guest memory is for the guest.
fn piece(
    slice: &VolatileSlice<'_, ()>,
    is_written: bool,
    ram: &GuestMemoryMmap<()>,
) -> Option<Piece> {
    let address = slice.ptr_guard().as_ptr() as u64;
    ram.iter().find_map(|region| {
        let offset = address.checked_sub(region.as_ptr() as u64)?;
        (offset < region.len()).then_some(Piece {
            gpa: region.start_addr().0 + offset,
            len_bytes: u32::try_from(slice.len()).ok()?,
            is_written,
        })
    })
}
