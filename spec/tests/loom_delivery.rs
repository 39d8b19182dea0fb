//! Models of posted interrupts: none is lost, whenever the guest stops to accept.

#[path = "support/model.rs"]
mod model;

use coopvirt_spec::delivery::{GuestPost, HostPost};
use coopvirt_spec::mem::Defect;
use coopvirt_spec::page::at;
use loom::sync::Arc;
use loom::thread;
use model::{assert_fails, assert_holds, number, Model};

const WORDS: [usize; 2] = [at::POSTED, at::ACCEPT];

/// The guest accepts so many times, with a look each, while the host interrupts so many times.
/// Every interrupt is taken, or was raised; the host's last word on it counts.
fn accepts<const D: usize, const SESSIONS: usize, const INTERRUPTS: u8>() {
    let mem = Arc::new(Model::<D>::new(&[], &WORDS));
    let host_mem = mem.clone();
    let host = thread::spawn(move || {
        let mut post = HostPost::new();
        let vectors = 0..INTERRUPTS;
        let raised = vectors.filter(|vector| !post.post(&*host_mem, *vector));
        raised.collect::<Vec<u8>>()
    });
    let mut post = GuestPost::new();
    let mut taken = Vec::new();
    for _ in 0..SESSIONS {
        post.begin(&*mem);
        taken.extend(post.look(&*mem));
        taken.extend(post.end(&*mem));
    }
    let raised = host.join().expect("the host ends");
    for vector in 0..INTERRUPTS {
        let times = taken.iter().filter(|taken| **taken == vector).count();
        assert!(times <= 1, "an interrupt is taken twice");
        assert!(
            times == 1 || raised.contains(&vector),
            "an interrupt is lost"
        );
    }
}

#[test]
fn post_3_no_interrupt_is_lost_when_the_guest_stops_to_accept() {
    assert_holds(accepts::<0, 1, 1>);
}

#[test]
fn post_4_one_after_the_other_none_is_lost() {
    assert_holds(accepts::<0, 1, 2>);
}

#[test]
fn post_5_no_interrupt_is_lost_between_two_sessions() {
    assert_holds(accepts::<0, 2, 1>);
}

#[test]
fn order_7_the_model_fails_without_the_hosts_fence() {
    assert_fails(accepts::<{ number(Defect::PostNoFence) }, 1, 1>, "is lost");
}

#[test]
fn order_7_the_model_fails_without_the_guests_fence() {
    assert_fails(accepts::<{ number(Defect::EndNoFence) }, 1, 1>, "is lost");
}

#[test]
fn post_4_the_model_fails_when_the_host_does_not_look_again() {
    assert_fails(
        accepts::<{ number(Defect::PostLoadsOnce) }, 1, 1>,
        "is lost",
    );
}
