//! What the worker has backed of a call that it was left, until the vCPU's own thread has mapped it for its guest.
//!
//! Only a vCPU's own thread can make second-stage mappings. A guest that rings for a call which the polling thread has
//! taken already, and the worker has carried out, would fault page by page in memory that it has just asked for. A leaf
//! lock, held for a copy.

use std::sync::{Mutex, PoisonError};

/// Pieces of one call that are kept; a list of blocks has few that do not touch.
const MOST_PIECES: usize = 64;

/// The pieces of the last call that the worker carried out for a vCPU.
#[derive(Debug, Default)]
pub struct Backed(Mutex<Vec<(u64, u64)>>);

impl Backed {
    /// A piece of the call under way is backed: its address and length in bytes.
    pub fn note(&self, gpa: u64, len_bytes: u64) {
        let mut pieces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((start, len)) = pieces.last_mut() {
            if start.checked_add(*len) == Some(gpa) {
                *len += len_bytes;
                return;
            }
        }
        if pieces.len() < MOST_PIECES {
            pieces.push((gpa, len_bytes));
        }
    }

    /// Takes the pieces. Also where another call begins, which may give them back.
    pub fn take(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_that_touch_are_one_and_there_are_never_many() {
        let backed = Backed::default();
        for piece in 0..3 {
            backed.note(0x20_0000 + piece * 0x1000, 0x1000);
        }
        for piece in 0..1_000 {
            backed.note(0x100_0000 + piece * 0x2000, 0x1000);
        }
        let pieces = backed.take();
        assert_eq!(
            (pieces[0], pieces.len()),
            ((0x20_0000, 0x3000), MOST_PIECES)
        );
        assert_eq!(backed.take(), []);
    }
}
