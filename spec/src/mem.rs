//! Memory that two sides share, as the algorithms of this crate see it (`[ORDER-1]`).
//!
//! The VMM's mapping of guest memory, a kernel's page, a test buffer and a model checker's memory
//! implement [`SharedMem`]; the ring, the lease and the timer word are written once, over it.
//! It is a safe trait: this crate holds no unsafe code, so a wrong implementation gives wrong
//! results here but no undefined behaviour. Nothing in this crate may ever ask for a reference into
//! shared memory, because the other side writes it at any time.

use core::sync::atomic::{fence, AtomicU64, Ordering};

/// The order of a load. Who it pairs with is said at each use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// The value alone.
    Relaxed,
    /// What the other side wrote before its [`Store::Release`] of this value is visible after it.
    Acquire,
}

/// The order of a store. Who it pairs with is said at each use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// The value alone.
    Relaxed,
    /// Whoever loads this value with [`Load::Acquire`] also sees everything written before it.
    Release,
}

impl Load {
    /// The same order for [`core::sync::atomic`].
    pub const fn ordering(self) -> Ordering {
        match self {
            Load::Relaxed => Ordering::Relaxed,
            Load::Acquire => Ordering::Acquire,
        }
    }
}

impl Store {
    /// The same order for [`core::sync::atomic`].
    pub const fn ordering(self) -> Ordering {
        match self {
            Store::Relaxed => Ordering::Relaxed,
            Store::Release => Ordering::Release,
        }
    }
}

/// One vCPU's area of shared memory, addressed by byte offset from its start.
///
/// Offsets that this crate passes are aligned to the access and inside the area whose layout the
/// caller gave; an implementation checks them all the same, or is otherwise memory safe for any
/// value. Accesses are single-copy atomic: a value read was written whole by one store.
pub trait SharedMem {
    /// A defect that the algorithms show when run on this memory, to see that tests find it.
    #[doc(hidden)]
    const DEFECT: Defect = Defect::None;

    /// Loads the 32-bit word at `offset`.
    fn load_u32(&self, offset: usize, order: Load) -> u32;
    /// Stores the 32-bit word at `offset`.
    fn store_u32(&self, offset: usize, value: u32, order: Store);
    /// Loads the 64-bit word at `offset`.
    fn load_u64(&self, offset: usize, order: Load) -> u64;
    /// Stores the 64-bit word at `offset`.
    fn store_u64(&self, offset: usize, value: u64, order: Store);
    /// A full fence: no store before it may become visible after a load behind it.
    ///
    /// `fence(SeqCst)`, `MFENCE` or a locked instruction; an acquire-release fence is not enough.
    fn fence_full(&self);

    /// Copies words out, each fetched exactly once (`[TRUST-2]`).
    fn read_words(&self, offset: usize, words: &mut [u64]) {
        let mut at = offset;
        for word in words {
            *word = self.load_u64(at, Load::Relaxed);
            at += 8;
        }
    }

    /// Copies words in. They become visible with the release store that follows.
    fn write_words(&self, offset: usize, words: &[u64]) {
        let mut at = offset;
        for word in words {
            self.store_u64(at, *word, Store::Relaxed);
            at += 8;
        }
    }
}

impl<M: SharedMem + ?Sized> SharedMem for &M {
    const DEFECT: Defect = M::DEFECT;

    fn load_u32(&self, offset: usize, order: Load) -> u32 {
        (**self).load_u32(offset, order)
    }
    fn store_u32(&self, offset: usize, value: u32, order: Store) {
        (**self).store_u32(offset, value, order);
    }
    fn load_u64(&self, offset: usize, order: Load) -> u64 {
        (**self).load_u64(offset, order)
    }
    fn store_u64(&self, offset: usize, value: u64, order: Store) {
        (**self).store_u64(offset, value, order);
    }
    fn fence_full(&self) {
        (**self).fence_full();
    }
}

/// Shared memory over a slice of atomic words: for tests, mocks and fuzzers.
///
/// A 32-bit store is a read-modify-write of its 64-bit word, so this is not for hot paths. An
/// access outside the slice reads zero and writes nothing.
#[derive(Clone, Copy, Debug)]
pub struct AtomicWords<'a>(pub &'a [AtomicU64]);

impl AtomicWords<'_> {
    fn half(offset: usize) -> u32 {
        if offset & 4 == 0 {
            0
        } else {
            32
        }
    }
}

impl SharedMem for AtomicWords<'_> {
    fn load_u32(&self, offset: usize, order: Load) -> u32 {
        let word = self.load_u64(offset & !7, order) >> Self::half(offset);
        let [b0, b1, b2, b3, ..] = word.to_le_bytes();
        u32::from_le_bytes([b0, b1, b2, b3])
    }

    fn store_u32(&self, offset: usize, value: u32, order: Store) {
        let Some(word) = self.0.get(offset / 8) else {
            return;
        };
        let keep = !(u64::from(u32::MAX) << Self::half(offset));
        let set = u64::from(value) << Self::half(offset);
        let mut old = word.load(Ordering::Relaxed);
        while let Err(now) =
            word.compare_exchange_weak(old, old & keep | set, order.ordering(), Ordering::Relaxed)
        {
            old = now;
        }
    }

    fn load_u64(&self, offset: usize, order: Load) -> u64 {
        self.0
            .get(offset / 8)
            .map_or(0, |word| word.load(order.ordering()))
    }

    fn store_u64(&self, offset: usize, value: u64, order: Store) {
        if let Some(word) = self.0.get(offset / 8) {
            word.store(value, order.ordering());
        }
    }

    fn fence_full(&self) {
        fence(Ordering::SeqCst);
    }
}

/// A known mistake in one of the algorithms, chosen by a memory's type.
///
/// Every real memory has [`Defect::None`], and the compiler removes the rest. The tests run each
/// property and each model on a memory with a defect and require it to fail: that is how we know
/// that the suite can fail.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// The algorithms as specified.
    None,
    /// The producer publishes the tail before the entry is written.
    TailBeforeEntry,
    /// The producer publishes the tail without release order.
    TailRelaxed,
    /// The producer takes the ring for one entry longer than it is.
    FullOffByOne,
    /// The consumer gives the slot back before it has copied the entry.
    HeadBeforeCopy,
    /// The consumer loads the tail without acquire order.
    TailLoadRelaxed,
    /// The consumer fetches the tail once to check and once to use.
    FetchTwice,
    /// The consumer forgets that the ring was corrupt.
    ForgetCorrupt,
    /// A slot is the index masked with one bit too few.
    SlotMask,
    /// The guest looks at the lease before it publishes, and not again.
    LeaseReadOnce,
    /// The guest does not fence between publication and lease.
    PublishNoFence,
    /// The host does not fence between revoking the lease and its last look.
    RevokeNoFence,
    /// The host keeps its armed word while it reads the deadline.
    TimerKeepsArmed,
    /// The host does not fence between disarming and reading the deadline.
    TimerNoFence,
    /// The guest does not look whether the host takes this deadline for served.
    TimerIgnoresServed,
    /// The host does not fence between a posting and its second look at the accept word.
    PostNoFence,
    /// The host does not look at the accept word a second time.
    PostLoadsOnce,
    /// The guest does not fence between the end of accepting and its last look.
    EndNoFence,
}
