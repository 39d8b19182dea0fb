//! The ring algorithm, once for all who use it (`[RING-1]` to `[RING-10]`).
//!
//! A ring has one [`Producer`] and one [`Consumer`]. Each keeps its own index in private memory and
//! never reads it back from the shared area; the other's index is fetched once per decision and
//! checked by [`RingSize`]. [`HostRing`] and [`GuestRing`] join the two rings of one vCPU.
//! *Full*, *empty* and *corrupt* are three different answers; corrupt is for ever.
//!
//! Nothing here rings a doorbell, sleeps or waits: the callers decide that by the lease.

mod consumer;
mod guest;
mod host;
mod index;
mod producer;

pub use consumer::{Consumer, Drained};
pub use guest::{CallError, GuestRing};
pub use host::{HostRing, SavedRing, Taken, Turn};
pub use index::RingSize;
pub use producer::{Producer, PushError};

use core::fmt;

/// Where one ring lies in a shared area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Byte offset of the producer's index, a `u32` that only the producer writes.
    pub tail: usize,
    /// Byte offset of the consumer's index, a `u32` that only the consumer writes.
    pub head: usize,
    /// Byte offset of the first entry, a multiple of 8.
    pub entries: usize,
    /// How many entries there are.
    pub size: RingSize,
}

impl Geometry {
    /// The byte offset of an index's entry.
    const fn entry(&self, index: u32, words: usize) -> usize {
        self.entries + self.size.slot(index) as usize * words * 8
    }
}

/// The other side's index cannot be true; the ring is not used any more (`[RING-5]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// This side's own index.
    pub own: u32,
    /// The last index of the other side that could be true.
    pub known: u32,
    /// The index that was fetched.
    pub fetched: u32,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ring index {:#x} is impossible after {:#x} (own index {:#x})",
            self.fetched, self.known, self.own
        )
    }
}

impl core::error::Error for Corrupt {}
