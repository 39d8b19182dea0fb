//! The worker: carries out calls that may take long, and stands in for a polling thread that does
//! not come back in time (`[LEASE-6]`, `[TIMER-12]`).

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use coopvirt_spec::counter::HostCounter;

use super::hints::Hints;
use super::watch::{Pulse, Verdict, Watch, WATCH, WATCH_ASLEEP};
use crate::coop::budget::Budget;
use crate::coop::clock;
use crate::coop::counters::Event;
use crate::coop::host::{lock, Coop};
use crate::coop::seat::Served;
use crate::coop::serve::{carry_out, Context, Outcome, Server};
use crate::kvm::tsc;

/// What the worker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Calls of this vCPU were left to it.
    Calls(u8),
    /// The polling thread has begun to poll: watch it.
    Watch,
    /// An area was registered: its guest may want hints, and may rely on promises.
    Registered,
    /// The machine ends.
    Stop,
}

/// Works until told to stop. `tsc_khz` is the rate of the host's TSC.
pub(super) fn run(coop: &Coop, inbox: &Receiver<Message>, pulse: &Pulse, tsc_khz: u64) {
    let mut watch = Watch::default();
    let mut watch_at = None;
    let mut hints = Hints::new(coop.stations.len());
    loop {
        let wake_at = [watch_at, hints.next()].into_iter().flatten().min();
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
            Some(Message::Calls(vcpu)) => carry_out_call(coop, vcpu),
            Some(Message::Watch) => {
                let soon = Instant::now() + WATCH;
                watch_at = Some(watch_at.map_or(soon, |at| soon.min(at)));
            }
            Some(Message::Registered) => {
                hints.begin();
                watch_at.get_or_insert_with(|| Instant::now() + WATCH_ASLEEP);
            }
            None => {}
        }
        hints.look(coop);
        if watch_at.is_some_and(|at| Instant::now() >= at) {
            let wait = match watch.look(pulse, tsc::read(), tsc_khz) {
                Verdict::Alive => Some(WATCH),
                Verdict::Late => Some(stand_in(coop).min(WATCH)),
                // Without deadlines nobody relies on a thread that sleeps.
                Verdict::Asleep => coop.any(Served::can_time).then_some(WATCH_ASLEEP),
            };
            watch_at = wait.map(|wait| Instant::now() + wait);
        }
    }
}

/// Carries out one of the calls that were left, outside the seat's lock, so that ring and timer of their vCPU are served
/// meanwhile; the next one waits behind all other messages, for a guest can leave calls without end (`[TRUST-6]`).
/// `in_hand` makes unregistering wait for the one that is under way.
fn carry_out_call(coop: &Coop, vcpu: u8) {
    let Some(station) = coop.stations.get(usize::from(vcpu)) else {
        return;
    };
    station.is_told.store(false, Ordering::Release);
    let hand = lock(&station.in_hand);
    let call = station
        .seat
        .lock()
        .as_mut()
        .and_then(|served| served.take_deferred());
    let Some((submission, features)) = call else {
        return;
    };
    let _ = station.backed.take();
    let mut budget = Budget::exit();
    let mut context = Context {
        shared: &coop.shared,
        vcpu,
        budget: &mut budget,
        server: Server::Worker(&station.backed),
    };
    if let Outcome::Done(done) = carry_out(&submission, features, &mut context) {
        if let Some(served) = station.seat.lock().as_mut() {
            served.finish(&submission, done);
        }
    }
    drop(hand);
    coop.leave_calls(vcpu);
}

/// Looks once more in the polling thread's place, without leases from then on, and gives its queues back to
/// the I/O thread; says how soon to look again. A seat that the late thread itself holds is left out:
/// its lease ends by itself, and the thread is in the middle of looking at it.
///
/// What is promised here, the late thread does not know of: it may have passed the area already on its way
/// to sleep. Then nobody is watched any more, and nobody would keep the promise. So the thread is woken, and
/// finds it.
fn stand_in(coop: &Coop) -> Duration {
    coop.shared.totals.event(Event::StandIns, 1);
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
        let is_leased = served.is_leased();
        let found = served.retire(&coop.shared);
        station.promise.set(found.next_host_tsc);
        if is_leased {
            served.count(&coop.shared, HostCounter::LeaseRevoked, 1);
        }
        if let (Some(at), Some(khz)) = (found.next_host_tsc, served.khz()) {
            let cycles = at.saturating_sub(tsc::read());
            wait = wait.min(clock::time(khz, cycles));
            has_promised = true;
        }
        drop(seat);
        if found.has_deferred {
            coop.leave_calls(vcpu);
        }
    }
    if has_promised {
        coop.ring_async();
    }
    wait
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use coopvirt_spec::entry::Submission;
    use coopvirt_spec::mem::{Load, SharedMem};
    use coopvirt_spec::op::{Opcode, PopulateArgs};
    use coopvirt_spec::page::at;
    use coopvirt_spec::range::RangeList;
    use coopvirt_spec::timer;
    use coopvirt_spec::version::Features;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::coop::testing::{host, Done, Guest, KHZ, TIMER_VECTOR};

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

    /// A guest may leave calls without end: that makes no second message, and none is carried out before what others want.
    #[test]
    fn trust_6_one_call_per_message_and_one_message_at_a_time() {
        let (coop, ram, _) = host();
        let (sender, inbox) = channel();
        coop.worker.set(sender).expect("the only one");
        let mut guest = Guest::register(&coop, &ram, 0, Features(0x73f));
        assert_eq!(inbox.try_recv(), Ok(Message::Registered));
        for tag in 0..3 {
            // That it is a bad call shows only where it is carried out.
            guest.publish(&Submission::new(Opcode::LOG, tag, [0; 6]));
        }
        for _ in 0..100 {
            let mut seat = coop.stations[0].seat.lock();
            let served = seat.as_mut().expect("an area");
            let found = served.poll(&coop.shared, tsc::read(), Duration::from_secs(1));
            assert!(found.has_deferred);
            drop(seat);
            coop.leave_calls(0);
        }
        for left in (0..3).rev() {
            assert_eq!(inbox.try_recv(), Ok(Message::Calls(0)));
            assert!(inbox.try_recv().is_err(), "told twice");
            carry_out_call(&coop, 0);
            assert!(guest.take().is_some(), "one is done");
            assert!(guest.take().is_none(), "and {left} are not");
        }
        // The last one does not know that it was the last.
        assert_eq!(inbox.try_recv(), Ok(Message::Calls(0)));
        carry_out_call(&coop, 0);
        assert!(inbox.try_recv().is_err());
    }

    #[test]
    fn what_the_worker_backs_is_mapped_by_the_vcpu_that_rings() {
        let (coop, ram, _) = host();
        coop.worker.set(channel().0).expect("the only one");
        let mut guest = Guest::register(&coop, &ram, 0, Features(0x73f));
        let item = [0x20_0000_u64, 0x3000];
        ram.write_obj(item, GuestAddress(0x8000)).expect("RAM");
        let list = RangeList {
            list_gpa: 0x8000,
            nr_items: 1,
            first_item: 0,
            first_offset: 0,
        };
        guest.publish(&PopulateArgs::from(list).submission(7));
        let mut seat = coop.stations[0].seat.lock();
        let served = seat.as_mut().expect("an area");
        served.poll(&coop.shared, tsc::read(), Duration::from_secs(1));
        drop(seat);
        carry_out_call(&coop, 0);
        let bytes = |what| coop.shared.totals.snapshot().events[what];
        let both = || (bytes("populated_bytes"), bytes("prefaulted_bytes"));
        assert_eq!(both(), (0x3000, 0));
        for _ in 0..2 {
            guest.ring();
            assert_eq!(both(), (0x3000, 0x3000));
        }
    }

    /// As if the thread had been stopped after it went to sleep: its promise is kept by the worker alone.
    #[test]
    fn timer_12_a_promise_that_the_thread_does_not_keep_is_kept_by_the_worker() {
        let (coop, ram, recorder) = host();
        let guest = Guest::register(&coop, &ram, 0, Features(0x73f));
        let ahead = u64::from(KHZ) * 20;
        let deadline = tsc::read() + ahead;
        let _ = timer::publish(&guest.area, deadline, tsc::read);
        let pulse = Pulse::default();
        let settle = || {
            let mut seat = coop.stations[0].seat.lock();
            let served = seat.as_mut().expect("an area");
            served.retire(&coop.shared).next_host_tsc
        };
        pulse.stop(settle());
        let (sender, inbox) = channel();
        let _ = sender.send(Message::Registered);
        std::thread::scope(|scope| {
            let (coop, pulse) = (&coop, &pulse);
            scope.spawn(move || run(coop, &inbox, pulse, KHZ.into()));
            let start = Instant::now();
            let mut done = recorder.done();
            while done.is_empty() && start.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(1));
                done = recorder.done();
            }
            let _ = sender.send(Message::Stop);
            assert_eq!(done, [Done::Raised(0, TIMER_VECTOR)]);
        });
        assert!(coop.shared.totals.event_value(Event::StandIns) > 0);
        assert_eq!(coop.counts().host["lease_revoked"], 0);
    }
}
