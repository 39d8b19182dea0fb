//! What one pass of the polling thread over all areas found.

use crate::coop::seat::Found;

/// What one pass over all seats found.
#[derive(Default)]
pub(super) struct Pass {
    pub(super) is_work: bool,
    /// Whether a deadline was due.
    pub(super) is_raised: bool,
    /// Whether some of it was calls.
    pub(super) has_calls: bool,
    /// Whether a guest made a stock write for a deadline that polling would have served.
    pub(super) has_missed: bool,
    pub(super) next_host_tsc: Option<u64>,
}

impl Pass {
    pub(super) fn add(&mut self, found: Found) {
        self.is_work |= found.is_work();
        self.is_raised |= found.raised;
        self.has_calls |= found.taken > 0;
        self.has_missed |= found.has_missed;
        self.next_host_tsc = match (self.next_host_tsc, found.next_host_tsc) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}
