//! How much one exit, or one look, may do (`[RING-7]`, `[MMU-4]`, `[BELL-4]`).

use std::time::{Duration, Instant};

/// What is left to spend.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    entries: u32,
    bytes: u64,
    until: Instant,
}

impl Budget {
    /// Longest time that memory operations may take within one exit.
    pub const STEP_TIME: Duration = Duration::from_millis(1);
    /// Backing a byte takes as much of a budget as giving so many back: it finds memory, clears and
    /// maps it, so that one exit backs 2 MiB at most.
    pub const BACKING_WEIGHT: u64 = 64;
    /// Most submissions within one exit: one full ring, so that one doorbell empties it.
    pub const EXIT_ENTRIES: u32 = 32;
    /// Most submissions of one vCPU within one turn of the polling loop.
    pub const TURN_ENTRIES: u32 = 16;

    /// A budget of this many submissions and bytes, and of this time from now on.
    pub fn new(entries: u32, bytes: u64, time: Duration) -> Self {
        let until = Instant::now() + time;
        Self {
            entries,
            bytes,
            until,
        }
    }

    /// What one exit may do.
    pub fn exit() -> Self {
        let bytes = coopvirt_spec::discover::DEFAULT_STEP_BYTES.into();
        Self::new(Self::EXIT_ENTRIES, bytes, Self::STEP_TIME)
    }

    /// What one turn of the polling loop may do for one vCPU.
    pub fn turn() -> Self {
        Self {
            entries: Self::TURN_ENTRIES,
            ..Self::exit()
        }
    }

    /// Takes one submission off; false if none is left. Memory work that is used up ends the
    /// budget as well, or each of the submissions that follow would add one more step to it.
    pub fn take_entry(&mut self) -> bool {
        if self.entries == 0 || self.bytes == 0 {
            return false;
        }
        self.entries -= 1;
        true
    }

    /// Bytes that the next piece of memory work of this weight may have, zero if bytes or time are
    /// used up.
    pub fn bytes_left(&self, weight: u64) -> u64 {
        if self.bytes == 0 || Instant::now() >= self.until {
            0
        } else {
            self.bytes / weight.max(1)
        }
    }

    /// Takes bytes of this weight off.
    pub fn spend(&mut self, bytes: u64, weight: u64) {
        self.bytes = self.bytes.saturating_sub(bytes.saturating_mul(weight));
        if Instant::now() >= self.until {
            self.bytes = 0;
        }
    }
}
