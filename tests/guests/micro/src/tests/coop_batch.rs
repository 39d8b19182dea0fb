//! Many calls in one exit. The host's test looks for the phases in the exit report.

use coopvirt_spec::code::Status;
use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::op::{EchoArgs, NopArgs};
use coopvirt_spec::version::Features;
use guest_shim::batch::{BatchError, Flush};
use guest_shim::Marker;

use super::marks::Bare;
use crate::coop;
use crate::params;
use crate::report::value;
use crate::test::{guest_test, Ran};

/// A work of this guest's own choice, which no work has.
const WORK: u8 = 0xe4;
/// A whole ring.
const BATCH: u64 = 32;

guest_test!(
    "coop_batch_one_exit_for_many_calls",
    "[BELL-3] [RING-2] [RING-7] [OP-3] [OP-5]",
    one_exit_for_many
);
/// Parameter `calls`: how many, a multiple of 32.
fn one_exit_for_many() -> Ran {
    coop::offer()?;
    let calls = params::number("calls").unwrap_or(3_200);
    let mut session = coop::open(Features::RING);
    let mut marker = Marker::new(Bare);
    // Echoes first: each nonce comes back to the call that carried it.
    marker.phase(WORK, || {
        for batch in 0..calls / BATCH {
            let mut tags = [0; 32];
            for (place, tag) in (0..).zip(&mut tags) {
                let call = EchoArgs {
                    value: nonce(batch * BATCH + place),
                };
                *tag = session.stage(call.submission(0)).expect("room for a batch");
            }
            session.flush(Flush::Now);
            let mut seen = 0_u32;
            while let Some(done) = session.take() {
                let place = tags.iter().position(|tag| *tag == done.tag);
                let place = place.expect("a tag of this batch");
                assert_eq!(done.status(), Status::OK);
                assert_eq!(done.result, nonce(batch * BATCH + place as u64));
                assert_eq!(seen & 1 << place, 0, "answered twice");
                seen |= 1 << place;
            }
            assert_eq!(seen, u32::MAX, "all answers are there after the doorbell");
        }
    });
    // No-ops, the plainest call.
    marker.phase(WORK, || {
        for _ in 0..calls / BATCH {
            for _ in 0..BATCH {
                let call = NopArgs {}.submission(0);
                session.stage(call).expect("room for a batch");
            }
            session.flush(Flush::Now);
            let mut answers = 0;
            while let Some(done) = session.take() {
                assert_eq!((done.status(), done.result), (Status::OK, 0));
                answers += 1;
            }
            assert_eq!(answers, BATCH);
        }
    });
    // For comparison: one call, one exit.
    marker.phase(WORK, || {
        for value in 0..BATCH {
            let done = coop::answer(&mut session, EchoArgs { value }.submission(0));
            assert_eq!(done.result, value);
        }
    });
    let counters = session.counters();
    assert_eq!(counters.get(GuestCounter::RingFull), 0);
    value("bells", counters.get(GuestCounter::SyncBell));
    value("calls", counters.get(GuestCounter::Completed));
    session.close();
    Ok(())
}

fn nonce(number: u64) -> u64 {
    (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

guest_test!(
    "coop_batch_quiet_calls_have_no_completion",
    "[OP-4] [OP-2]",
    quiet_calls
);
fn quiet_calls() -> Ran {
    coop::offer()?;
    let mut session = coop::open(Features::RING);
    for _ in 0..BATCH / 2 {
        let call = NopArgs {}.submission(0).quiet();
        session.stage(call).expect("room");
    }
    // Quiet, but refused: that is said.
    let mut bad = NopArgs {}.submission(0).quiet();
    bad.args[5] = 1;
    let tag = session.stage(bad).expect("room");
    session.flush(Flush::Now);
    let done = session.take().expect("the refusal");
    assert_eq!((done.tag, done.status()), (tag, Status::RESERVED_BITS));
    assert_eq!(session.take(), None);
    session.close();
    Ok(())
}

guest_test!(
    "coop_batch_full_rings",
    "[RING-2] [RING-9] [RING-10]",
    full_rings
);
fn full_rings() -> Ran {
    coop::offer()?;
    let mut session = coop::open(Features::RING);
    // One ring of calls that are done and whose answers nobody takes, one ring that waits.
    let calls = 2 * BATCH;
    for value in 0..calls {
        session
            .stage(EchoArgs { value }.submission(0))
            .expect("two rings have room for this");
    }
    session.flush(Flush::Now);
    let call = NopArgs {}.submission(0);
    // The host stops taking: full is an answer, and nothing breaks.
    assert_eq!(session.stage(call), Err(BatchError::Full));
    let mut next = 0;
    while next < calls {
        match session.take() {
            Some(done) => {
                assert_eq!(done.result, next);
                next += 1;
            }
            None => session.flush(Flush::Now),
        }
    }
    assert_eq!(session.take(), None);
    let done = coop::answer(&mut session, call);
    assert_eq!(done.status(), Status::OK);
    session.close();
    Ok(())
}
