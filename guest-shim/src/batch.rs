//! Calls through the ring: many in one exit (`[BELL-2]`, `[BELL-3]`, `[RING-10]`).
//!
//! [`Session::stage`] writes a call, [`Session::flush`] makes all staged ones visible, and
//! [`Session::take`] gives the answers. [`Session::call`] is all three for one call whose answer is
//! needed now. Tag 0 belongs to the shim; its completions are not handed out.

use core::fmt;

use coopvirt_spec::code::Status;
use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::entry::{Completion, Submission};
use coopvirt_spec::lease;
use coopvirt_spec::range::RangeList;
use coopvirt_spec::ring::CallError;
use coopvirt_spec::version::Features;

use crate::platform::Cpu;
use crate::session::Session;

/// Why a call was not made, or has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// There is no area, or it is broken.
    NoArea,
    /// The ring is full and the host took nothing at a doorbell: completions wait to be taken.
    Full,
    /// The host did not answer at a doorbell.
    NoAnswer,
    /// The host refused, or failed after the items that the completion counts.
    Refused(Completion),
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BatchError::NoArea => f.write_str("no area is in use"),
            BatchError::Full => f.write_str("ring is full"),
            BatchError::NoAnswer => f.write_str("host gives no answer"),
            BatchError::Refused(done) => write!(f, "host answers {}", done.status()),
        }
    }
}

impl core::error::Error for BatchError {}

/// How a flushed batch reaches the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Within this call: an exit that drains the ring.
    Now,
    /// Soon: without an exit while somebody listens, else a ring of the asynchronous doorbell, or
    /// the drain if there is nobody to wake.
    Soon,
}

/// How far a list has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All of it, so many items.
    Done(u32),
    /// What is left.
    More(RangeList),
}

impl<C: Cpu> Session<C> {
    /// Writes a call that the host does not see yet; its tag. A full ring is drained once.
    ///
    /// # Errors
    /// If there is no area or no room; nothing was written then.
    pub fn stage(&mut self, mut call: Submission) -> Result<u64, BatchError> {
        let tag = self.next_tag;
        call.tag = tag;
        match self.try_stage(&call)? {
            Ok(()) => {}
            Err(CallError::Broken) => return Err(BatchError::NoArea),
            Err(CallError::Full) => {
                self.count(GuestCounter::RingFull, 1);
                self.flush(Flush::Now);
                match self.try_stage(&call)? {
                    Ok(()) => {}
                    Err(CallError::Full) => return Err(BatchError::Full),
                    Err(CallError::Broken) => return Err(BatchError::NoArea),
                }
            }
        }
        // Zero is the shim's own.
        self.next_tag = tag.wrapping_add(1).max(1);
        self.count(GuestCounter::Submitted, 1);
        Ok(tag)
    }

    /// Makes the staged calls visible and sees to it that the host looks.
    pub fn flush(&mut self, how: Flush) {
        let Some((active, mem)) = self.usable() else {
            return;
        };
        active.ring.publish(mem);
        let (offer, features) = (active.offer, active.features);
        if how == Flush::Soon && features.contains(Features::SIDECORE) {
            let cpu = &self.cpu;
            if !lease::listens(cpu.area(), || cpu.read_tsc()) {
                cpu.write_port(offer.async_port, 0);
                self.count(GuestCounter::AsyncBell, 1);
            }
            return;
        }
        self.cpu.write_port(offer.sync_port, 0);
        self.count(GuestCounter::SyncBell, 1);
    }

    /// Takes the next completion of a staged call, in whatever order they come.
    pub fn take(&mut self) -> Option<Completion> {
        loop {
            let (active, mem) = self.usable()?;
            let done = active.ring.take(mem).ok()??;
            self.count(GuestCounter::Completed, 1);
            if done.tag != 0 {
                return Some(done);
            }
        }
    }

    /// Makes one call and waits for its answer. Answers to other calls that come before it go to
    /// `others`.
    ///
    /// # Errors
    /// If the call could not be made, was not answered, or was refused.
    pub fn call(
        &mut self,
        call: Submission,
        mut others: impl FnMut(Completion),
    ) -> Result<Completion, BatchError> {
        let tag = self.stage(call)?;
        let rings = self
            .active
            .as_ref()
            .map_or(0, |active| active.offer.layout.ring_entries());
        // Each doorbell takes at least one call of those before ours (`[BELL-3]`), so this ends.
        for _ in 0..=rings {
            self.flush(Flush::Now);
            while let Some(done) = self.take() {
                if done.tag != tag {
                    others(done);
                } else if done.status().is_error() {
                    return Err(BatchError::Refused(done));
                } else {
                    return Ok(done);
                }
            }
            if self.active.is_none() {
                return Err(BatchError::NoArea);
            }
        }
        Err(BatchError::NoAnswer)
    }

    /// Works through a whole list of ranges, one exit per piece (`[MMU-4]`); the items done.
    ///
    /// `call` makes the call for a list, such as `|list| PopulateArgs::from(list).submission(0)`.
    ///
    /// # Errors
    /// The first error; a refusal says in its completion how many items are done.
    pub fn run_list(
        &mut self,
        mut list: RangeList,
        call: impl Fn(RangeList) -> Submission,
        mut others: impl FnMut(Completion),
    ) -> Result<u32, BatchError> {
        loop {
            match self.step_list(list, &call, &mut others)? {
                Step::Done(items) => return Ok(items),
                Step::More(rest) => list = rest,
            }
        }
    }

    /// One piece of [`Session::run_list`], for a caller that does something else in between; the
    /// next piece can be another session's.
    ///
    /// # Errors
    /// As there.
    pub fn step_list(
        &mut self,
        list: RangeList,
        call: impl Fn(RangeList) -> Submission,
        others: impl FnMut(Completion),
    ) -> Result<Step, BatchError> {
        let done = self.call(call(list), others)?;
        if done.status() != Status::PARTIAL {
            return Ok(Step::Done(done.items_done));
        }
        let (first_item, first_offset) = (done.items_done, done.result);
        if (first_item, first_offset) <= (list.first_item, list.first_offset) {
            // A host that makes no progress would keep us here for ever.
            return Err(BatchError::Refused(done));
        }
        Ok(Step::More(RangeList {
            first_item,
            first_offset,
            ..list
        }))
    }

    fn try_stage(&mut self, call: &Submission) -> Result<Result<(), CallError>, BatchError> {
        let (active, mem) = self.usable().ok_or(BatchError::NoArea)?;
        Ok(active.ring.stage(mem, call))
    }
}
