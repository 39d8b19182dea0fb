//! Interrupts that are posted while this vCPU polls (`[POST-1]` to `[POST-5]`).
//!
//! For an idle loop: [`Session::accept_posts`] before it polls, [`Session::posted`] in each turn,
//! [`Session::refuse_posts`] when it stops, in any case. Both of the latter give the vector of an
//! interrupt whose handler is then to be called, outside the session.

use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::version::Features;

use crate::platform::Cpu;
use crate::session::Session;

impl<C: Cpu> Session<C> {
    /// From now on interrupts may be posted, if host and guest have agreed to that.
    pub fn accept_posts(&mut self) {
        if self.with_feature(Features::POLL_DELIVERY).is_some() {
            self.is_accepting = true;
            self.posts.begin(self.cpu.area());
        }
    }

    /// An interrupt that was posted since the last look.
    pub fn posted(&mut self) -> Option<u8> {
        let left_over = self.left_over.take();
        if left_over.is_some() || !self.is_accepting {
            return left_over;
        }
        let vector = self.posts.look(self.cpu.area())?;
        self.count(GuestCounter::Taken, 1);
        Some(vector)
    }

    /// From now on interrupts come as ever; gives the one that was posted last, if it is new.
    #[must_use = "an interrupt would be lost"]
    pub fn refuse_posts(&mut self) -> Option<u8> {
        self.end_posts();
        self.left_over.take()
    }

    /// The area goes: the host must not post to it any more (`[LIFE-2]`). The loop that accepted, in
    /// the middle of which this may be, finds the last one at its next look.
    pub(crate) fn end_posts(&mut self) {
        if core::mem::take(&mut self.is_accepting) {
            if let Some(vector) = self.posts.end(self.cpu.area()) {
                self.count(GuestCounter::Taken, 1);
                self.left_over = Some(vector);
            }
        }
    }
}
