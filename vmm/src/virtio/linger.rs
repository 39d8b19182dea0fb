//! How the I/O thread goes on looking at a device's queues for a moment after it had work there.
//!
//! What a guest sends next is mostly an answer to what it was just given, or follows what it has just sent. A thread that
//! goes to sleep in between is called by a notification, an exit. One that lingers finds it: the driver is asked not to
//! notify meanwhile, by the standard's own means (`ownership.rs`). It is for queues served in this process what the
//! busy-loop timeout is for those that vhost-net serves (drivers/vhost/net.c, `vhost_net_busy_poll`).
//!
//! How long pays depends on the guest and on what answers it, and is learnt ([`Length`]): up to the device's limit, as long
//! as notifications come which that would have spared, and less and less where lingering finds nothing.
//!
//! The loop of the I/O thread calls [`Lingerer::look`] between its events, of which it goes on to hear: nobody else waits
//! for a thread that lingers. What the polling thread owns is left to that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use super::backend::{lock, SharedBackend};
use super::poll::PollState;

/// Lingering in vain makes it shorter by one part of so many, finding something longer: about one in three has to.
const SHORTER: u32 = 8;
const LONGER: u32 = 4;

/// How long to linger: nothing here looks at a clock.
#[derive(Clone, Copy, Debug)]
struct Length {
    most: Duration,
    now: Duration,
    /// Whether anything was found since it began.
    has_found: bool,
}

impl Length {
    fn new(most: Duration) -> Self {
        Self {
            most,
            now: most,
            has_found: false,
        }
    }

    /// A notification came, so long after the work before.
    fn notified(&mut self, after: Duration) {
        if after <= self.most {
            // This one would have been spared by so much; the next may take a little longer.
            self.now = self.now.max(after + after / 2).min(self.most);
        }
    }

    /// A look has found something.
    fn found(&mut self) {
        self.has_found = true;
    }

    /// It is over.
    fn ended(&mut self) {
        self.now = match std::mem::take(&mut self.has_found) {
            true => (self.now + self.now / LONGER).min(self.most),
            false => self.now - self.now / SHORTER,
        };
    }
}

/// Whether and until when the I/O thread lingers for one device. Only that thread uses it; the lock is for another one
/// that makes it.
pub(super) struct Lingering(Mutex<State>);

struct State {
    length: Length,
    /// When there was work last; `None`: never.
    worked: Option<Instant>,
    lingers: bool,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It does not linger.
    Nothing,
    Look,
    End,
}

impl Lingering {
    /// For so long at most after each work; `None` if that is no time at all.
    pub(super) fn new(most: Duration) -> Option<Arc<Self>> {
        let state = State {
            length: Length::new(most),
            worked: None,
            lingers: false,
        };
        (!most.is_zero()).then(|| Arc::new(Self(Mutex::new(state))))
    }

    /// There was work just now; of which a notification told, or not.
    pub(super) fn worked(&self, is_notified: bool) {
        let mut state = self.state();
        let now = Instant::now();
        if let (Some(before), true) = (state.worked, is_notified && !state.lingers) {
            state.length.notified(now - before);
        }
        state.worked = Some(now);
        state.lingers = true;
    }

    /// A look has found something.
    fn found(&self) {
        self.state().length.found();
        self.worked(false);
    }

    fn step(&self, is_forbidden: bool) -> Step {
        let mut state = self.state();
        if !state.lingers {
            return Step::Nothing;
        }
        let length = state.length.now;
        let lasts = state.worked.is_some_and(|worked| worked.elapsed() < length);
        if lasts && !is_forbidden {
            return Step::Look;
        }
        state.lingers = false;
        state.length.ended();
        Step::End
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A device that the I/O thread may linger for.
pub struct Lingerer {
    backend: SharedBackend,
    doorbells: Arc<[EventFd]>,
    poll: Arc<PollState>,
    lingering: Arc<Lingering>,
}

impl Lingerer {
    pub(super) fn new(
        backend: SharedBackend,
        doorbells: Arc<[EventFd]>,
        poll: Arc<PollState>,
        lingering: Arc<Lingering>,
    ) -> Self {
        Self {
            backend,
            doorbells,
            poll,
            lingering,
        }
    }

    /// Looks at the device's queues, if the thread lingers for it. Returns whether it goes on: then this is to be called
    /// again soon. At the end, queues in which something has come meanwhile have their doorbells rung.
    pub fn look(&self) -> bool {
        let step = self.lingering.step(self.poll.is_owner());
        if step == Step::Nothing {
            return false;
        }
        let mut backend = lock(&self.backend);
        if step == Step::End {
            backend.end_lingering(&self.doorbells);
            return false;
        }
        let looks = (0..).zip(&*self.doorbells);
        let looks = looks.map(|(queue, doorbell)| backend.linger(queue, doorbell));
        let is_work = looks.fold(false, |any, is_work| any | is_work);
        drop(backend);
        if is_work {
            self.lingering.found();
        } else {
            std::hint::spin_loop();
        }
        true
    }

    /// Has the time be over.
    #[cfg(test)]
    pub(super) fn expire(&self) {
        self.lingering.state().worked = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: Duration = Duration::from_micros(1);
    const MOST: Duration = Duration::from_micros(200);

    #[test]
    fn it_lasts_for_its_time_after_the_last_work() {
        assert!(Lingering::new(Duration::ZERO).is_none());
        let lingering = Lingering::new(Duration::from_secs(1000)).expect("a time");
        assert_eq!(lingering.step(false), Step::Nothing);
        lingering.worked(true);
        assert_eq!([false, false].map(|is| lingering.step(is)), [Step::Look; 2]);
        let ends = [true, true].map(|is| lingering.step(is));
        assert_eq!(ends, [Step::End, Step::Nothing]);
        let short = Lingering::new(Duration::from_nanos(1)).expect("a time");
        short.worked(false);
        std::thread::sleep(MICRO);
        assert_eq!(short.step(false), Step::End);
    }

    #[test]
    fn who_sends_rarely_is_hardly_lingered_for() {
        let mut length = Length::new(MOST);
        for _ in 0..100 {
            length.notified(Duration::from_millis(10));
            length.ended();
        }
        assert!(length.now < MICRO, "{length:?}");
    }

    #[test]
    fn what_would_have_been_found_lengthens_it_at_once_and_what_is_found_keeps_it() {
        let mut length = Length::new(MOST);
        (0..100).for_each(|_| length.ended());
        length.notified(MICRO * 80);
        assert_eq!(length.now, MICRO * 120);
        for _ in 0..20 {
            length.found();
            length.ended();
        }
        assert_eq!(length.now, MOST);
        length.notified(MICRO * 201);
        assert_eq!(length.now, MOST);
    }

    #[test]
    fn half_of_the_time_in_vain_is_still_worth_it() {
        let mut length = Length::new(MOST);
        for turn in 0..1_000 {
            if turn % 2 == 0 {
                length.found();
            }
            length.ended();
        }
        assert!(length.now > MOST / 2, "{length:?}");
    }
}
