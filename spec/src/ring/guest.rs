//! The guest's ends of its vCPU's two rings (`[RING-4]`, `[TRUST-7]`).
//!
//! Owned by one vCPU and used with preemption off, or by a guest with one thread per vCPU. It
//! checks the host's indices as the host checks the guest's: a broken area is abandoned, not used.

use super::{Consumer, Corrupt, Producer, PushError};
use crate::entry::{Completion, Submission, COMPLETION_WORDS, SUBMISSION_WORDS};
use crate::mem::{Load, SharedMem};
use crate::page::{at, AreaLayout};

/// Gives submissions and takes completions.
#[derive(Clone, Debug)]
pub struct GuestRing {
    submissions: Producer<SUBMISSION_WORDS>,
    completions: Consumer<COMPLETION_WORDS>,
}

/// Why a call could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The submission ring is full: drain it by the synchronous doorbell, or go without.
    Full,
    /// The area is broken: go without, for good.
    Broken,
}

impl From<PushError> for CallError {
    fn from(error: PushError) -> CallError {
        match error {
            PushError::Full => CallError::Full,
            PushError::Corrupt(_) => CallError::Broken,
        }
    }
}

impl GuestRing {
    /// Starts on a freshly registered area.
    pub const fn new(layout: AreaLayout) -> Self {
        Self {
            submissions: Producer::new(layout.submissions(), 0),
            completions: Consumer::new(layout.completions(), 0),
        }
    }

    /// Whether the area has been found broken from either side.
    pub fn is_broken<M: SharedMem>(&self, mem: &M) -> bool {
        self.submissions.broken().is_some()
            || self.completions.broken().is_some()
            || mem.load_u32(at::BROKEN, Load::Relaxed) != 0
    }

    /// Submissions written but not published.
    pub const fn staged(&self) -> u32 {
        self.submissions.staged()
    }

    /// Writes a call that the host does not see before [`GuestRing::publish`].
    pub fn stage<M: SharedMem>(&mut self, mem: &M, call: &Submission) -> Result<(), CallError> {
        Ok(self.submissions.stage(mem, &call.to_words())?)
    }

    /// Makes the staged calls visible. What comes next is [`crate::lease`]'s matter.
    pub fn publish<M: SharedMem>(&mut self, mem: &M) {
        self.submissions.publish(mem);
    }

    /// How many published submissions the host has not taken yet.
    pub fn pending<M: SharedMem>(&mut self, mem: &M) -> Result<u32, Corrupt> {
        let free = self.submissions.free(mem)?;
        Ok(self.submissions.capacity() - free - self.submissions.staged())
    }

    /// Takes the next completion, `None` if there is none.
    pub fn take<M: SharedMem>(&mut self, mem: &M) -> Result<Option<Completion>, Corrupt> {
        Ok(self.completions.pop(mem)?.map(Completion::from_words))
    }
}
