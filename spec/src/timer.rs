//! The timer words (`[TIMER-1]` to `[TIMER-12]`, `[HALT-2]`).
//!
//! The guest publishes its deadline in a word; the host says in another when it will look at it. A
//! stock TSC-deadline write is needed only if the host neither listens nor will look in time.
//! Three words of the host's status line take part: the lease, the armed deadline and the served
//! deadline. All values are the guest's TSC; zero means none.

use crate::mem::{Defect, Load, SharedMem, Store};
use crate::page::at;

/// No deadline; not armed; nothing served.
pub const NONE: u64 = 0;

/// What the guest has to do after it has published a deadline.
#[must_use = "a fallback has to be taken"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// Nothing: the host listens.
    Listening,
    /// Nothing: the host is armed at or before the deadline.
    Armed,
    /// Nothing: there is no deadline.
    NoDeadline,
    /// The stock TSC-deadline write.
    Fallback,
}

impl Published {
    /// Whether the stock write is needed.
    pub const fn needs_stock_write(self) -> bool {
        matches!(self, Published::Fallback)
    }
}

/// Guest: publishes a deadline, [`NONE`] for none (`[TIMER-2]`).
pub fn publish<M: SharedMem>(
    mem: &M,
    deadline_tsc: u64,
    now_tsc: impl FnOnce() -> u64,
) -> Published {
    mem.store_u64(at::DEADLINE, deadline_tsc, Store::Release);
    if deadline_tsc == NONE {
        return Published::NoDeadline;
    }
    // The store of the deadline before, the loads of the host's words after. Pairs with the fences
    // in `disarm` and `lease::revoke` (armed or lease cleared, then the deadline read) and with the
    // one in `HostTimer::look` (served stored, then the interrupt raised). Without it the host
    // could miss this deadline while we still see its old promise: a lost timer.
    if !matches!(M::DEFECT, Defect::PublishNoFence) {
        mem.fence_full();
    }
    let lease = mem.load_u64(at::LEASE, Load::Relaxed);
    let armed = mem.load_u64(at::ARMED, Load::Relaxed);
    let served = mem.load_u64(at::SERVED, Load::Relaxed);
    // The host has raised the interrupt for this very value before and will not do so again. That
    // happens when it fired a little early and the handler asks for the same deadline once more.
    if served == deadline_tsc && !matches!(M::DEFECT, Defect::TimerIgnoresServed) {
        return Published::Fallback;
    }
    if lease > now_tsc() {
        return Published::Listening;
    }
    if armed != NONE && armed <= deadline_tsc {
        return Published::Armed;
    }
    Published::Fallback
}

/// Guest: notes a deadline for which it made the stock write, so that the host can learn from it
/// (`[TIMER-10]`), and withdraws the word: the local APIC keeps this deadline.
pub fn note_stock<M: SharedMem>(mem: &M, deadline_tsc: u64) {
    // Relaxed: a hint that decides nothing but when the host will look.
    mem.store_u64(at::STOCK_DEADLINE, deadline_tsc, Store::Relaxed);
    mem.store_u64(at::DEADLINE, NONE, Store::Release);
}

/// Guest: the deadline noted last was replaced before it was due (`[TIMER-10]`).
pub fn forget_stock<M: SharedMem>(mem: &M) {
    mem.store_u64(at::STOCK_DEADLINE, NONE, Store::Relaxed);
}

/// Host: the last deadline that took the stock path, a hint (`[TIMER-10]`).
pub fn stock_deadline<M: SharedMem>(mem: &M) -> u64 {
    mem.load_u64(at::STOCK_DEADLINE, Load::Relaxed)
}

/// Guest: says which vector the host raises (`[TIMER-1]`). Before the first deadline.
pub fn set_vector<M: SharedMem>(mem: &M, vector: u8) {
    // Relaxed: the release of the deadline in `publish` makes it visible before any deadline.
    mem.store_u32(at::TIMER_VECTOR, u32::from(vector), Store::Relaxed);
}

/// Host: the vector to raise for a due deadline; `None` if the guest has named none that can be.
pub fn vector<M: SharedMem>(mem: &M) -> Option<u8> {
    let vector = u8::try_from(mem.load_u32(at::TIMER_VECTOR, Load::Relaxed)).ok()?;
    (vector >= crate::op::FIRST_VECTOR).then_some(vector)
}

/// What the host finds in a deadline word.
#[must_use = "a due deadline has to be served, a later one armed"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// No deadline, or one that has been served.
    Idle,
    /// The deadline is due: raise the timer interrupt. It is marked as served already.
    Due {
        /// The deadline, for the measure of lateness.
        deadline_tsc: u64,
    },
    /// The deadline lies in the future.
    Later {
        /// When it is due.
        deadline_tsc: u64,
    },
}

/// The host's side of one vCPU's timer words.
///
/// It remembers what it has written: its own words in the area are never read back, since a guest
/// can overwrite them (`[TRUST-3]`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostTimer {
    armed: u64,
    served: u64,
}

impl HostTimer {
    /// Starts on a freshly registered area: nothing armed, nothing served.
    pub const fn new() -> Self {
        Self {
            armed: NONE,
            served: NONE,
        }
    }

    /// What the host is armed for, [`NONE`] if for nothing.
    pub const fn armed_tsc(&self) -> u64 {
        self.armed
    }

    /// The deadline that was served last, [`NONE`] if none was.
    pub const fn served_tsc(&self) -> u64 {
        self.served
    }

    /// Looks at the deadline, once (`[TIMER-4]`). At most one interrupt per value and look, however
    /// often the guest rewrites the word.
    pub fn look<M: SharedMem>(&mut self, mem: &M, now_tsc: u64) -> Look {
        // Acquire pairs with the release in `publish`: what the guest did before it set the timer
        // is visible to what the host does for it.
        let deadline_tsc = mem.load_u64(at::DEADLINE, Load::Acquire);
        if deadline_tsc == NONE || deadline_tsc == self.served {
            return Look::Idle;
        }
        if deadline_tsc > now_tsc {
            return Look::Later { deadline_tsc };
        }
        self.served = deadline_tsc;
        mem.store_u64(at::SERVED, deadline_tsc, Store::Relaxed);
        // The store of `served` before, the interrupt after. A guest that publishes the same value
        // again and does not see `served` has published before the interrupt, which then serves it.
        mem.fence_full();
        Look::Due { deadline_tsc }
    }

    /// Takes the armed word back and looks (`[TIMER-5]`): when the host's timer has fired, before it
    /// arms for a later time, and before it goes to sleep.
    pub fn disarm<M: SharedMem>(&mut self, mem: &M, now_tsc: u64) -> Look {
        if matches!(M::DEFECT, Defect::TimerKeepsArmed) {
            return self.look(mem, now_tsc);
        }
        self.armed = NONE;
        mem.store_u64(at::ARMED, NONE, Store::Relaxed);
        // The store of `armed` before, the load of the deadline after; pairs with `publish`. A
        // guest that still saw the old promise has stored its deadline before our load.
        if !matches!(M::DEFECT, Defect::TimerNoFence) {
            mem.fence_full();
        }
        self.look(mem, now_tsc)
    }

    /// Promises to look at `at_tsc` (`[TIMER-6]`). The host's own timer MUST be set to it, or be set
    /// before the host sleeps.
    ///
    /// A promise may only be replaced by an earlier one; for a later one [`HostTimer::disarm`]
    /// comes first. A later one is ignored here, so that a mistake costs a look and no deadline.
    pub fn arm<M: SharedMem>(&mut self, mem: &M, at_tsc: u64) {
        let keeps = matches!(M::DEFECT, Defect::TimerKeepsArmed);
        if at_tsc == NONE || (self.armed != NONE && at_tsc > self.armed && !keeps) {
            return;
        }
        self.armed = at_tsc;
        // Relaxed: a promise about a look to come. Who sees it late takes the stock path.
        mem.store_u64(at::ARMED, at_tsc, Store::Relaxed);
    }

    /// The local APIC's timer is set to this deadline and raises the interrupt (`[HALT-2]`): a look finds nothing
    /// to be served in it any more.
    pub fn hand_over<M: SharedMem>(&mut self, mem: &M, deadline_tsc: u64) {
        self.served = deadline_tsc;
        // Relaxed: its vCPU waits for the exit's end, and sees it then.
        mem.store_u64(at::SERVED, deadline_tsc, Store::Relaxed);
    }

    /// The local APIC's timer may have been set to something else since (`[HALT-2]`).
    pub fn take_over<M: SharedMem>(&mut self, mem: &M, deadline_tsc: u64) {
        if self.served == deadline_tsc {
            self.served = NONE;
            mem.store_u64(at::SERVED, NONE, Store::Relaxed);
        }
    }

    /// Forgets what was served and takes the promise back, after the guest's TSC was rewritten or
    /// the machine restored (`[TIMER-9]`); then looks.
    pub fn reset<M: SharedMem>(&mut self, mem: &M, now_tsc: u64) -> Look {
        self.served = NONE;
        mem.store_u64(at::SERVED, NONE, Store::Relaxed);
        self.disarm(mem, now_tsc)
    }
}
