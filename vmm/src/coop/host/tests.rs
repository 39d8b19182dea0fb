//! Registration and doorbells against an honest and a hostile guest, without KVM.

use std::sync::atomic::{AtomicBool, Ordering};

use coopvirt_spec::code::{BrokenReason, SetupStatus, Status};
use coopvirt_spec::delivery::GuestPost;
use coopvirt_spec::entry::Submission;
use coopvirt_spec::mem::{Load, SharedMem, Store};
use coopvirt_spec::op::{EchoArgs, LogArgs, NopArgs, Opcode};
use coopvirt_spec::page::{at, read_header};
use coopvirt_spec::setup::{AREA_MSR, FEATURES_MSR, STATUS_MSR};
use coopvirt_spec::version::Features;
use vm_memory::{Bytes, GuestAddress};

use crate::coop::counters::Event;
use crate::coop::testing::{area_gpa, host, status, write, Done, FakeVcpu, Guest, TIMER_VECTOR};
use crate::irq::Poster;

const ALL: Features = Features(0x73f);

fn echo(value: u64) -> Submission {
    EchoArgs { value }.submission(value)
}

#[test]
fn reg_5_a_registered_area_has_a_header_and_answers() {
    let (coop, ram, _) = host();
    let mut guest = Guest::register(&coop, &ram, 1, ALL);
    let header = read_header(&guest.area).expect("a header");
    assert_eq!((header.features, header.apic_id), (ALL.0, 1));
    let done = guest.call(&echo(42));
    assert_eq!((done.tag, done.status(), done.result), (42, Status::OK, 42));
    let state = status(&coop, 1);
    assert!(state.is_registered && state.broken.0 == 0);
    assert_eq!(coop.read_register(1, AREA_MSR), Some(area_gpa(1) | 1));
    let counts = coop.counts();
    assert_eq!(counts.operations["op_echo"], 1);
    assert_eq!(counts.host["taken_bell"], 1);
}

#[test]
fn trust_1_areas_that_cannot_be_are_refused() {
    let (coop, ram, _) = host();
    assert_eq!(
        write(&coop, 0, AREA_MSR, 0x5001),
        SetupStatus::NOT_NEGOTIATED
    );
    assert_eq!(
        write(&coop, 0, FEATURES_MSR, u64::MAX),
        SetupStatus::BAD_FEATURES
    );
    let _other = Guest::register(&coop, &ram, 1, ALL);
    assert_eq!(write(&coop, 0, FEATURES_MSR, 1), SetupStatus::OK);
    for (value, expected) in [
        (0x40_0001, SetupStatus::BAD_ADDRESS),
        (0xfee0_0001, SetupStatus::BAD_ADDRESS),
        (0xc000_0001, SetupStatus::BAD_ADDRESS),
        (!0xfff | 1, SetupStatus::BAD_ADDRESS),
        (0x5801, SetupStatus::RESERVED_BITS),
        (0x5000, SetupStatus::RESERVED_BITS),
        (area_gpa(1) | 1, SetupStatus::SHARED),
    ] {
        assert_eq!(write(&coop, 0, AREA_MSR, value), expected, "{value:#x}");
        assert!(!status(&coop, 0).is_registered);
    }
    assert_eq!(write(&coop, 0, AREA_MSR, 0x5001), SetupStatus::OK);
    assert_eq!(
        write(&coop, 0, AREA_MSR, 0x5001),
        SetupStatus::ALREADY_REGISTERED
    );
    assert_eq!(write(&coop, 0, FEATURES_MSR, 3), SetupStatus::BUSY);
}

#[test]
fn post_4_only_what_a_guest_accepts_is_posted() {
    let (coop, ram, _) = host();
    let guest = Guest::register(&coop, &ram, 1, ALL | Features::POLL_DELIVERY);
    let mut posts = GuestPost::new();
    assert!(!coop.post(1, 0x41), "it does not accept yet");
    posts.begin(&guest.area);
    assert!(coop.post(1, 0x41));
    assert!(!coop.post(1, 0x42), "it owes one");
    assert!(!coop.post(0, 0x41) && !coop.post(7, 0x41), "nobody else");
    assert_eq!(posts.look(&guest.area), Some(0x41));
    assert!(coop.post(1, 0x43));
    assert_eq!(posts.end(&guest.area), Some(0x43));
    assert!(!coop.post(1, 0x44));
    assert_eq!(coop.counts().events["posted"], 2);
}

#[test]
fn post_4_whatever_the_accept_word_says_it_is_posted_once_or_not() {
    let (coop, ram, _) = host();
    let guest = Guest::register(&coop, &ram, 0, ALL | Features::POLL_DELIVERY);
    let mut posted = 0_u64;
    for word in [
        1,
        u64::MAX,
        1 << 32 | 1,
        2 << 32 | 3,
        !1,
        3 << 32 | 1,
        1 << 63,
    ] {
        guest.area.store_u64(at::ACCEPT, word, Store::Relaxed);
        for vector in 16..=255 {
            posted += u64::from(coop.post(0, vector));
        }
    }
    assert_eq!(coop.counts().events["posted"], posted);
    assert!(
        posted < 8,
        "at most one for each word, and it had none to take"
    );
}

#[test]
fn life_2_an_unregistered_area_is_not_posted_to() {
    let (coop, ram, _) = host();
    let guest = Guest::register(&coop, &ram, 0, ALL | Features::POLL_DELIVERY);
    GuestPost::new().begin(&guest.area);
    assert_eq!(write(&coop, 0, AREA_MSR, 0), SetupStatus::OK);
    assert!(!coop.post(0, 0x41));
    assert_eq!(guest.area.load_u64(at::POSTED, Load::Relaxed), 0);
}

#[test]
fn post_6_without_the_feature_nothing_is_posted() {
    let (coop, ram, _) = host();
    let guest = Guest::register(&coop, &ram, 0, ALL);
    GuestPost::new().begin(&guest.area);
    assert!(!coop.post(0, 0x41));
}

#[test]
fn life_2_an_unregistered_page_is_the_guests_again_at_once() {
    let (coop, ram, _) = host();
    let mut guest = Guest::register(&coop, &ram, 0, ALL);
    guest.publish(&echo(1));
    assert_eq!(write(&coop, 0, AREA_MSR, 0), SetupStatus::OK);
    let gpa = GuestAddress(area_gpa(0));
    ram.write_slice(&[0x5a; 4096], gpa).unwrap();
    guest.ring();
    coop.ring_async();
    let mut page = [0; 4096];
    ram.read_slice(&mut page, gpa).unwrap();
    assert_eq!(page, [0x5a; 4096]);
    // Another vCPU may have it now.
    assert_eq!(write(&coop, 1, FEATURES_MSR, 1), SetupStatus::OK);
    assert_eq!(write(&coop, 1, AREA_MSR, area_gpa(0) | 1), SetupStatus::OK);
    assert_eq!(coop.shared.totals.event_value(Event::Unregistered), 1);
}

#[test]
fn life_6_an_impossible_tail_breaks_this_vcpu_and_no_other() {
    for tail in [33, 1000, u32::MAX, 1 << 31] {
        let (coop, ram, recorder) = host();
        let mut victim = Guest::register(&coop, &ram, 0, ALL);
        let mut other = Guest::register(&coop, &ram, 1, ALL);
        victim
            .area
            .store_u32(at::SUBMISSION_TAIL, tail, Store::Release);
        victim.ring();
        assert_eq!(status(&coop, 0).broken, BrokenReason::SUBMISSION_TAIL);
        // It may sleep until a deadline that nobody serves now (`[LIFE-7]`).
        assert_eq!(recorder.done(), [Done::Raised(0, TIMER_VECTOR)]);
        let word = victim.area.load_u32(at::BROKEN, Load::Acquire);
        assert_eq!(word, BrokenReason::SUBMISSION_TAIL.0);
        // For ever, even if the tail is possible again.
        victim
            .area
            .store_u32(at::SUBMISSION_TAIL, 1, Store::Release);
        victim.ring();
        assert!(victim.take().is_none());
        assert_eq!(other.call(&echo(7)).result, 7);
        // Registering anew mends it.
        assert_eq!(write(&coop, 0, AREA_MSR, 0), SetupStatus::OK);
        ram.write_slice(&[0; 4096], GuestAddress(area_gpa(0)))
            .unwrap();
        let mut again = Guest::register(&coop, &ram, 0, ALL);
        assert_eq!(again.call(&echo(8)).result, 8);
        assert_eq!(status(&coop, 0).broken, BrokenReason(0));
    }
}

#[test]
fn ring_5_a_tail_that_goes_backwards_or_a_bad_head_breaks() {
    let (coop, ram, _) = host();
    let mut guest = Guest::register(&coop, &ram, 0, ALL);
    assert_eq!(guest.call(&echo(1)).result, 1);
    guest.area.store_u32(at::SUBMISSION_TAIL, 0, Store::Release);
    guest.ring();
    assert_eq!(status(&coop, 0).broken, BrokenReason::SUBMISSION_TAIL);
    let mut guest = Guest::register(&coop, &ram, 1, ALL);
    guest.area.store_u32(at::COMPLETION_HEAD, 9, Store::Release);
    guest.publish(&echo(2));
    guest.ring();
    assert_eq!(status(&coop, 1).broken, BrokenReason::COMPLETION_HEAD);
    assert_eq!(coop.counts().events["broken"], 2);
}

#[test]
fn life_1_a_reset_leaves_every_area_and_forgets_what_was_negotiated() {
    let (coop, ram, _) = host();
    let mut guests = [0, 1].map(|vcpu| Guest::register(&coop, &ram, vcpu, ALL));
    for guest in &mut guests {
        guest.publish(&echo(1));
    }
    coop.reset();
    for (vcpu, guest) in (0..).zip(&mut guests) {
        let state = status(&coop, vcpu);
        assert_eq!((state.is_registered, state.last.0), (false, 0));
        assert_eq!(coop.read_register(vcpu, FEATURES_MSR), Some(0));
        // What was published is not taken any more, and the page is left alone.
        guest.area.store_u64(at::LEASE, 7, Store::Relaxed);
        guest.ring();
        assert_eq!(guest.take(), None);
        assert_eq!(guest.area.load_u64(at::LEASE, Load::Relaxed), 7);
    }
    let events = coop.counts().events;
    assert_eq!((events["registered"], events["unregistered"]), (2, 2));
    // The machine begins anew.
    let mut guest = Guest::register(&coop, &ram, 0, ALL);
    assert_eq!(guest.call(&echo(5)).result, 5);
}

#[test]
fn ring_9_a_guest_that_takes_no_completion_only_stops_itself() {
    let (coop, ram, _) = host();
    let mut guest = Guest::register(&coop, &ram, 0, ALL);
    for value in 0..32 {
        guest.publish(&echo(value));
    }
    guest.ring();
    for value in 32..64 {
        guest.publish(&echo(value));
    }
    for _ in 0..100 {
        guest.ring();
    }
    assert_eq!(coop.shared.totals.snapshot().operations["op_echo"], 32);
    assert_eq!(status(&coop, 0).broken, BrokenReason(0));
    for value in 0..32 {
        assert_eq!(guest.take().map(|done| done.tag), Some(value));
    }
    guest.ring();
    assert_eq!(guest.take().map(|done| done.tag), Some(32));
}

#[test]
fn op_2_nonsense_is_answered_and_counted() {
    let (coop, ram, _) = host();
    let mut guest = Guest::register(&coop, &ram, 0, Features::RING | Features::IPI);
    let mut nop = NopArgs {}.submission(5);
    nop._reserved = 1;
    let mut flags = NopArgs {}.submission(5);
    flags.flags = 0x8000;
    for (call, expected) in [
        (
            Submission::new(Opcode(0), 5, [0; 6]),
            Status::UNKNOWN_OPCODE,
        ),
        (
            Submission::new(Opcode(0x7fff), 5, [0; 6]),
            Status::UNKNOWN_OPCODE,
        ),
        (
            Submission::new(Opcode(0xf123), 5, [0; 6]),
            Status::NOT_NEGOTIATED,
        ),
        (
            Submission::new(Opcode::LOG, 5, [0; 6]),
            Status::NOT_NEGOTIATED,
        ),
        (
            Submission::new(Opcode::NOP, 5, [0, 0, 0, 0, 0, 1]),
            Status::RESERVED_BITS,
        ),
        (
            Submission::new(Opcode::IPI, 5, [1 << 32, 1, 0, 32, 0, 0]),
            Status::RESERVED_BITS,
        ),
        (nop, Status::RESERVED_BITS),
        (flags, Status::RESERVED_BITS),
    ] {
        let done = guest.call(&call);
        assert_eq!((done.tag, done.status()), (5, expected), "{call:?}");
    }
    let counts = coop.counts();
    assert_eq!(counts.refused["UNKNOWN_OPCODE"], 2);
    assert_eq!(counts.host["refused"], 8);
}

#[test]
fn reg_1_other_registers_are_not_there_and_other_vcpus_neither() {
    let (coop, _, _) = host();
    let mark = coopvirt_spec::mark::MARK_MSR;
    for msr in [mark, mark + 4, mark - 1, 0, u32::MAX] {
        assert!(!coop.has_register(msr) && coop.read_register(0, msr).is_none());
        coop.write_register(0, msr, u64::MAX, &FakeVcpu);
    }
    assert!(coop.has_register(FEATURES_MSR) && coop.has_register(STATUS_MSR));
    assert_eq!(coop.read_register(2, STATUS_MSR), None);
    coop.write_register(200, AREA_MSR, 1, &FakeVcpu);
    coop.ring_sync(200, &FakeVcpu);
    coop.ring_sync(0, &FakeVcpu);
}

#[test]
fn trust_2_a_guest_that_rewrites_everything_while_it_is_read_breaks_at_most_itself() {
    let (coop, ram, recorder) = host();
    let mut guest = Guest::register(&coop, &ram, 0, ALL);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let area = crate::coop::area::Area::new(&ram, area_gpa(0), 4096).unwrap();
        scope.spawn(|| {
            let area = area;
            let mut random = 88_172_645_463_325_252_u64;
            while !stop.load(Ordering::Relaxed) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let offset = usize::try_from(random % 384).unwrap() * 8 + 1024;
                area.store_u64(offset, random, Store::Relaxed);
            }
        });
        for value in 0..2000 {
            guest.publish(&echo(value));
            guest.ring();
            while guest.take().is_some() {}
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(status(&coop, 0).broken, BrokenReason(0));
    drop(recorder);
    let mut other = Guest::register(&coop, &ram, 1, ALL);
    assert_eq!(other.call(&echo(3)).result, 3);
}

#[test]
fn gauges_show_what_the_account_will_say_and_end_nothing() {
    let (coop, ram, _) = host();
    let mut guest = Guest::register(&coop, &ram, 0, ALL);
    guest.call(&echo(1));
    let elided = coopvirt_spec::counter::GuestCounter::IpiElided.offset();
    guest.area.store_u64(elided, 5, Store::Relaxed);
    let first = coop.gauges();
    assert_eq!(first.totals.guest["ipi_elided"], 5);
    assert_eq!(first.areas[0].guest["ipi_elided"], 5);
    assert_eq!(first.areas[0].host["taken_bell"], 1);
    assert!(first.areas[0].is_registered && !first.areas[1].is_registered);
    // Served as before, and told again.
    assert_eq!(guest.call(&echo(7)).result, 7);
    guest.area.store_u64(elided, 6, Store::Relaxed);
    let second = coop.gauges();
    assert_eq!(second.areas[0].host["taken_bell"], 2);
    assert_eq!(second.areas[0].guest["ipi_elided"], 6);
    // An area that is gone is in the totals alone, once.
    assert_eq!(write(&coop, 0, AREA_MSR, 0), SetupStatus::OK);
    let third = coop.gauges();
    assert_eq!(third.totals.guest["ipi_elided"], 6);
    assert!(third.areas[0].guest.is_empty());
    let report = coop.counts();
    assert_eq!(
        (report.guest, report.host),
        (third.totals.guest, third.totals.host)
    );
}

#[test]
fn trust_5_a_guest_that_registers_again_and_again_may_not_log_more() {
    let (coop, ram, recorder) = host();
    let started = std::time::Instant::now();
    let line = LogArgs {
        text_gpa: 0x20_0000,
        len_bytes: 1,
        level: 6,
    };
    for _ in 0..20 {
        // As a guest does that begins anew.
        ram.write_slice(&[0; 4096], GuestAddress(area_gpa(0)))
            .unwrap();
        let mut guest = Guest::register(&coop, &ram, 0, ALL);
        for tag in 0..20 {
            guest.call(&line.submission(tag));
        }
        assert_eq!(write(&coop, 0, AREA_MSR, 0), SetupStatus::OK);
    }
    // 64 at once, and one for each 20 ms.
    let allowed = 65 + started.elapsed().as_millis() / 20;
    let logged = recorder.done().len();
    assert!((64..=allowed).contains(&(logged as u128)), "{logged} lines");
}
