//! A peer that lies about its index: every wrong value is noticed, once and for ever.

mod support;

use std::cell::{Cell, RefCell};

use coopvirt_spec::code::BrokenReason;
use coopvirt_spec::mem::{AtomicWords, Defect, Load, SharedMem, Store};
use coopvirt_spec::op::NopArgs;
use coopvirt_spec::page::{at, AreaLayout};
use coopvirt_spec::ring::{Consumer, GuestRing, HostRing, Producer, PushError, RingSize, Taken};
use support::area;

const LAYOUT: AreaLayout = AreaLayout::DEFAULT;

/// Memory whose tail gives another value at each load, and that counts the loads of each word.
struct Scripted<const D: bool> {
    tails: RefCell<Vec<u32>>,
    loads: Cell<u32>,
}

impl<const D: bool> SharedMem for Scripted<D> {
    const DEFECT: Defect = if D { Defect::FetchTwice } else { Defect::None };

    fn load_u32(&self, _: usize, _: Load) -> u32 {
        self.loads.set(self.loads.get() + 1);
        self.tails.borrow_mut().pop().unwrap_or(0)
    }
    fn store_u32(&self, _: usize, _: u32, _: Store) {}
    fn load_u64(&self, _: usize, _: Load) -> u64 {
        0
    }
    fn store_u64(&self, _: usize, _: u64, _: Store) {}
    fn fence_full(&self) {}
}

/// How many entries a consumer takes, and with how many loads, when the tail first says 2 and then
/// something absurd.
fn takes_while_the_tail_changes<const D: bool>() -> (u32, u32) {
    let mem = Scripted::<D> {
        tails: RefCell::new(vec![0x4000_0000, 2]),
        loads: Cell::new(0),
    };
    let mut consumer = Consumer::<8>::new(LAYOUT.submissions(), 0);
    let _ = consumer.look(&mem);
    (consumer.known(), mem.loads.get())
}

#[test]
fn trust_2_the_tail_is_fetched_once_and_then_used() {
    assert_eq!(takes_while_the_tail_changes::<false>(), (2, 1));
    // The defect that fetches again has to be visible here.
    assert_eq!(takes_while_the_tail_changes::<true>(), (0x4000_0000, 2));
}

/// Memory that forgets corruption.
struct Forgetful<'a>(AtomicWords<'a>);

impl SharedMem for Forgetful<'_> {
    const DEFECT: Defect = Defect::ForgetCorrupt;

    fn load_u32(&self, offset: usize, order: Load) -> u32 {
        self.0.load_u32(offset, order)
    }
    fn store_u32(&self, offset: usize, value: u32, order: Store) {
        self.0.store_u32(offset, value, order);
    }
    fn load_u64(&self, offset: usize, order: Load) -> u64 {
        self.0.load_u64(offset, order)
    }
    fn store_u64(&self, offset: usize, value: u64, order: Store) {
        self.0.store_u64(offset, value, order);
    }
    fn fence_full(&self) {
        self.0.fence_full();
    }
}

/// Whether a tail that was absurd once keeps the host away after it has been put right.
fn stays_broken<M: SharedMem>(mem: &M) -> bool {
    let (mut guest, mut host) = (GuestRing::new(LAYOUT), HostRing::new(LAYOUT));
    guest.stage(mem, &NopArgs {}.submission(1)).expect("room");
    mem.store_u32(at::SUBMISSION_TAIL, 33, Store::Release);
    let reason = BrokenReason::SUBMISSION_TAIL;
    let is_noticed = host.take(mem) == Taken::Broken(reason);
    assert_eq!(mem.load_u32(at::BROKEN, Load::Acquire), reason.0);
    assert!(guest.is_broken(mem));
    guest.publish(mem);
    is_noticed && host.take(mem) == Taken::Broken(reason) && !host.has_work(mem)
}

#[test]
fn life_6_broken_is_for_ever() {
    let memory = area(LAYOUT);
    assert!(stays_broken(&AtomicWords(&memory)));
    let memory = area(LAYOUT);
    assert!(!stays_broken(&Forgetful(AtomicWords(&memory))));
}

/// Every 32-bit tail that is a power of two away from the truth, and all small distances.
fn wrong_distances() -> impl Iterator<Item = u32> {
    let near = (1..=200_u32).flat_map(|by| [by, by.wrapping_neg()]);
    let far = (0..32).flat_map(|bit| [1_u32 << bit, (1_u32 << bit).wrapping_neg()]);
    near.chain(far)
}

#[test]
fn ring_5_a_tail_that_jumps_or_goes_back_breaks_the_ring() {
    let entries = LAYOUT.ring_entries();
    for by in wrong_distances() {
        let memory = area(LAYOUT);
        let mem = &AtomicWords(&memory);
        let mut consumer = Consumer::<8>::new(LAYOUT.submissions(), 0);
        // Three published, one taken; the tail then moves by `by` from 3.
        mem.store_u32(at::SUBMISSION_TAIL, 3, Store::Release);
        assert!(matches!(consumer.pop(mem), Ok(Some(_))));
        let tail = 3_u32.wrapping_add(by);
        mem.store_u32(at::SUBMISSION_TAIL, tail, Store::Release);
        let is_legal = (3..=1 + entries).contains(&tail);
        assert_eq!(consumer.look(mem).is_ok(), is_legal, "tail {tail:#x}");
        assert_eq!(consumer.broken().is_some(), !is_legal);
        mem.store_u32(at::SUBMISSION_TAIL, 3, Store::Release);
        let known = consumer.known();
        assert!(known <= RingSize::MAX && (is_legal || known == 2));
    }
}

#[test]
fn ring_5_a_head_that_passes_the_tail_or_goes_back_breaks_the_ring() {
    for by in wrong_distances() {
        let memory = area(LAYOUT);
        let mem = &AtomicWords(&memory);
        let mut producer = Producer::<8>::new(LAYOUT.submissions(), 0);
        for _ in 0..4 {
            producer.push(mem, &[0; 8]).expect("room");
        }
        mem.store_u32(at::SUBMISSION_HEAD, 2, Store::Release);
        assert_eq!(producer.free(mem), Ok(30));
        let head = 2_u32.wrapping_add(by);
        mem.store_u32(at::SUBMISSION_HEAD, head, Store::Release);
        let is_legal = (2..=4).contains(&head);
        assert_eq!(producer.free(mem).is_ok(), is_legal, "head {head:#x}");
        mem.store_u32(at::SUBMISSION_HEAD, 2, Store::Release);
        let pushed = producer.push(mem, &[0; 8]);
        assert_eq!(matches!(pushed, Err(PushError::Corrupt(_))), !is_legal);
    }
}

// [RING-10]: full is an answer of its own, from which both sides recover.
#[test]
fn trust_6_a_guest_that_drains_no_completions_only_stops_itself() {
    let memory = area(LAYOUT);
    let mem = &AtomicWords(&memory);
    let (mut guest, mut host) = (GuestRing::new(LAYOUT), HostRing::new(LAYOUT));
    let mut answered = 0;
    for tag in 0..200 {
        let _ = guest.stage(mem, &NopArgs {}.submission(tag));
        guest.publish(mem);
        match host.take(mem) {
            Taken::Submission(call) => {
                let done = coopvirt_spec::entry::Completion::new(
                    call.tag,
                    coopvirt_spec::code::Status::OK,
                    0,
                );
                host.finish(mem, &call, done);
                answered += 1;
            }
            Taken::Blocked => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answered, LAYOUT.ring_entries());
    assert_eq!(host.take(mem), Taken::Blocked);
    assert_eq!(
        guest.stage(mem, &NopArgs {}.submission(0)),
        Err(coopvirt_spec::ring::CallError::Full)
    );
    // As soon as it drains, everything goes on.
    assert_eq!(
        guest
            .take(mem)
            .expect("an honest host")
            .map(|done| done.tag),
        Some(0)
    );
    assert!(matches!(host.take(mem), Taken::Submission(_)));
}

// [RING-7], [RING-9]: a turn takes what lay there when it began and has room for its completion,
// and shows both at its end.
#[test]
fn ring_7_a_turn_is_one_look() {
    let memory = area(LAYOUT);
    let mem = &AtomicWords(&memory);
    let (mut guest, mut host) = (GuestRing::new(LAYOUT), HostRing::new(LAYOUT));
    let publish = |guest: &mut GuestRing, tags: std::ops::Range<u64>| {
        for tag in tags {
            guest.stage(mem, &NopArgs {}.submission(tag)).expect("room");
        }
        guest.publish(mem);
    };
    let done = |tag| coopvirt_spec::entry::Completion::new(tag, coopvirt_spec::code::Status::OK, 0);
    publish(&mut guest, 0..3);
    let mut turn = host.turn(mem);
    let first = turn.take().expect("published");
    publish(&mut guest, 3..4);
    turn.finish(&first, done(first.tag));
    assert_eq!(mem.load_u32(at::COMPLETION_TAIL, Load::Relaxed), 0);
    let late = turn.take().expect("published");
    assert!(turn.take().is_some() && turn.take().is_none());
    drop(turn);
    assert_eq!(mem.load_u32(at::SUBMISSION_HEAD, Load::Relaxed), 3);
    assert_eq!(mem.load_u32(at::COMPLETION_TAIL, Load::Relaxed), 1);
    assert_eq!(host.in_flight(), 2);
    host.finish(mem, &late, done(late.tag));
    assert_eq!(mem.load_u32(at::COMPLETION_TAIL, Load::Relaxed), 2);
    // One in flight, two not drained: 29 of 32 have room.
    publish(&mut guest, 4..33);
    let mut turn = host.turn(mem);
    let taken = std::iter::from_fn(|| turn.take()).count();
    drop(turn);
    assert_eq!((taken, host.in_flight()), (29, 30));
    assert!(host.turn(mem).take().is_none() && host.has_work(mem));
    // A tail that cannot be ends it for good.
    mem.store_u32(at::SUBMISSION_TAIL, 3, Store::Release);
    assert!(host.turn(mem).take().is_none());
    assert_eq!(host.broken(), Some(BrokenReason::SUBMISSION_TAIL));
}

// [OP-3], [OP-4]: out of order, and not at all for a quiet success.
#[test]
fn ring_9_room_is_kept_for_what_is_in_flight() {
    let memory = area(LAYOUT);
    let mem = &AtomicWords(&memory);
    let (mut guest, mut host) = (GuestRing::new(LAYOUT), HostRing::new(LAYOUT));
    for tag in 0..u64::from(LAYOUT.ring_entries()) {
        guest.stage(mem, &NopArgs {}.submission(tag)).expect("room");
    }
    guest.publish(mem);
    let mut open = Vec::new();
    while let Taken::Submission(call) = host.take(mem) {
        open.push(call);
    }
    assert_eq!(open.len(), 32);
    guest
        .stage(mem, &NopArgs {}.submission(99))
        .expect("all were taken");
    guest.publish(mem);
    assert_eq!(host.take(mem), Taken::Blocked);
    // Out of order is fine; a quiet success takes no room.
    let quiet = open.swap_remove(7).quiet();
    let ok = |tag| coopvirt_spec::entry::Completion::new(tag, coopvirt_spec::code::Status::OK, 5);
    host.finish(mem, &quiet, ok(quiet.tag));
    assert_eq!(guest.take(mem), Ok(None));
    assert!(matches!(host.take(mem), Taken::Submission(call) if call.tag == 99));
    host.finish(mem, &open[0], ok(open[0].tag));
    let done = guest.take(mem).expect("an honest host").expect("one");
    assert_eq!((done.tag, done.result), (open[0].tag, 5));
}
