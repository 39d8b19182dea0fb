//! Where interrupts are posted for a vCPU that polls in its idle loop (`[POST-4]`).
//!
//! Devices post from their threads, the polling thread for timers and calls; so this has a lock of
//! its own, not the seat's, whose holder may have a whole look to make. A leaf lock, held for a few
//! accesses to guest memory.

use std::sync::{Mutex, PoisonError};

use coopvirt_spec::delivery::HostPost;

use super::area::Area;

/// One vCPU's, closed while it has no area that takes interrupts.
#[derive(Debug, Default)]
pub struct PostBox(Mutex<Option<(Area, HostPost)>>);

impl PostBox {
    /// Posts to this area from now on.
    pub fn open(&self, area: Area) {
        self.set(Some((area, HostPost::new())));
    }

    /// When this returns, nobody touches the area for this any more (`[LIFE-2]`).
    pub fn close(&self) {
        self.set(None);
    }

    /// Posts an interrupt, if the guest accepts it now. If not, it has to be raised.
    #[must_use = "what is not posted has to be raised"]
    pub fn post(&self, vector: u8) -> bool {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((area, post)) = open.as_mut() else {
            return false;
        };
        post.post(area, vector)
    }

    fn set(&self, open: Option<(Area, HostPost)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = open;
    }
}
