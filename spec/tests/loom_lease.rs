//! Models of the lease: no call that was elided is lost when the promise ends.
//!
//! The guest publishes an `ipi` call and then decides between nothing and its stock path. The host
//! looks while it holds the lease, revokes it, looks once more and sleeps; nothing wakes it but a
//! doorbell. In every interleaving the interrupt must have been sent by one of the two.

#[path = "support/model.rs"]
mod model;

use coopvirt_spec::lease;
use coopvirt_spec::mem::Defect;
use coopvirt_spec::page::at;
use coopvirt_spec::ring::{Consumer, Geometry, Producer, RingSize};
use loom::sync::{Arc, Mutex};
use loom::thread;
use model::{assert_fails, assert_holds, number, Model};

const W: usize = 1;
const ENTRIES: usize = 1024;
/// The guest's clock stands still in the model: a lease is held or revoked.
const NOW: u64 = 100;

fn geometry() -> Geometry {
    Geometry {
        tail: at::SUBMISSION_TAIL,
        head: at::SUBMISSION_HEAD,
        entries: ENTRIES,
        size: RingSize::new(2).expect("a power of two"),
    }
}

fn memory<const D: usize>() -> Arc<Model<D>> {
    let narrow = [at::SUBMISSION_TAIL, at::SUBMISSION_HEAD];
    Arc::new(Model::new(&narrow, &[at::LEASE, ENTRIES, ENTRIES + 8]))
}

/// Publishes one call; whether the stock path was taken.
fn guest<const D: usize>(mem: &Model<D>) -> bool {
    let mut producer = Producer::<W>::new(geometry(), 0);
    let publish = || producer.push(mem, &[7]).expect("room for one");
    !lease::publish_elided(mem, || NOW, publish)
}

/// Looks once; whether the call was found.
fn look<const D: usize>(consumer: &mut Consumer<W>, mem: &Model<D>) -> bool {
    let mut found = false;
    let drained = consumer.drain(mem, 2, |[value]| {
        assert_eq!(value, 7, "torn entry");
        found = true;
    });
    drained.expect("an honest guest");
    found
}

/// The polling thread itself goes to sleep, as [LEASE-4] says.
fn goes_to_sleep<const D: usize>() {
    let mem = memory::<D>();
    lease::renew(&*mem, NOW, 1);
    let host_mem = mem.clone();
    let host = thread::spawn(move || {
        let mut consumer = Consumer::<W>::new(geometry(), 0);
        let early = look(&mut consumer, &host_mem);
        let last = lease::revoke(&*host_mem).take(|| look(&mut consumer, &host_mem));
        early || last
    });
    let stock = guest(&mem);
    let found = host.join().expect("the host ends");
    assert!(stock || found, "an elided interrupt is lost");
}

/// The polling thread was stopped while it held the lease; the revoker takes over.
fn is_revoked<const D: usize>() {
    let mem = memory::<D>();
    lease::renew(&*mem, NOW, 1);
    let revoker_mem = mem.clone();
    let revoker = thread::spawn(move || {
        let mut consumer = Consumer::<W>::new(geometry(), 0);
        lease::revoke(&*revoker_mem).take(|| look(&mut consumer, &revoker_mem))
    });
    let stock = guest(&mem);
    let found = revoker.join().expect("the revoker ends");
    assert!(stock || found, "an elided interrupt is lost");
}

/// Two calls, while the host goes to sleep and is woken by the doorbell. The bell is a flag under a
/// lock, as an eventfd is: rings coalesce, and the host looks at it before it blocks.
fn wakes_up<const D: usize>() {
    let mem = memory::<D>();
    let bell = Arc::new(Mutex::new(false));
    let rang = |bell: &Mutex<bool>| std::mem::take(&mut *bell.lock().expect("not poisoned"));
    lease::renew(&*mem, NOW, 1);
    let (host_mem, host_bell) = (mem.clone(), bell.clone());
    let host = thread::spawn(move || {
        let mut consumer = Consumer::<W>::new(geometry(), 0);
        lease::revoke(&*host_mem).take(|| look(&mut consumer, &host_mem));
        // Asleep: the bell is the only reason to look.
        if rang(&host_bell) {
            lease::renew(&*host_mem, NOW, 1);
            lease::revoke(&*host_mem).take(|| look(&mut consumer, &host_mem));
        }
        consumer
    });
    let mut producer = Producer::<W>::new(geometry(), 0);
    for _ in 0..2 {
        producer.push(&*mem, &[7]).expect("room for two");
        if !lease::listens(&*mem, || NOW) {
            *bell.lock().expect("not poisoned") = true;
        }
    }
    let mut consumer = host.join().expect("the host ends");
    if rang(&bell) {
        look(&mut consumer, &mem);
    }
    assert_eq!(consumer.head(), 2, "a wake-up is lost");
}

#[test]
fn lease_3_no_elided_call_is_lost_when_the_host_goes_to_sleep() {
    assert_holds(goes_to_sleep::<0>);
}

#[test]
fn lease_6_no_elided_call_is_lost_when_a_stale_lease_is_revoked() {
    assert_holds(is_revoked::<0>);
}

#[test]
fn bell_2_no_wake_up_is_lost() {
    assert_holds(wakes_up::<0>);
}

#[test]
fn bell_2_the_model_fails_without_either_fence() {
    assert_fails(wakes_up::<{ number(Defect::PublishNoFence) }>, "is lost");
    assert_fails(wakes_up::<{ number(Defect::RevokeNoFence) }>, "is lost");
}

#[test]
fn lease_3_the_model_fails_when_the_lease_is_read_only_before() {
    assert_fails(
        goes_to_sleep::<{ number(Defect::LeaseReadOnce) }>,
        "is lost",
    );
    assert_fails(is_revoked::<{ number(Defect::LeaseReadOnce) }>, "is lost");
}

#[test]
fn order_4_the_model_fails_without_the_guests_fence() {
    assert_fails(
        goes_to_sleep::<{ number(Defect::PublishNoFence) }>,
        "is lost",
    );
    assert_fails(is_revoked::<{ number(Defect::PublishNoFence) }>, "is lost");
}

#[test]
fn order_4_the_model_fails_without_the_hosts_fence() {
    assert_fails(
        goes_to_sleep::<{ number(Defect::RevokeNoFence) }>,
        "is lost",
    );
    assert_fails(is_revoked::<{ number(Defect::RevokeNoFence) }>, "is lost");
}
