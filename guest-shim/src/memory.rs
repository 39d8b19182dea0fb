//! Which free memory the host backs: what is given back, what is kept, what is backed ahead of use.
//!
//! Memory is looked at in blocks of 2 MiB. A guest's kernel reports blocks that have been free for
//! a while ([`Blocks::free`]) and blocks that are taken into use ([`Blocks::used`]); what to do with
//! them is decided here, and done by the caller, who also asks now and then what to back ahead
//! ([`Blocks::next_ahead`]). Nothing here sleeps, locks or allocates: all state is in words that the
//! caller provides, and every function can be called from any context on any CPU.
//!
//! The policy: a *reserve* of free blocks stays backed, and what is free beyond it is given back.
//! Whoever takes a block of the reserve pays nothing. A block that was given back is *watched*: the
//! first use of any page of it asks for the whole block, one exit in place of 512. Such a miss
//! raises the reserve's aim by one block; every [`DECAY_BLOCKS`] blocks freed without a miss lower
//! it by an eighth. When the reserve has less than half of its aim, it is filled up from the blocks
//! that were given back, in the order in which they were: a kernel that puts what it reported to
//! the end of its free lists takes them into use in that order.
//!
//! A wrong answer costs exits, and never contents: only a block that the kernel has just offered
//! is released.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes of a block, as a power of two.
pub const BLOCK_SHIFT: u32 = 21;
/// Blocks that are freed without a miss until the reserve's aim sinks.
const DECAY_BLOCKS: u64 = 64;
/// The reserve's aim is at least this part of memory, and at most that.
const LEAST_PART: u64 = 64;
const MOST_PART: u64 = 8;
/// Bit maps before the queue.
const MAPS: usize = 4;

/// What becomes of a free block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Free {
    /// Nothing.
    Keep,
    /// It is given back.
    Release,
    /// It is backed, as part of the reserve.
    Populate,
}

/// What the use of a block asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// The block is to be backed now.
    pub populate: bool,
    /// The reserve is to be filled up, soon.
    pub ahead: bool,
}

/// What the caller does of all this.
#[derive(Clone, Copy, Debug)]
pub struct Switches {
    /// Back blocks: at first sight, when they are used, and ahead.
    pub populate: bool,
    /// Give blocks back.
    pub release: bool,
}

/// Counts, for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Free blocks that are backed.
    pub reserve: u64,
    /// How many there should be.
    pub aim: u64,
    /// Blocks of the reserve that were taken into use.
    pub hits: u64,
    /// Blocks that were not backed when they were.
    pub misses: u64,
    /// Blocks backed ahead.
    pub ahead: u64,
    /// Blocks given back.
    pub released: u64,
}

/// All blocks of a guest.
#[derive(Debug)]
pub struct Blocks<'a> {
    switches: Switches,
    nr_blocks: u64,
    /// Free, and backed or not; a block that is used has no bit here, so one test finds both kinds.
    watched: &'a [AtomicU64],
    /// Of those that are watched: not backed.
    absent: &'a [AtomicU64],
    /// Seen free at least once. What is in a block that was not seen is not known.
    known: &'a [AtomicU64],
    /// In the queue.
    queued: &'a [AtomicU64],
    /// Blocks in the order in which they were given back. Each is in it at most once, so it has room.
    queue: &'a [AtomicU64],
    /// Free-running; written by [`Blocks::free`] and by [`Blocks::next_ahead`].
    queue_in: AtomicU64,
    queue_out: AtomicU64,
    reserve: AtomicU64,
    aim: AtomicU64,
    freed: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    ahead: AtomicU64,
    released: AtomicU64,
}

impl<'a> Blocks<'a> {
    /// How many words are needed for a guest of so many blocks.
    pub const fn words(nr_blocks: usize) -> usize {
        MAPS * Self::map_words(nr_blocks) + nr_blocks
    }

    const fn map_words(nr_blocks: usize) -> usize {
        nr_blocks.div_ceil(64)
    }

    /// All blocks unknown; `words` are zero, and as many as [`Blocks::words`] says.
    pub fn new(nr_blocks: usize, words: &'a [AtomicU64], switches: Switches) -> Option<Self> {
        if words.len() != Self::words(nr_blocks) || nr_blocks == 0 {
            return None;
        }
        let len = Self::map_words(nr_blocks);
        let (watched, rest) = words.split_at_checked(len)?;
        let (absent, rest) = rest.split_at_checked(len)?;
        let (known, rest) = rest.split_at_checked(len)?;
        let (queued, queue) = rest.split_at_checked(len)?;
        let nr_blocks = nr_blocks as u64;
        Some(Self {
            switches,
            nr_blocks,
            watched,
            absent,
            known,
            queued,
            queue,
            queue_in: AtomicU64::new(0),
            queue_out: AtomicU64::new(0),
            reserve: AtomicU64::new(0),
            aim: AtomicU64::new(least(nr_blocks)),
            freed: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
            released: AtomicU64::new(0),
        })
    }

    /// The map of blocks of whose use [`Blocks::used`] wants to know: a bit each.
    pub fn watched(&self) -> &'a [AtomicU64] {
        self.watched
    }

    /// How it stands.
    pub fn figures(&self) -> Figures {
        Figures {
            reserve: self.reserve.load(Relaxed),
            aim: self.aim.load(Relaxed),
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            ahead: self.ahead.load(Relaxed),
            released: self.released.load(Relaxed),
        }
    }

    /// The kernel offers a block that has been free for a while. Called by one thread at a time,
    /// before the block can be used again; what is answered has to be done.
    pub fn free(&self, block: u64) -> Free {
        if block >= self.nr_blocks {
            return Free::Keep;
        }
        if !self.switches.populate {
            // Nobody watches, so nothing is known of a block but that it is free now.
            self.released.fetch_add(1, Relaxed);
            return Free::Release;
        }
        if test(self.watched, block) {
            // Offered before, and not used since: it was merged with a neighbour.
            return Free::Keep;
        }
        let is_new = !set(self.known, block);
        self.decay();
        if self.reserve.load(Relaxed) < self.aim.load(Relaxed) {
            self.reserve.fetch_add(1, Relaxed);
            set(self.watched, block);
            return if is_new { Free::Populate } else { Free::Keep };
        }
        if !self.switches.release && !is_new {
            // It was used, so it is backed.
            return Free::Keep;
        }
        set(self.absent, block);
        set(self.watched, block);
        self.enqueue(block);
        if !self.switches.release {
            return Free::Keep;
        }
        self.released.fetch_add(1, Relaxed);
        Free::Release
    }

    /// What was answered for a block of [`Blocks::free`] could not be done: it is as it was before, and will be offered
    /// again. Called before it can be used.
    pub fn refused(&self, block: u64) {
        if block >= self.nr_blocks {
            return;
        }
        let is_watched = clear(self.watched, block);
        if clear(self.absent, block) || !self.switches.populate {
            let less = |released: u64| Some(released.saturating_sub(1));
            let _ = self.released.fetch_update(Relaxed, Relaxed, less);
        } else if is_watched {
            clear(self.known, block);
            self.leave_reserve();
        }
    }

    /// A page of a watched block is taken into use.
    pub fn used(&self, block: u64) -> Used {
        // Of several CPUs that see it at once, one gets it.
        if block >= self.nr_blocks || !clear(self.watched, block) {
            return Used::default();
        }
        let is_miss = clear(self.absent, block);
        if is_miss {
            self.misses.fetch_add(1, Relaxed);
            self.freed.store(0, Relaxed);
            let most = self.nr_blocks / MOST_PART;
            let raise = |aim: u64| (aim < most).then(|| aim + 1);
            let _ = self.aim.fetch_update(Relaxed, Relaxed, raise);
        } else {
            self.hits.fetch_add(1, Relaxed);
            self.leave_reserve();
        }
        Used {
            populate: is_miss,
            ahead: self.is_low() && !self.is_queue_empty(),
        }
    }

    /// The next block to back ahead of use, until the reserve is full; then to be told by
    /// [`Blocks::backed`]. Called by one thread at a time.
    pub fn next_ahead(&self) -> Option<u64> {
        while self.reserve.load(Relaxed) < self.aim.load(Relaxed) {
            let block = self.dequeue()?;
            // Those that were used meanwhile are not ours any more.
            if test(self.absent, block) {
                return Some(block);
            }
        }
        None
    }

    /// A block of [`Blocks::next_ahead`] is backed. Up to here its use is a miss: whoever takes it
    /// while the host is still at it asks for it too, and does not touch it page by page.
    pub fn backed(&self, block: u64) {
        // Counted before it can be taken: `used` subtracts what is here already.
        self.reserve.fetch_add(1, Relaxed);
        if clear(self.absent, block) {
            self.ahead.fetch_add(1, Relaxed);
        } else {
            self.leave_reserve();
        }
    }

    fn leave_reserve(&self) {
        let less = |reserve: u64| Some(reserve.saturating_sub(1));
        let _ = self.reserve.fetch_update(Relaxed, Relaxed, less);
    }

    fn is_low(&self) -> bool {
        self.reserve.load(Relaxed) < self.aim.load(Relaxed) / 2
    }

    fn decay(&self) {
        if self.freed.fetch_add(1, Relaxed) + 1 < DECAY_BLOCKS {
            return;
        }
        self.freed.store(0, Relaxed);
        let least = least(self.nr_blocks);
        let lower = |aim: u64| Some((aim - aim / 8).max(least));
        let _ = self.aim.fetch_update(Relaxed, Relaxed, lower);
    }

    fn is_queue_empty(&self) -> bool {
        self.queue_in.load(Relaxed) == self.queue_out.load(Relaxed)
    }

    fn enqueue(&self, block: u64) {
        if set(self.queued, block) {
            return;
        }
        let at = self.queue_in.load(Relaxed);
        if let Some(slot) = self.slot(at) {
            slot.store(block, Relaxed);
        }
        // Release by a fence, for the block before its index; pairs with the one in `dequeue`.
        core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
        self.queue_in.store(self.next(at), Relaxed);
    }

    fn dequeue(&self) -> Option<u64> {
        let at = self.queue_out.load(Relaxed);
        if at == self.queue_in.load(Relaxed) {
            return None;
        }
        core::sync::atomic::fence(core::sync::atomic::Ordering::Acquire);
        let block = self.slot(at)?.load(Relaxed);
        self.queue_out.store(self.next(at), Relaxed);
        clear(self.queued, block);
        Some(block)
    }

    /// Indices run through the queue twice before they begin anew, so that full is not empty.
    fn next(&self, at: u64) -> u64 {
        let next = at + 1;
        if next == 2 * self.nr_blocks {
            0
        } else {
            next
        }
    }

    fn slot(&self, at: u64) -> Option<&AtomicU64> {
        let at = at.checked_sub(self.nr_blocks).unwrap_or(at);
        self.queue.get(usize::try_from(at).ok()?)
    }
}

fn least(nr_blocks: u64) -> u64 {
    (nr_blocks / LEAST_PART).max(1)
}

fn word(map: &[AtomicU64], block: u64) -> Option<(&AtomicU64, u64)> {
    let word = map.get(usize::try_from(block / 64).ok()?)?;
    Some((word, 1 << (block % 64)))
}

fn test(map: &[AtomicU64], block: u64) -> bool {
    word(map, block).is_some_and(|(word, bit)| word.load(Relaxed) & bit != 0)
}

/// Whether the bit was set before.
fn set(map: &[AtomicU64], block: u64) -> bool {
    word(map, block).is_some_and(|(word, bit)| word.fetch_or(bit, Relaxed) & bit != 0)
}

/// Whether the bit was set before.
fn clear(map: &[AtomicU64], block: u64) -> bool {
    word(map, block).is_some_and(|(word, bit)| word.fetch_and(!bit, Relaxed) & bit != 0)
}
