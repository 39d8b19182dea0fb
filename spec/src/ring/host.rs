//! The host's ends of one vCPU's two rings (`[RING-9]`, `[TRUST-6]`).
//!
//! Owned by whoever serves this vCPU now; handing it to another thread hands over both rings. It
//! never takes a submission for whose completion there would be no room, so a guest that drains
//! nothing only stops itself.

use super::{Consumer, Corrupt, Producer, PushError};
use crate::code::{BrokenReason, Status};
use crate::entry::{Completion, Submission, COMPLETION_WORDS, SUBMISSION_WORDS};
use crate::mem::SharedMem;
use crate::page::{write_broken, AreaLayout};

/// Takes submissions and gives completions.
#[derive(Clone, Debug)]
pub struct HostRing {
    submissions: Consumer<SUBMISSION_WORDS>,
    completions: Producer<COMPLETION_WORDS>,
    /// Submissions taken and not finished; each has a slot of the completion ring reserved.
    in_flight: u32,
    broken: Option<BrokenReason>,
}

/// The host's own indices, which live in no shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedRing {
    /// The next submission to take.
    pub submission_head: u32,
    /// The next completion to give.
    pub completion_tail: u32,
    /// Whether the area was broken.
    pub broken: Option<BrokenReason>,
}

/// What [`HostRing::take`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The next call.
    Submission(Submission),
    /// Nothing to do.
    Empty,
    /// There may be calls, but the guest has to drain completions first.
    Blocked,
    /// The area is broken, now or since earlier.
    Broken(BrokenReason),
}

/// One look at a ring (`[RING-7]`): fetches both indices of the guest once, when it begins, and
/// stores both of the host once, when it is dropped. Each access to a line that the other side has
/// just written costs about as much as serving an entry.
#[derive(Debug)]
pub struct Turn<'a, M: SharedMem> {
    ring: &'a mut HostRing,
    mem: &'a M,
    left: u32,
}

impl<M: SharedMem> Turn<'_, M> {
    /// Takes the next submission of those that lay there. It is finished by [`Turn::finish`], or
    /// later by [`HostRing::finish`], once.
    pub fn take(&mut self) -> Option<Submission> {
        self.left = self.left.checked_sub(1)?;
        let words = self.ring.submissions.take(self.mem).ok().flatten()?;
        self.ring.in_flight += 1;
        Some(Submission::from_words(words))
    }

    /// Finishes a submission; the guest sees it when the turn ends.
    pub fn finish(&mut self, submission: &Submission, done: Completion) {
        self.ring.stage(self.mem, submission, done);
    }
}

impl<M: SharedMem> Drop for Turn<'_, M> {
    fn drop(&mut self) {
        // The head first: a guest that sees its completions finds the slots given back as well.
        self.ring.submissions.release(self.mem);
        self.ring.completions.publish_staged(self.mem);
    }
}

impl HostRing {
    /// Starts on a freshly registered area.
    pub const fn new(layout: AreaLayout) -> Self {
        Self {
            submissions: Consumer::new(layout.submissions(), 0),
            completions: Producer::new(layout.completions(), 0),
            in_flight: 0,
            broken: None,
        }
    }

    /// Goes on where [`HostRing::save`] was called (`[LIFE-8]`).
    pub const fn restore(layout: AreaLayout, saved: SavedRing) -> Self {
        Self {
            submissions: Consumer::new(layout.submissions(), saved.submission_head),
            completions: Producer::resume(layout.completions(), saved.completion_tail),
            in_flight: 0,
            broken: saved.broken,
        }
    }

    /// What a snapshot has to keep; `None` while submissions are in flight.
    pub const fn save(&self) -> Option<SavedRing> {
        if self.in_flight != 0 {
            return None;
        }
        Some(SavedRing {
            submission_head: self.submissions.head(),
            completion_tail: self.completions.tail(),
            broken: self.broken,
        })
    }

    /// Why the area is broken, if it is.
    pub const fn broken(&self) -> Option<BrokenReason> {
        self.broken
    }

    /// Submissions taken and not finished.
    pub const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Whether everything is taken that was there at the last look.
    pub const fn is_drained(&self) -> bool {
        self.submissions.known() == 0
    }

    /// Whether there is something to take: the last look before sleep.
    ///
    /// A broken ring never has anything.
    pub fn has_work<M: SharedMem>(&mut self, mem: &M) -> bool {
        self.broken.is_none() && (self.submissions.known() > 0 || self.look(mem) > 0)
    }

    /// Takes the next submission. The caller counts its own budget (`[RING-7]`).
    ///
    /// Every submission taken MUST be finished by [`HostRing::finish`], once.
    pub fn take<M: SharedMem>(&mut self, mem: &M) -> Taken {
        if let Some(reason) = self.broken {
            return Taken::Broken(reason);
        }
        if self.submissions.known() == 0 && self.look(mem) == 0 {
            return self.broken.map_or(Taken::Empty, Taken::Broken);
        }
        match self.completions.free(mem) {
            Ok(free) if free > self.in_flight => {}
            Ok(_) => return Taken::Blocked,
            Err(corrupt) => {
                return Taken::Broken(self.latch(mem, BrokenReason::COMPLETION_HEAD, corrupt))
            }
        }
        match self.submissions.pop(mem) {
            Ok(Some(words)) => {
                self.in_flight += 1;
                Taken::Submission(Submission::from_words(words))
            }
            Ok(None) => Taken::Empty,
            Err(corrupt) => Taken::Broken(self.latch(mem, BrokenReason::SUBMISSION_TAIL, corrupt)),
        }
    }

    /// Begins one look, which takes no more than lies there now and than completions have room for.
    pub fn turn<'a, M: SharedMem>(&'a mut self, mem: &'a M) -> Turn<'a, M> {
        let there = if self.broken.is_some() {
            0
        } else {
            self.look(mem)
        };
        let room = match there {
            0 => 0,
            _ => self.room(mem),
        };
        Turn {
            ring: self,
            mem,
            left: there.min(room),
        }
    }

    /// For how many more submissions there is room to finish them (`[RING-9]`).
    fn room<M: SharedMem>(&mut self, mem: &M) -> u32 {
        match self.completions.free(mem) {
            Ok(free) => free.saturating_sub(self.in_flight),
            Err(corrupt) => {
                self.latch(mem, BrokenReason::COMPLETION_HEAD, corrupt);
                0
            }
        }
    }

    /// Finishes a submission: gives its completion, unless it was quiet and succeeded (`[OP-4]`).
    pub fn finish<M: SharedMem>(&mut self, mem: &M, submission: &Submission, done: Completion) {
        self.stage(mem, submission, done);
        self.completions.publish_staged(mem);
    }

    /// Finishes a submission as far as the guest does not see it.
    fn stage<M: SharedMem>(&mut self, mem: &M, submission: &Submission, done: Completion) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if submission.is_quiet() && done.status() == Status::OK {
            return;
        }
        match self.completions.stage(mem, &done.to_words()) {
            Ok(()) => {}
            Err(PushError::Corrupt(corrupt)) => {
                self.latch(mem, BrokenReason::COMPLETION_HEAD, corrupt);
            }
            // There was room when the submission was taken and it was kept free since. More was
            // finished than taken: our own fault, and the guest must not suffer a silent loss.
            Err(PushError::Full) => {
                self.broken = Some(BrokenReason::HOST);
                write_broken(mem, BrokenReason::HOST);
            }
        }
    }

    fn look<M: SharedMem>(&mut self, mem: &M) -> u32 {
        match self.submissions.look(mem) {
            Ok(there) => there,
            Err(corrupt) => {
                self.latch(mem, BrokenReason::SUBMISSION_TAIL, corrupt);
                0
            }
        }
    }

    fn latch<M: SharedMem>(&mut self, mem: &M, reason: BrokenReason, _: Corrupt) -> BrokenReason {
        if !matches!(M::DEFECT, crate::mem::Defect::ForgetCorrupt) {
            self.broken = Some(reason);
        }
        write_broken(mem, reason);
        reason
    }
}
