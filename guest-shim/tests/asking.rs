//! A host that sleeps while stock paths are taken is asked to listen (`[BELL-6]`).

#[path = "../../spec/tests/support/machine.rs"]
mod machine;
#[path = "support/mock.rs"]
mod mock;

use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::op::IpiArgs;
use mock::{interrupts, session, OFFERED, OTHER, RESCHEDULE};

#[test]
fn bell_6_a_storm_of_interrupts_asks_a_sleeping_host_to_listen() {
    let mut session = session(OFFERED);
    for _ in 0..15 {
        session.send_ipi(&IpiArgs::one(1, RESCHEDULE));
    }
    assert_eq!(session.cpu().bells.get(), 0);
    // The host of the tests looks at a doorbell, and gives a lease with that.
    session.send_ipi(&IpiArgs::one(1, RESCHEDULE));
    assert_eq!(session.cpu().bells.get(), 1);
    assert_eq!(session.counters().get(GuestCounter::AsyncBell), 1);
    // All of them by the stock path, the one that rang too; those that follow need none.
    assert_eq!(session.cpu().stock_ipis.borrow().len(), 16);
    assert!(interrupts(&session, 1).is_empty());
    session.send_ipi(&IpiArgs::one(1, RESCHEDULE));
    assert_eq!(session.cpu().stock_ipis.borrow().len(), 16);
    assert_eq!(session.counters().get(GuestCounter::IpiElided), 1);
}

#[test]
fn bell_6_vectors_that_are_never_elided_ask_for_nothing() {
    let mut session = session(OFFERED);
    for _ in 0..100 {
        session.send_ipi(&IpiArgs::one(1, OTHER));
    }
    assert_eq!(session.cpu().bells.get(), 0);
}
