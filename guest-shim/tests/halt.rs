//! Which halt a guest makes (`[HALT-4]`), and what it takes its timer to be set to then (`[HALT-2]`, `[HALT-5]`).

#[path = "../../spec/tests/support/machine.rs"]
mod machine;
#[path = "support/mock.rs"]
mod mock;

use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::doorbell::SYNC_PORT;
use coopvirt_spec::page::at;
use coopvirt_spec::version::Features;
use guest_shim::{Cpu, Session};
use mock::{host, session, word, Act, Mock, OFFERED};

const OFFERED_TOO: Features = Features(OFFERED.0 | Features::HALT.0);

fn halting() -> Session<Mock> {
    let mut options = mock::options();
    options.wanted = options.wanted | Features::HALT;
    let mut session = Session::new(Mock::new(OFFERED_TOO), options);
    session.open().expect("a host");
    session.halts_by_doorbell(true);
    session
}

fn stock_deadlines(session: &Session<Mock>) -> Vec<u64> {
    session.cpu().stock_deadlines.borrow().clone()
}

fn advance(session: &Session<Mock>, by: u64) {
    session.cpu().world.machine.borrow_mut().advance(by);
}

#[test]
fn halt_4_without_the_feature_it_halts_by_hlt() {
    let mut session = session(OFFERED);
    session.set_deadline(session.cpu().read_tsc() + 500);
    assert_eq!(session.halt_port(), None);
}

#[test]
fn halt_4_once_for_each_deadline_it_halts_by_the_doorbell() {
    let mut session = halting();
    assert_eq!(session.halt_port(), None, "no deadline, and no promise");
    let now = session.cpu().read_tsc();
    for deadline in [now + 500, now + 900] {
        session.set_deadline(deadline);
        assert_eq!(session.halt_port(), Some(SYNC_PORT));
        // Woken by something else, and nothing has changed.
        assert_eq!(session.halt_port(), None);
        assert_eq!(session.halt_port(), None);
    }
    assert_eq!(session.counters().get(GuestCounter::IdleRung), 2);
    // The timer was set to something else since.
    session.write_stock_deadline(now + 700);
    assert_eq!(session.halt_port(), Some(SYNC_PORT));
}

#[test]
fn halt_4_while_the_host_looks_there_is_nothing_to_be_said() {
    let mut session = halting();
    host(&session, Act::Poll);
    session.set_deadline(session.cpu().read_tsc() + 500);
    assert_eq!(session.halt_port(), None);
    host(&session, Act::Sleep);
    assert_eq!(session.halt_port(), Some(SYNC_PORT));
}

#[test]
fn halt_5_a_later_deadline_rests_on_a_stock_write_that_comes_before_it() {
    let mut session = halting();
    let now = session.cpu().read_tsc();
    session.set_deadline(now + 100);
    assert_eq!(stock_deadlines(&session), [now + 100]);
    session.set_deadline(now + 900);
    assert_eq!(
        stock_deadlines(&session).len(),
        1,
        "it will interrupt first"
    );
    assert_eq!(word(&session, at::DEADLINE), now + 900);
    // An earlier one does not.
    session.set_deadline(now + 50);
    assert_eq!(stock_deadlines(&session), [now + 100, now + 50]);
}

#[test]
fn halt_5_what_rests_on_a_stock_write_is_set_when_that_has_come_for_nothing() {
    let mut session = halting();
    let now = session.cpu().read_tsc();
    session.set_deadline(now + 100);
    session.set_deadline(now + 900);
    advance(&session, 100);
    session.timer_interrupt();
    // A kernel that takes it for none of its own sets nothing.
    session.timer_handled();
    assert_eq!(stock_deadlines(&session), [now + 100, now + 900]);
    // Nor is it set twice.
    session.timer_handled();
    assert_eq!(stock_deadlines(&session).len(), 2);
}

#[test]
fn halt_5_closing_leaves_the_deadline_to_the_stock_timer() {
    let mut session = halting();
    let now = session.cpu().read_tsc();
    session.set_deadline(now + 100);
    session.set_deadline(now + 900);
    session.close();
    assert_eq!(stock_deadlines(&session), [now + 100, now + 900]);
}
