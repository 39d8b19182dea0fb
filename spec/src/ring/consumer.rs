//! The end that empties a ring (`[RING-5]`, `[RING-7]`).
//!
//! Used by the host for submissions and by the guest for completions. Each call does bounded work,
//! whatever the other side writes meanwhile: the tail is fetched once, checked, and only what it
//! covered then is taken.

use super::{Corrupt, Geometry};
use crate::mem::{Defect, Load, SharedMem, Store};

/// Takes entries of `W` words from a ring.
#[derive(Clone, Debug)]
pub struct Consumer<const W: usize> {
    geometry: Geometry,
    /// The next index to take; ahead of `released` by what is taken and not given back.
    head: u32,
    /// What the producer has been told.
    released: u32,
    /// The last tail that was accepted.
    tail: u32,
    broken: Option<Corrupt>,
}

/// What [`Consumer::drain`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Entries handed out.
    pub taken: u32,
    /// Whether entries that were there at the start are left, for want of budget.
    pub has_more: bool,
}

impl<const W: usize> Consumer<W> {
    /// Starts at `index`: zero after registration, the saved index after a restore.
    pub const fn new(geometry: Geometry, index: u32) -> Self {
        Self {
            geometry,
            head: index,
            released: index,
            tail: index,
            broken: None,
        }
    }

    /// The index of the next entry to take.
    pub const fn head(&self) -> u32 {
        self.head
    }

    /// Entries known to be there and not taken yet, without looking.
    pub const fn known(&self) -> u32 {
        self.tail.wrapping_sub(self.head)
    }

    /// Whether the ring is corrupt, and how.
    pub const fn broken(&self) -> Option<Corrupt> {
        self.broken
    }

    /// Entries that can be taken, after one look at the producer's index.
    pub fn look<M: SharedMem>(&mut self, mem: &M) -> Result<u32, Corrupt> {
        if let Some(corrupt) = self.broken {
            return Err(corrupt);
        }
        // Acquire pairs with the producer's release of its tail: the words of every entry that this
        // tail covers are visible to the copy that follows. Relaxed, the copy could be older.
        let order = match M::DEFECT {
            Defect::TailLoadRelaxed => Load::Relaxed,
            _ => Load::Acquire,
        };
        let fetched = mem.load_u32(self.geometry.tail, order);
        match (self.geometry.size).accept_tail(self.head, self.tail, fetched) {
            Some(used) => {
                self.tail = match M::DEFECT {
                    Defect::FetchTwice => mem.load_u32(self.geometry.tail, order),
                    _ => fetched,
                };
                Ok(used)
            }
            None => {
                let corrupt = Corrupt {
                    own: self.head,
                    known: self.tail,
                    fetched,
                };
                if !matches!(M::DEFECT, Defect::ForgetCorrupt) {
                    self.broken = Some(corrupt);
                }
                Err(corrupt)
            }
        }
    }

    /// Takes the next entry, or `None` on an empty ring; its slot stays taken until
    /// [`Consumer::release`].
    ///
    /// The entry is copied once, word by word. If the producer rewrites it meanwhile, the copy is
    /// some mixture of what it wrote, and that is what it has asked for (`[TRUST-2]`).
    pub fn take<M: SharedMem>(&mut self, mem: &M) -> Result<Option<[u64; W]>, Corrupt> {
        if self.known() == 0 && self.look(mem)? == 0 {
            return Ok(None);
        }
        Ok(Some(self.copy_next(mem)))
    }

    /// Gives the slots of all taken entries back to the producer.
    pub fn release<M: SharedMem>(&mut self, mem: &M) {
        if self.released == self.head {
            return;
        }
        // Release pairs with the producer's acquire load of the head: our copy is over before the
        // producer may write the slot again.
        mem.store_u32(self.geometry.head, self.head, Store::Release);
        self.released = self.head;
    }

    /// Takes and releases one entry.
    pub fn pop<M: SharedMem>(&mut self, mem: &M) -> Result<Option<[u64; W]>, Corrupt> {
        let entry = self.take(mem)?;
        self.release(mem);
        Ok(entry)
    }

    /// Looks once and hands out at most `budget` entries (`[RING-7]`).
    pub fn drain<M: SharedMem>(
        &mut self,
        mem: &M,
        budget: u32,
        mut each: impl FnMut([u64; W]),
    ) -> Result<Drained, Corrupt> {
        let there = self.look(mem)?;
        let taken = there.min(budget);
        for _ in 0..taken {
            each(self.copy_next(mem));
        }
        self.release(mem);
        Ok(Drained {
            taken,
            has_more: there > taken,
        })
    }

    /// Copies the entry at the head, which must be known to be there.
    fn copy_next<M: SharedMem>(&mut self, mem: &M) -> [u64; W] {
        let at = self.geometry.entry(self.head, W);
        self.head = self.head.wrapping_add(1);
        if matches!(M::DEFECT, Defect::HeadBeforeCopy) {
            self.release(mem);
        }
        let mut words = [0; W];
        mem.read_words(at, &mut words);
        words
    }
}
