//! Interrupts posted to a session: handed out once each, whatever ends the accepting.

#[path = "../../spec/tests/support/machine.rs"]
mod machine;
#[path = "support/mock.rs"]
mod mock;

use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::delivery::HostPost;
use coopvirt_spec::mem::{SharedMem, Store};
use coopvirt_spec::page::at;
use coopvirt_spec::version::Features;
use guest_shim::{Cpu, Session};
use mock::{Mock, OFFERED};

fn session() -> Session<Mock> {
    mock::session(OFFERED | Features::POLL_DELIVERY)
}

#[test]
fn post_2_what_is_posted_between_two_looks_is_handed_out_once() {
    let (mut session, mut host) = (session(), HostPost::new());
    assert!(!host.post(session.cpu().area(), 0x41), "it does not accept");
    session.accept_posts();
    assert_eq!(session.posted(), None);
    assert!(host.post(session.cpu().area(), 0x41));
    assert_eq!([session.posted(), session.posted()], [Some(0x41), None]);
    assert!(host.post(session.cpu().area(), 0x42));
    assert_eq!(session.refuse_posts(), Some(0x42));
    assert_eq!(session.refuse_posts(), None);
    assert!(!host.post(session.cpu().area(), 0x43));
    assert_eq!(session.counters().get(GuestCounter::Taken), 2);
}

#[test]
fn life_2_closing_ends_accepting_and_what_came_last_is_not_lost() {
    let (mut session, mut host) = (session(), HostPost::new());
    session.accept_posts();
    assert!(host.post(session.cpu().area(), 0x41));
    session.close();
    assert!(!host.post(session.cpu().area(), 0x42));
    // The loop that accepted goes on, and ends.
    assert_eq!(session.posted(), Some(0x41));
    assert_eq!((session.posted(), session.refuse_posts()), (None, None));
}

#[test]
fn life_2_nothing_is_posted_to_an_area_that_was_closed_while_it_accepted() {
    let (mut session, mut host) = (session(), HostPost::new());
    session.accept_posts();
    session.close();
    assert!(!host.post(session.cpu().area(), 0x41));
    assert_eq!((session.posted(), session.refuse_posts()), (None, None));
}

#[test]
fn life_6_in_a_broken_area_nothing_is_accepted() {
    let (mut session, mut host) = (session(), HostPost::new());
    session
        .cpu()
        .area()
        .store_u32(at::BROKEN, 1, Store::Relaxed);
    session.accept_posts();
    assert!(!host.post(session.cpu().area(), 0x41));
    assert_eq!(session.refuse_posts(), None);
}

#[test]
fn neg_2_without_the_feature_nothing_is_accepted() {
    let (mut session, mut host) = (mock::session(OFFERED), HostPost::new());
    session.accept_posts();
    assert!(!host.post(session.cpu().area(), 0x41));
}
