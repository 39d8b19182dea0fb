//! Interrupts without injection for a vCPU that polls (`[POST-1]` to `[POST-6]`).
//!
//! To interrupt a vCPU that runs, a host without hardware for it has to make it exit. A vCPU that
//! polls in its idle loop can as well be told by a word: it says that it *accepts*, the host *posts*
//! a vector, and the loop calls the vector's handler. One posting is outstanding at most; whatever
//! does not fit in is raised as ever.
//!
//! The end of accepting races with a posting. As with the lease, each side stores, makes a full fence
//! and loads: either the guest's last look finds the posting, or the host sees that the guest does
//! not accept any more and raises the interrupt. Both may happen, so one may come twice, never late:
//! what the host has raised itself is not taken when the guest accepts again.

use crate::mem::{Defect, Load, SharedMem, Store};
use crate::page::at;

/// Bit of the accept word: the guest will look.
const ACCEPTS: u32 = 1;
/// Between two values of the session in the accept word.
const SESSION_STEP: u32 = 2;

const fn number(word: u64) -> u32 {
    let [.., b0, b1, b2, b3] = word.to_le_bytes();
    u32::from_le_bytes([b0, b1, b2, b3])
}

/// The session, and whether it accepts.
const fn session(word: u64) -> u32 {
    let [b0, b1, b2, b3, ..] = word.to_le_bytes();
    u32::from_le_bytes([b0, b1, b2, b3])
}

const fn word(number: u32, low: u32) -> u64 {
    (number as u64) << 32 | low as u64
}

/// The host's private half.
#[derive(Clone, Debug, Default)]
pub struct HostPost {
    /// The number of the last posting, and whether the guest owes it to us to take it.
    number: u32,
    is_owed: bool,
}

impl HostPost {
    /// For an area that was just registered.
    pub const fn new() -> Self {
        Self {
            number: 0,
            is_owed: false,
        }
    }

    /// Posts an interrupt if the guest accepts it. If not, it MUST be raised at once (`[POST-4]`).
    #[must_use = "what is not posted has to be raised"]
    pub fn post<M: SharedMem>(&mut self, mem: &M, vector: u8) -> bool {
        // Acquire: the posting is not visible to a look that precedes the acceptance seen here.
        let before = mem.load_u64(at::ACCEPT, Load::Acquire);
        let is_taken = number(before) == self.number;
        if session(before) & ACCEPTS == 0 || (self.is_owed && !is_taken) {
            return false;
        }
        self.number = self.number.wrapping_add(1);
        // Vector and number are one word, so no order is needed between them.
        let posting = word(self.number, vector.into());
        mem.store_u64(at::POSTED, posting, Store::Relaxed);
        // The store of the posting before, the load of the accept word after. Pairs with the fence in
        // `GuestPost::end`; without either, both sides leave the interrupt to the other.
        if !matches!(M::DEFECT, Defect::PostNoFence) {
            mem.fence_full();
        }
        let after = mem.load_u64(at::ACCEPT, Load::Relaxed);
        let is_taken = number(after) == self.number;
        // The same session accepts still: it will look once more before it ends.
        let will_look = session(after) == session(before);
        self.is_owed = is_taken || will_look || matches!(M::DEFECT, Defect::PostLoadsOnce);
        self.is_owed
    }
}

/// The guest's private half.
#[derive(Clone, Debug, Default)]
pub struct GuestPost {
    /// The number of the last posting that was taken, and of the last one seen.
    taken: u32,
    seen: u32,
    /// The low half of the accept word, [`ACCEPTS`] aside.
    session: u32,
}

impl GuestPost {
    /// For an area that was just registered.
    pub const fn new() -> Self {
        Self {
            taken: 0,
            seen: 0,
            session: 0,
        }
    }

    /// Accepts from now on. The caller looks again and again, and calls [`GuestPost::end`].
    pub fn begin<M: SharedMem>(&mut self, mem: &M) {
        self.session = self.session.wrapping_add(SESSION_STEP);
        // Whatever is there was not accepted, so it was raised. The release store keeps this load
        // before it: what is posted because of it is not passed over.
        self.seen = number(mem.load_u64(at::POSTED, Load::Acquire));
        self.say(mem, ACCEPTS);
    }

    /// One look: the vector of a new interrupt, whose handler is to be called (`[POST-2]`).
    pub fn look<M: SharedMem>(&mut self, mem: &M) -> Option<u8> {
        self.take(mem, ACCEPTS)
    }

    /// Accepts no more. What this returns is to be handled as well (`[POST-3]`).
    #[must_use = "an interrupt that came last would be lost"]
    pub fn end<M: SharedMem>(&mut self, mem: &M) -> Option<u8> {
        self.say(mem, 0);
        // The store of the accept word before, the last look after: see `HostPost::post`.
        if !matches!(M::DEFECT, Defect::EndNoFence) {
            mem.fence_full();
        }
        self.take(mem, 0)
    }

    fn take<M: SharedMem>(&mut self, mem: &M, accepts: u32) -> Option<u8> {
        let posting = mem.load_u64(at::POSTED, Load::Relaxed);
        if number(posting) == self.seen {
            return None;
        }
        (self.seen, self.taken) = (number(posting), number(posting));
        self.say(mem, accepts);
        let [vector, ..] = posting.to_le_bytes();
        Some(vector)
    }

    fn say<M: SharedMem>(&self, mem: &M, accepts: u32) {
        mem.store_u64(
            at::ACCEPT,
            word(self.taken, self.session | accepts),
            Store::Release,
        );
    }
}
