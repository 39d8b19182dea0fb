//! The end that fills a ring (`[RING-4]`, `[RING-6]`).
//!
//! Used by the guest for submissions and by the host for completions. It never waits: a full ring
//! is an answer, and what to do about it is the caller's matter.

use core::fmt;

use super::{Corrupt, Geometry};
use crate::mem::{Defect, Load, SharedMem, Store};

/// Fills a ring with entries of `W` words.
#[derive(Clone, Debug)]
pub struct Producer<const W: usize> {
    geometry: Geometry,
    /// The next index to write; ahead of `published` by what is staged.
    tail: u32,
    /// What the consumer has been told.
    published: u32,
    /// The last head that was accepted.
    head: u32,
    broken: Option<Corrupt>,
}

/// Why an entry was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// The consumer has given no slot back. Nothing was written.
    Full,
    /// The consumer's index is impossible, now or earlier.
    Corrupt(Corrupt),
}

impl<const W: usize> Producer<W> {
    /// Starts on a freshly registered ring, both of whose indices are `index`.
    pub const fn new(geometry: Geometry, index: u32) -> Self {
        Self {
            geometry,
            tail: index,
            published: index,
            head: index,
            broken: None,
        }
    }

    /// Goes on at `tail` after a restore, when the consumer may be anywhere behind it.
    pub const fn resume(geometry: Geometry, tail: u32) -> Self {
        Self {
            geometry,
            tail,
            published: tail,
            // As if full: the first call looks where the consumer is, and accepts all that can be.
            head: tail.wrapping_sub(geometry.size.entries()),
            broken: None,
        }
    }

    /// The index that the next entry gets.
    pub const fn tail(&self) -> u32 {
        self.tail
    }

    /// Entries written but not published.
    pub const fn staged(&self) -> u32 {
        self.tail.wrapping_sub(self.published)
    }

    /// How many entries the ring holds.
    pub const fn capacity(&self) -> u32 {
        self.geometry.size.entries()
    }

    /// Whether the ring is corrupt, and how.
    pub const fn broken(&self) -> Option<Corrupt> {
        self.broken
    }

    /// Free slots, after one look at the consumer's index.
    pub fn free<M: SharedMem>(&mut self, mem: &M) -> Result<u32, Corrupt> {
        if let Some(corrupt) = self.broken {
            return Err(corrupt);
        }
        // Acquire pairs with the consumer's release of its head: its copy of the entry is over
        // before we write that slot again. Relaxed, our words could land in the copy.
        let fetched = mem.load_u32(self.geometry.head, Load::Acquire);
        let size = self.geometry.size;
        match size.accept_head(self.head, self.tail, fetched) {
            Some(free) => {
                self.head = fetched;
                Ok(free)
            }
            None => {
                let corrupt = Corrupt {
                    own: self.tail,
                    known: self.head,
                    fetched,
                };
                self.broken = Some(corrupt);
                Err(corrupt)
            }
        }
    }

    /// Writes an entry that stays invisible until [`Producer::publish`].
    pub fn stage<M: SharedMem>(&mut self, mem: &M, words: &[u64; W]) -> Result<(), PushError> {
        if let Some(corrupt) = self.broken {
            return Err(PushError::Corrupt(corrupt));
        }
        if self.is_full::<M>() {
            self.free(mem).map_err(PushError::Corrupt)?;
            if self.is_full::<M>() {
                return Err(PushError::Full);
            }
        }
        let at = self.geometry.entry(self.masked::<M>(self.tail), W);
        self.tail = self.tail.wrapping_add(1);
        if matches!(M::DEFECT, Defect::TailBeforeEntry) {
            self.publish(mem);
        }
        mem.write_words(at, words);
        Ok(())
    }

    /// Makes all staged entries visible.
    pub fn publish<M: SharedMem>(&mut self, mem: &M) {
        // Release pairs with the consumer's acquire load of the tail: an entry's words are visible
        // before the tail that covers them. Relaxed, the consumer could copy what stood there.
        let order = match M::DEFECT {
            Defect::TailRelaxed => Store::Relaxed,
            _ => Store::Release,
        };
        mem.store_u32(self.geometry.tail, self.tail, order);
        self.published = self.tail;
    }

    /// Makes staged entries visible, if there are any.
    pub(super) fn publish_staged<M: SharedMem>(&mut self, mem: &M) {
        if self.staged() > 0 {
            self.publish(mem);
        }
    }

    /// Stages and publishes one entry.
    pub fn push<M: SharedMem>(&mut self, mem: &M, words: &[u64; W]) -> Result<(), PushError> {
        self.stage(mem, words)?;
        self.publish(mem);
        Ok(())
    }

    /// Whether no slot is free by what is known of the consumer.
    fn is_full<M: SharedMem>(&self) -> bool {
        let slack = matches!(M::DEFECT, Defect::FullOffByOne);
        let used = self.tail.wrapping_sub(self.head);
        used >= self.geometry.size.entries() + u32::from(slack)
    }

    fn masked<M: SharedMem>(&self, index: u32) -> u32 {
        match M::DEFECT {
            Defect::SlotMask => index & (self.geometry.size.entries() - 1) >> 1,
            _ => index,
        }
    }
}

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PushError::Full => f.write_str("ring is full"),
            PushError::Corrupt(corrupt) => corrupt.fmt(f),
        }
    }
}

impl core::error::Error for PushError {}
