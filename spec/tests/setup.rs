//! Set-up and lifecycle, clause by clause, on the machine without hardware.

#[path = "support/machine.rs"]
mod machine;
mod support;

use std::sync::atomic::Ordering;

use coopvirt_spec::code::{SetupStatus, Status};
use coopvirt_spec::entry::{Completion, COMPLETION_WORDS};
use coopvirt_spec::mem::{AtomicWords, Load, SharedMem, Store};
use coopvirt_spec::op::{EchoArgs, NopArgs};
use coopvirt_spec::page::{self, at, AreaLayout, Header, Idle};
use coopvirt_spec::ring::{GuestRing, HostRing, Taken};
use coopvirt_spec::version::Features;
use machine::Machine;

const LAYOUT: AreaLayout = AreaLayout::DEFAULT;

fn offered() -> Features {
    Features::RING | Features::SIDECORE | Features::TIMER | Features::IPI
}

/// The words of one page of guest memory.
fn page_words(machine: &Machine, page: usize) -> Vec<u64> {
    let words = machine.ram[page * 512..(page + 1) * 512].iter();
    words.map(|word| word.load(Ordering::Relaxed)).collect()
}

#[test]
fn page_1_an_area_is_as_many_pages_as_its_rings_need() {
    for (entries, pages) in [(16, 1), (32, 1), (64, 2), (128, 4), (512, 13), (1024, 25)] {
        let layout = AreaLayout::new(entries).expect("a legal size");
        assert_eq!(layout.area_bytes(), pages * 4096);
    }
    for entries in [0, 1, 8, 15, 33, 2048, u32::MAX] {
        assert_eq!(AreaLayout::new(entries), None);
    }
}

#[test]
fn page_4_the_completion_ring_follows_the_submission_ring() {
    for entries in [16, 32, 1024] {
        let layout = AreaLayout::new(entries).expect("a legal size");
        assert_eq!(layout.submissions().entries, 1024);
        let end = 1024 + entries as usize * 64;
        assert_eq!(layout.completions().entries, end);
        assert!(end + entries as usize * 32 <= layout.area_bytes());
    }
}

#[test]
fn page_5_an_unknown_idle_word_means_that_the_vcpu_runs() {
    let memory = support::area(LAYOUT);
    let mem = &AtomicWords(&memory);
    for idle in [Idle::Polls, Idle::Halts, Idle::Runs] {
        idle.write(mem);
        assert_eq!(Idle::read(mem), idle);
    }
    mem.store_u32(at::IDLE, 3, Store::Relaxed);
    assert_eq!(Idle::read(mem), Idle::Runs);
}

#[test]
fn neg_1_features_and_area_are_in_use_when_the_write_returns() {
    let mut machine = Machine::new(offered());
    machine.register(1, 4);
    let header = page::read_header(&machine.area(1).expect("registered")).expect("a header");
    assert_eq!(Features(header.features), offered());
    assert_eq!((header.apic_id, header.ring_entries), (1, 32));
    assert!(machine.status(1).is_registered);
}

#[test]
fn neg_4_each_vcpu_has_a_set_of_its_own() {
    let mut machine = Machine::new(offered());
    assert_eq!(
        machine.write_msr(0, 1, Features::RING.0),
        Some(SetupStatus::OK)
    );
    machine.register(1, 4);
    assert_eq!(machine.vcpus[0].setup.negotiated(), Features::RING);
    assert_eq!(machine.write_msr(0, 1, 0), Some(SetupStatus::OK));
    assert_eq!(
        machine.write_msr(0, 2, 0x5001),
        Some(SetupStatus::NOT_NEGOTIATED)
    );
    assert!(machine.status(1).is_registered);
}

#[test]
fn reg_5_the_host_writes_its_own_lines_and_nothing_else() {
    let mut machine = Machine::new(offered());
    for word in machine.ram.iter() {
        word.store(u64::MAX, Ordering::Relaxed);
    }
    machine.register(0, 4);
    let words = page_words(&machine, 4);
    let host_lines = [64..128, 192..256, 448..576];
    for (index, word) in words.iter().enumerate().skip(8) {
        let is_hosts = host_lines.iter().any(|line| line.contains(&(index * 8)));
        assert_eq!(*word, if is_hosts { 0 } else { u64::MAX }, "word {index}");
    }
    assert!(page_words(&machine, 3).iter().all(|word| *word == u64::MAX));
    assert!(page_words(&machine, 5).iter().all(|word| *word == u64::MAX));
}

// [LIFE-4], [LIFE-5]: the same for a vCPU that goes offline and for a kernel that starts another.
#[test]
fn life_2_after_unregistering_the_host_touches_nothing() {
    let mut machine = Machine::new(offered());
    machine.register(0, 4);
    let mem = machine.area(0).expect("registered");
    let mut guest = GuestRing::new(LAYOUT);
    guest.stage(&mem, &NopArgs {}.submission(1)).expect("room");
    guest.publish(&mem);
    mem.store_u64(at::DEADLINE, 500, Store::Release);
    machine.poll();
    machine.sleep();
    assert_eq!(machine.write_msr(0, 2, 0), Some(SetupStatus::OK));
    // The guest uses the page for something else, which looks like calls and deadlines.
    let old: Vec<u64> = (0..512).map(|word| word * 3).collect();
    machine.memory().write_words(4 * 4096, &old);
    for _ in 0..3 {
        machine.poll();
        machine.sync_bell(0);
        machine.sleep();
        machine.advance(1000);
    }
    assert_eq!(page_words(&machine, 4), old);
    assert!(machine.vcpus[0].interrupts.is_empty());
}

#[test]
fn life_5_a_new_kernel_writes_zero_first_and_begins_anew() {
    let mut machine = Machine::new(offered());
    machine.register(0, 4);
    assert_eq!(
        machine.write_msr(0, 2, 0x6001),
        Some(SetupStatus::ALREADY_REGISTERED)
    );
    assert_eq!(machine.write_msr(0, 2, 0), Some(SetupStatus::OK));
    machine.register(0, 6);
    let mem = machine.area(0).expect("registered");
    let mut guest = GuestRing::new(LAYOUT);
    guest
        .stage(&mem, &EchoArgs { value: 3 }.submission(1))
        .expect("room");
    guest.publish(&mem);
    machine.sync_bell(0);
    let done = guest.take(&machine.area(0).expect("registered"));
    assert_eq!(
        done.expect("an honest host").map(|done| done.result),
        Some(3)
    );
}

#[test]
fn life_8_a_restored_ring_goes_on_where_it_was() {
    let memory = support::area(LAYOUT);
    let mem = &AtomicWords(&memory);
    let (mut guest, mut host) = (GuestRing::new(LAYOUT), HostRing::new(LAYOUT));
    let mut expected = 0;
    for tag in 0..150_u64 {
        guest.stage(mem, &NopArgs {}.submission(tag)).expect("room");
        guest.publish(mem);
        if tag % 2 == 1 {
            for _ in 0..2 {
                let Taken::Submission(call) = host.take(mem) else {
                    panic!("a call is missing");
                };
                assert_eq!(host.save(), None, "saved with a call in flight");
                host.finish(mem, &call, Completion::new(call.tag, Status::OK, 0));
            }
        }
        // With calls open, answers untaken, and at every position of the rings.
        host = HostRing::restore(LAYOUT, host.save().expect("nothing in flight"));
        let takes = tag % 3 == 2;
        while let Some(done) = takes
            .then(|| guest.take(mem))
            .transpose()
            .expect("honest")
            .flatten()
        {
            assert_eq!(done.tag, expected);
            expected += 1;
        }
    }
    assert_eq!(expected, 150);
}

#[test]
fn life_8_a_broken_area_stays_broken_across_a_restore() {
    let memory = support::area(LAYOUT);
    let mem = &AtomicWords(&memory);
    let mut host = HostRing::new(LAYOUT);
    mem.store_u32(at::SUBMISSION_TAIL, 99, Store::Release);
    let broken = host.take(mem);
    mem.store_u32(at::SUBMISSION_TAIL, 0, Store::Release);
    let mut restored = HostRing::restore(LAYOUT, host.save().expect("nothing in flight"));
    assert_eq!(restored.take(mem), broken);
}

#[test]
fn trust_7_a_guest_abandons_an_area_whose_host_lies() {
    let memory = support::area(LAYOUT);
    let mem = &AtomicWords(&memory);
    assert_eq!(page::read_header(mem), None);
    page::write_header(mem, LAYOUT, Features::RING, 0);
    mem.store_u32(24, 64, Store::Relaxed);
    assert_eq!(page::read_header(mem), None);
    let header = Header::for_area(LAYOUT, Features::RING, 0);
    mem.write_words(0, &header.to_words());
    assert_eq!(page::read_header(mem), Some(header));

    let mut guest = GuestRing::new(LAYOUT);
    mem.store_u32(at::COMPLETION_TAIL, 33, Store::Release);
    assert!(guest.take(mem).is_err());
    mem.store_u32(at::COMPLETION_TAIL, 0, Store::Release);
    assert!(guest.take(mem).is_err() && guest.is_broken(mem));
    assert_eq!(COMPLETION_WORDS * 8, 32);
    assert_eq!(mem.load_u32(at::BROKEN, Load::Relaxed), 0);
}
