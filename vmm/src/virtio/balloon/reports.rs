//! Free pages that a guest reports: given back, and no more of them in one turn than others can wait for.
//!
//! Called for each chain of the queue for reports, on the I/O thread, which all devices share. A guest may
//! report all of its memory in every buffer of every chain, again and again.

use vm_memory::GuestMemoryMmap;

use super::super::chain::Segments;
use super::super::sys;

/// Pieces and bytes taken from one chain, and the most before another queue has its turn. Linux reports up
/// to 32 pieces of up to 4 MiB at once. What is more in one chain stays the guest's memory.
pub(super) const MAX_PIECES: usize = 64;
pub(super) const MAX_BYTES: u64 = 128 << 20;

/// What one turn may still take.
pub(super) struct Turn {
    pieces: usize,
    bytes: u64,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self {
            pieces: MAX_PIECES,
            bytes: MAX_BYTES,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.pieces == 0 || self.bytes == 0
    }

    /// Gives a chain's pages back. Returns their size.
    pub(super) fn release(&mut self, chain: &mut Segments<'_>, ram: &GuestMemoryMmap<()>) -> u64 {
        let report = chain.take_front(MAX_BYTES).take_pieces(MAX_PIECES);
        self.pieces = self.pieces.saturating_sub(report.slices().count());
        self.bytes = self.bytes.saturating_sub(report.len_bytes());
        // What is not whole pages, or cannot be given back, is a report that the host makes no use of:
        // the guest's memory stays as it is.
        sys::discard(&report, ram).unwrap_or(0)
    }
}
