//! The worker: carries out calls that may take long, and stands in for a polling thread that does
//! not come back in time (`[LEASE-6]`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use coopvirt_spec::counter::HostCounter;

use super::hints::Hints;
use super::WATCH;
use crate::coop::budget::Budget;
use crate::coop::clock;
use crate::coop::host::{lock, Coop};
use crate::coop::serve::{carry_out, Context, Outcome, Server};
use crate::kvm::tsc;

/// What the worker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Calls of this vCPU were left to it.
    Calls(u8),
    /// The polling thread has begun to poll: watch it.
    Watch,
    /// An area was registered whose guest wants hints.
    Hints,
    /// The machine ends.
    Stop,
}

/// Signs of life of the polling thread.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    is_polling: AtomicBool,
    beats: AtomicU64,
}

// Relaxed throughout: the worker only compares two values that it reads milliseconds apart, and
// acts under the seats' locks.
impl Pulse {
    /// The thread begins to give leases.
    pub(super) fn start(&self) {
        self.beat();
        self.is_polling.store(true, Ordering::Relaxed);
    }

    /// The thread is about to look at all areas.
    pub(super) fn beat(&self) {
        let beats = self.beats.load(Ordering::Relaxed);
        self.beats.store(beats.wrapping_add(1), Ordering::Relaxed);
    }

    /// The thread has no lease out any more.
    pub(super) fn stop(&self) {
        self.is_polling.store(false, Ordering::Relaxed);
    }
}

/// Watches a pulse.
#[derive(Debug, Default)]
struct Watch {
    seen: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nobody polls: there is nothing to watch.
    Asleep,
    /// It has been alive since the last look, or this was the first.
    Alive,
    /// No turn since the last look.
    Late,
}

impl Watch {
    fn look(&mut self, pulse: &Pulse) -> Verdict {
        if !pulse.is_polling.load(Ordering::Relaxed) {
            self.seen = None;
            return Verdict::Asleep;
        }
        let beats = pulse.beats.load(Ordering::Relaxed);
        match self.seen.replace(beats) {
            Some(seen) if seen == beats => Verdict::Late,
            _ => Verdict::Alive,
        }
    }
}

/// Works until told to stop.
pub(super) fn run(coop: &Coop, inbox: &Receiver<Message>, pulse: &Pulse) {
    let mut watch = Watch::default();
    let mut is_watching = false;
    let mut next_look = Instant::now();
    let mut hints = Hints::new(coop.stations.len());
    loop {
        let watch_at = is_watching.then_some(next_look);
        let wake_at = match (watch_at, hints.next()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let message = if let Some(wake_at) = wake_at {
            let wait = wake_at.saturating_duration_since(Instant::now());
            match inbox.recv_timeout(wait) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        } else {
            match inbox.recv() {
                Ok(message) => Some(message),
                Err(_) => return,
            }
        };
        match message {
            Some(Message::Stop) => return,
            Some(Message::Calls(vcpu)) => carry_out_calls(coop, vcpu),
            Some(Message::Watch) if !is_watching => {
                is_watching = true;
                next_look = Instant::now() + WATCH;
            }
            Some(Message::Hints) => hints.begin(),
            Some(Message::Watch) | None => {}
        }
        hints.look(coop);
        if is_watching && Instant::now() >= next_look {
            let verdict = watch.look(pulse);
            is_watching = verdict != Verdict::Asleep;
            let mut wait = WATCH;
            if verdict == Verdict::Late {
                wait = stand_in(coop).min(WATCH);
            }
            next_look = Instant::now() + wait;
        }
    }
}

/// Carries out the calls that were left, each outside the seat's lock, so that ring and timer of
/// their vCPU are served meanwhile. `in_hand` makes unregistering wait for the one that is under
/// way.
fn carry_out_calls(coop: &Coop, vcpu: u8) {
    let Some(station) = coop.stations.get(usize::from(vcpu)) else {
        return;
    };
    loop {
        let _hand = lock(&station.in_hand);
        let call = station
            .seat
            .lock()
            .as_mut()
            .and_then(|served| served.take_deferred());
        let Some((submission, features)) = call else {
            return;
        };
        let mut budget = Budget::exit();
        let mut context = Context {
            shared: &coop.shared,
            vcpu,
            budget: &mut budget,
            server: Server::Worker,
        };
        if let Outcome::Done(done) = carry_out(&submission, features, &mut context) {
            if let Some(served) = station.seat.lock().as_mut() {
                served.finish(&submission, done);
            }
        }
    }
}

/// Revokes all leases and looks once more in the polling thread's place, and gives its queues back to
/// the I/O thread; says how soon to look again. A seat that the late thread itself holds is left out:
/// its lease ends by itself, and the thread is in the middle of looking at it.
///
/// What is promised here, the late thread does not know of: it may have passed the area already on its way
/// to sleep. Then nobody is watched any more, and nobody would keep the promise. So the thread is woken, and
/// finds it.
fn stand_in(coop: &Coop) -> Duration {
    let mut wait = WATCH;
    let mut has_promised = false;
    // What is found then the I/O thread is called for.
    coop.queues.hand_back();
    for (vcpu, station) in (0..).zip(&coop.stations) {
        let Some(mut seat) = station.seat.try_lock() else {
            continue;
        };
        let Some(served) = seat.as_mut() else {
            continue;
        };
        let found = served.retire(&coop.shared);
        served.count(&coop.shared, HostCounter::LeaseRevoked, 1);
        if let (Some(at), Some(khz)) = (found.next_host_tsc, served.khz()) {
            let cycles = at.saturating_sub(tsc::read());
            wait = wait.min(clock::time(khz, cycles));
            has_promised = true;
        }
        drop(seat);
        if found.has_deferred {
            carry_out_calls(coop, vcpu);
        }
    }
    if has_promised {
        coop.ring_async();
    }
    wait
}

#[cfg(test)]
mod tests {
    use coopvirt_spec::mem::{Load, SharedMem};
    use coopvirt_spec::page::at;
    use coopvirt_spec::timer;
    use coopvirt_spec::version::Features;

    use super::*;
    use crate::coop::testing::{host, Guest};

    #[test]
    fn timer_6_a_promise_made_in_a_late_threads_place_becomes_known_to_it() {
        let (coop, ram, _) = host();
        let guest = Guest::register(&coop, &ram, 0, Features(0x73f));
        let _ = coop.wake.read();
        // The late thread has passed this area, and has promised nothing.
        let deadline = tsc::read() + 1_000_000_000;
        let _ = timer::publish(&guest.area, deadline, tsc::read);
        stand_in(&coop);
        let armed = guest.area.load_u64(at::ARMED, Load::Relaxed);
        assert!((1..=deadline).contains(&armed), "{armed}");
        assert!(coop.wake.read().is_ok(), "the thread sleeps on");
    }

    #[test]
    fn lease_6_a_thread_that_makes_no_turn_between_two_looks_is_late() {
        let (pulse, mut watch) = (Pulse::default(), Watch::default());
        assert_eq!(watch.look(&pulse), Verdict::Asleep);
        pulse.start();
        assert_eq!(watch.look(&pulse), Verdict::Alive);
        pulse.beat();
        assert_eq!(watch.look(&pulse), Verdict::Alive);
        assert_eq!(watch.look(&pulse), Verdict::Late);
        assert_eq!(watch.look(&pulse), Verdict::Late);
        pulse.stop();
        assert_eq!(watch.look(&pulse), Verdict::Asleep);
        pulse.start();
        assert_eq!(watch.look(&pulse), Verdict::Alive);
    }
}
