//! Most turns of the polling thread find nothing new: what tells, in as few instructions as can be.
//!
//! A turn's length is how long what a guest publishes waits, and what it takes from the vCPU on the other half of its
//! core. So the thread compares the guest's words with what they were before its last whole look, and the time with what
//! is due; it looks at everything only if one of them says so, or the lease has to be renewed ([`RENEWALS`]).

use std::sync::atomic::Ordering;
use std::time::Duration;

use coopvirt_spec::mem::{Load, SharedMem};
use coopvirt_spec::page::at;
use coopvirt_spec::timer::NONE;

use super::Served;
use crate::coop::serve::Shared;

/// A lease is renewed so many times while it lasts.
const RENEWALS: u32 = 4;

/// What the last whole look saw, and until when that is worth something.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Glance {
    words: Words,
    /// In the host's TSC; zero: not at all.
    until_host: u64,
}

/// What a guest writes for a host that polls: submission tail, deadline, stock deadline, idle word.
type Words = [u64; 4];

impl Served {
    /// The words, before a whole look: what is written during it is found changed by the next glance.
    ///
    /// Relaxed: a word that has changed leads to the look, which has the order that it needs.
    pub(super) fn words(&self) -> Words {
        [
            self.area
                .load_u32(at::SUBMISSION_TAIL, Load::Relaxed)
                .into(),
            self.area.load_u64(at::DEADLINE, Load::Relaxed),
            self.area.load_u64(at::STOCK_DEADLINE, Load::Relaxed),
            self.area.load_u32(at::IDLE, Load::Relaxed).into(),
        ]
    }

    /// A whole look under the lease is over, before which the words were these.
    pub(super) fn glanced(&mut self, words: Words, now_host: u64, lease: Duration) {
        let renewed = self.timing.filter(|_| self.is_leased);
        let cycles = renewed.map_or(0, |timing| timing.clock.cycles(lease / RENEWALS));
        // Calls that are there still are taken by a later look, or belong to somebody else.
        let is_over = !self.deferred.is_empty() || !self.ring.is_drained();
        self.glance = Glance {
            words,
            until_host: if is_over || cycles == 0 {
                0
            } else {
                now_host.saturating_add(cycles)
            },
        };
    }

    /// The next look is a whole one.
    pub(super) fn forget_glance(&mut self) {
        self.glance = Glance::default();
    }

    /// Whether a look of the polling thread would find nothing.
    pub fn is_quiet(&self, shared: &Shared, now_host: u64) -> bool {
        let Some(timing) = self.timing.filter(|_| now_host < self.glance.until_host) else {
            return false;
        };
        let now = timing.clock.at(now_host);
        let words = self.words();
        let [_, deadline_tsc, ..] = words;
        let is_later = |tsc| tsc == NONE || tsc > now;
        words == self.glance.words
            && (is_later(deadline_tsc) || deadline_tsc == self.timer.served_tsc())
            && is_later(self.timer.armed_tsc())
            && is_later(self.handed_tsc)
            && shared.io_in_flight.load(Ordering::Relaxed) == self.io_told
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use coopvirt_spec::mem::{SharedMem, Store};
    use coopvirt_spec::op::EchoArgs;
    use coopvirt_spec::page::at;
    use coopvirt_spec::timer::{self, HostTimer, NONE};
    use coopvirt_spec::version::Features;

    use crate::coop::seat::Served;
    use crate::coop::testing::{host, Guest, KHZ};
    use crate::coop::Coop;
    use crate::kvm::tsc;

    const FEATURES: Features = Features(0x73f);
    const LEASE: Duration = Duration::from_secs(1000);
    const SECOND: u64 = KHZ as u64 * 1000;

    fn look(coop: &Coop) -> u64 {
        let now = tsc::read();
        let mut seat = coop.stations[0].seat.lock();
        seat.as_mut()
            .expect("an area")
            .poll(&coop.shared, now, LEASE);
        now
    }

    fn is_quiet(coop: &Coop, now: u64) -> bool {
        let seat = coop.stations[0].seat.lock();
        seat.as_ref().expect("an area").is_quiet(&coop.shared, now)
    }

    #[test]
    fn lease_2_whatever_a_guest_writes_is_looked_at() {
        let (coop, ram, _) = host();
        let mut guest = Guest::register(&coop, &ram, 0, FEATURES);
        assert!(!is_quiet(&coop, tsc::read()), "never looked at");
        let quiet = |what: &str| {
            look(&coop);
            assert!(is_quiet(&coop, tsc::read()), "{what}: nothing has come");
        };
        quiet("a call");
        guest.publish(&EchoArgs { value: 1 }.submission(1));
        assert!(!is_quiet(&coop, tsc::read()));
        quiet("a deadline");
        let _ = timer::publish(&guest.area, tsc::read() + 100 * SECOND, tsc::read);
        assert!(!is_quiet(&coop, tsc::read()));
        for offset in [at::STOCK_DEADLINE, at::IDLE] {
            quiet("a word");
            guest.area.store_u32(offset, 1, Store::Relaxed);
            assert!(!is_quiet(&coop, tsc::read()), "{offset}");
        }
        quiet("requests in flight");
        coop.shared
            .io_in_flight
            .store(3, std::sync::atomic::Ordering::Relaxed);
        assert!(!is_quiet(&coop, tsc::read()));
    }

    #[test]
    fn lease_2_what_is_due_is_looked_at_and_a_lease_renewed_in_time() {
        let (coop, ram, recorder) = host();
        let guest = Guest::register(&coop, &ram, 0, FEATURES);
        let renewed = look(&coop);
        let cycles = 1000 * SECOND;
        assert!(is_quiet(&coop, renewed + cycles / 5));
        assert!(!is_quiet(&coop, renewed + cycles / 4));
        let deadline = tsc::read() + SECOND / 100;
        let _ = timer::publish(&guest.area, deadline, tsc::read);
        look(&coop);
        assert!(!is_quiet(&coop, deadline));
        while recorder.done().is_empty() {
            look(&coop);
        }
        // Served, and still in its word.
        assert!(is_quiet(&coop, tsc::read()));
    }

    /// A deadline is mostly armed as well, and one handed over at a halt is its word still: here each of the three is alone.
    #[test]
    fn lease_2_each_time_that_is_due_is_looked_at() {
        let (coop, ram, _) = host();
        let guest = Guest::register(&coop, &ram, 0, FEATURES);
        let due = tsc::read() + 100 * SECOND;
        let change = |change: &dyn Fn(&mut Served)| {
            let mut seat = coop.stations[0].seat.lock();
            change(seat.as_mut().expect("an area"));
        };
        look(&coop);
        change(&|served| served.timer.arm(&served.area, due));
        assert!(is_quiet(&coop, due - 1) && !is_quiet(&coop, due), "armed");
        change(&|served| (served.timer, served.handed_tsc) = (HostTimer::new(), due));
        assert!(is_quiet(&coop, due - 1) && !is_quiet(&coop, due), "handed");
        change(&|served| served.handed_tsc = NONE);
        let _ = timer::publish(&guest.area, due, tsc::read);
        look(&coop);
        change(&|served| served.timer = HostTimer::new());
        assert!(
            is_quiet(&coop, due - 1) && !is_quiet(&coop, due),
            "published"
        );
    }

    #[test]
    fn lease_4_after_a_last_look_the_next_one_is_whole() {
        let (coop, ram, _) = host();
        let _guest = Guest::register(&coop, &ram, 0, FEATURES);
        let now = look(&coop);
        if let Some(served) = coop.stations[0].seat.lock().as_mut() {
            served.retire(&coop.shared);
        }
        assert!(!is_quiet(&coop, now));
    }
}
