//! Calls in batches: one exit for many, answers in any order, and what happens when there is none.

#[path = "../../spec/tests/support/machine.rs"]
mod machine;
#[path = "support/mock.rs"]
mod mock;

use coopvirt_spec::code::{SetupStatus, Status};
use coopvirt_spec::entry::Completion;
use coopvirt_spec::mem::{SharedMem, Store};
use coopvirt_spec::op::{EchoArgs, NopArgs, PopulateArgs, YieldToArgs};
use coopvirt_spec::page::at;
use coopvirt_spec::range::RangeList;
use coopvirt_spec::version::Features;
use guest_shim::batch::{BatchError, Flush};
use guest_shim::{Cpu, OpenError, Session};
use mock::{host, options, script, session, Act, Mock, OFFERED};

fn no_others(done: Completion) {
    panic!("an answer to nothing: {done:?}");
}

#[test]
fn bell_3_a_batch_costs_one_exit() {
    let mut session = session(OFFERED);
    let tags: Vec<u64> = (0..16_u64)
        .map(|value| {
            session
                .stage(EchoArgs { value }.submission(0))
                .expect("room")
        })
        .collect();
    assert_eq!(session.take(), None);
    session.flush(Flush::Now);
    for (value, tag) in (0..).zip(tags) {
        let done = session.take().expect("an answer");
        assert_eq!(
            (done.tag, done.result, done.status()),
            (tag, value, Status::OK)
        );
    }
    assert_eq!(session.take(), None);
    assert_eq!(session.cpu().bells.get(), 1);
}

#[test]
fn bell_2_an_asynchronous_batch_rings_only_if_nobody_listens() {
    let mut session = session(OFFERED);
    host(&session, Act::Poll);
    session.stage(NopArgs {}.submission(0)).expect("room");
    session.flush(Flush::Soon);
    assert_eq!((session.cpu().bells.get(), session.take()), (0, None));
    host(&session, Act::Poll);
    assert!(session.take().is_some());
    // The host falls asleep just as the batch is published.
    script(&session, &[Act::Sleep]);
    session.stage(NopArgs {}.submission(0)).expect("room");
    session.flush(Flush::Soon);
    assert_eq!(session.cpu().bells.get(), 1);
    assert!(session.take().is_some());
}

#[test]
fn ring_10_a_full_ring_is_drained_once_and_goes_on() {
    let mut session = session(OFFERED);
    let mut answers = 0;
    for _ in 0..200 {
        if session.stage(NopArgs {}.submission(0)) == Err(BatchError::Full) {
            while session.take().is_some() {
                answers += 1;
            }
            session.stage(NopArgs {}.submission(0)).expect("room again");
        }
    }
    for _ in 0..3 {
        session.flush(Flush::Now);
        while session.take().is_some() {
            answers += 1;
        }
    }
    assert_eq!(answers, 200);
    assert!(session.cpu().bells.get() < 20);
}

#[test]
fn op_3_answers_to_others_are_handed_on() {
    let mut session = session(OFFERED);
    let first = session
        .stage(EchoArgs { value: 1 }.submission(0))
        .expect("room");
    let mut others = Vec::new();
    let done = session.call(EchoArgs { value: 2 }.submission(0), |done| {
        others.push(done.tag)
    });
    assert_eq!(done.map(|done| done.result), Ok(2));
    assert_eq!(others, [first]);
    let absent = YieldToArgs { apic_id: 99 }.submission(0);
    let Err(BatchError::Refused(done)) = session.call(absent, no_others) else {
        panic!("an absent target was accepted");
    };
    assert_eq!(done.status(), Status::BAD_TARGET);
}

#[test]
fn bell_3_a_call_behind_many_others_is_answered() {
    let mut session = session(OFFERED);
    for _ in 0..31 {
        session.stage(NopArgs {}.submission(0)).expect("room");
    }
    let mut others = 0;
    let done = session.call(EchoArgs { value: 5 }.submission(0), |_| others += 1);
    assert_eq!((done.map(|done| done.result), others), (Ok(5), 31));
}

#[test]
fn mmu_4_a_list_is_worked_through_in_bounded_pieces() {
    let mut session = session(OFFERED);
    let list = RangeList {
        list_gpa: 0x1000,
        nr_items: 2,
        first_item: 0,
        first_offset: 0,
    };
    let items = [0x5000, 0x3000, 0x9000, 0x4000];
    session
        .cpu()
        .world
        .machine
        .borrow()
        .memory()
        .write_words(0x1000, &items);
    let populate = |list| PopulateArgs::from(list).submission(0);
    assert_eq!(session.run_list(list, populate, no_others), Ok(2));
    let worked = session.cpu().world.machine.borrow().worked.clone();
    assert_eq!(worked, [(5, 2), (7, 1), (9, 1), (10, 2), (12, 1)]);
    assert_eq!(session.cpu().bells.get(), 4);
    // A bad item: those before it are done, and the answer says which it is.
    let items = [0x5000, 0x1000, 0x5001, 0x1000];
    session
        .cpu()
        .world
        .machine
        .borrow()
        .memory()
        .write_words(0x1000, &items);
    let Err(BatchError::Refused(done)) = session.run_list(list, populate, no_others) else {
        panic!("a bad item was accepted");
    };
    assert_eq!((done.status(), done.items_done), (Status::BAD_RANGE, 1));
}

#[test]
fn trust_7_a_call_on_a_broken_area_ends() {
    let mut session = session(OFFERED);
    script(&session, &[Act::Break]);
    let done = session.call(NopArgs {}.submission(0), |_| {});
    assert!(matches!(done, Ok(_) | Err(BatchError::NoArea)));
    assert_eq!(
        session.call(NopArgs {}.submission(0), no_others),
        Err(BatchError::NoArea)
    );
    assert_eq!(
        session.stage(NopArgs {}.submission(0)),
        Err(BatchError::NoArea)
    );
    session.flush(Flush::Now);
    session.flush(Flush::Soon);
    assert_eq!(session.take(), None);

    // A host that writes nonsense as its progress is left.
    let mut session = mock::session(OFFERED);
    session.stage(NopArgs {}.submission(0)).expect("room");
    let area = session.cpu().area();
    area.store_u32(at::COMPLETION_TAIL, 0x8000_0000, Store::Release);
    assert_eq!(session.take(), None);
    assert_eq!(
        session.stage(NopArgs {}.submission(0)),
        Err(BatchError::NoArea)
    );
}

#[test]
fn neg_2_a_session_uses_what_is_wanted_and_offered() {
    let session = session(Features::RING | Features::TIMER | Features(1 << 50));
    // Unknown features are wanted by nobody who means them; here everything is.
    assert!(session
        .features()
        .contains(Features::RING | Features::TIMER));
    assert!(!session.features().contains(Features::IPI));
}

#[test]
fn page_3_every_way_to_get_no_area_has_a_name() {
    let mut mock = Mock::new(OFFERED);
    mock.has_host = false;
    let mut session = Session::new(mock, options());
    assert_eq!(session.open(), Err(OpenError::NotFound));

    let mut session = Session::new(Mock::new(Features::NONE), options());
    assert_eq!(session.open(), Err(OpenError::NothingOffered));

    let mut mock = Mock::new(OFFERED);
    mock.faults = true;
    let mut session = Session::new(mock, options());
    assert_eq!(session.open(), Err(OpenError::Fault));

    let mock = Mock::new(OFFERED);
    let layout = coopvirt_spec::page::AreaLayout::new(64).expect("a legal size");
    mock.world.machine.borrow_mut().offer.layout = layout;
    let mut session = Session::new(mock, options());
    let needed_bytes = 8192;
    assert_eq!(session.open(), Err(OpenError::TooShort { needed_bytes }));

    // Another vCPU has the same page.
    let mock = Mock::new(OFFERED);
    mock.world.machine.borrow_mut().register(1, 4);
    let mut session = Session::new(mock, options());
    assert_eq!(session.open(), Err(OpenError::Refused(SetupStatus::SHARED)));
    assert_eq!(
        session.stage(NopArgs {}.submission(0)),
        Err(BatchError::NoArea)
    );
}
