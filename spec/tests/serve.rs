//! Doorbells, operations and the lease, clause by clause, on the machine without hardware.

#[path = "support/machine.rs"]
mod machine;
mod support;

use coopvirt_spec::code::Status;
use coopvirt_spec::entry::{Completion, Submission};
use coopvirt_spec::lease;
use coopvirt_spec::mem::{Load, SharedMem, Store};
use coopvirt_spec::op::{self, IpiArgs, LogArgs, NopArgs, Opcode};
use coopvirt_spec::page::{at, AreaLayout};
use coopvirt_spec::range::RangeList;
use coopvirt_spec::ring::GuestRing;
use coopvirt_spec::version::Features;
use machine::{Machine, BUDGET, LEASE_TSC};

fn machine() -> (Machine, GuestRing) {
    let mut machine = Machine::new(Features(u64::MAX));
    machine.register(0, 4);
    (machine, GuestRing::new(AreaLayout::DEFAULT))
}

/// Makes one call with the synchronous doorbell; its completion.
fn call(machine: &mut Machine, guest: &mut GuestRing, call: &Submission) -> Option<Completion> {
    let mem = machine.area(0).expect("registered");
    guest.stage(&mem, call).expect("room");
    guest.publish(&mem);
    machine.sync_bell(0);
    let mem = machine.area(0).expect("registered");
    let done = guest.take(&mem).expect("an honest host");
    assert!(done.is_none_or(|done| done.tag == call.tag));
    done
}

fn status(machine: &mut Machine, guest: &mut GuestRing, submission: &Submission) -> Status {
    let done = call(machine, guest, submission);
    done.expect("a completion").status()
}

#[test]
fn bell_1_the_asynchronous_doorbell_is_for_all_areas() {
    let (mut machine, mut guest) = machine();
    machine.register(2, 6);
    let mut other = GuestRing::new(AreaLayout::DEFAULT);
    for (cpu, ring) in [(0, &mut guest), (2, &mut other)] {
        let mem = machine.area(cpu).expect("registered");
        ring.stage(&mem, &NopArgs {}.submission(9)).expect("room");
        ring.publish(&mem);
    }
    machine.poll();
    for (cpu, ring) in [(0, &mut guest), (2, &mut other)] {
        let mem = machine.area(cpu).expect("registered");
        assert!(ring.take(&mem).expect("an honest host").is_some());
    }
}

#[test]
fn bell_3_a_synchronous_doorbell_makes_progress_within_a_budget() {
    let (mut machine, mut guest) = machine();
    let mem = machine.area(0).expect("registered");
    for tag in 0..32 {
        guest
            .stage(&mem, &NopArgs {}.submission(tag))
            .expect("room");
    }
    guest.publish(&mem);
    machine.sync_bell(0);
    let mem = machine.area(0).expect("registered");
    assert_eq!(guest.pending(&mem), Ok(32 - BUDGET));
    machine.sync_bell(0);
    assert_eq!(guest.pending(&machine.area(0).expect("registered")), Ok(0));
}

#[test]
fn bell_4_doorbells_without_area_or_work_cost_nothing_lasting() {
    let (mut machine, _) = machine();
    for _ in 0..1000 {
        machine.sync_bell(0);
        machine.sync_bell(1);
        machine.poll();
    }
    assert_eq!(machine.submissions_taken, 0);
}

#[test]
fn abi_2_reserved_bits_are_refused_one_by_one() {
    let (mut machine, mut guest) = machine();
    let good = NopArgs {}.submission(5);
    for bit in 1..16 {
        let mut bad = good;
        bad.flags = 1 << bit;
        assert_eq!(
            status(&mut machine, &mut guest, &bad),
            Status::RESERVED_BITS
        );
    }
    for bit in 0..32 {
        let mut bad = good;
        bad._reserved = 1 << bit;
        assert_eq!(
            status(&mut machine, &mut guest, &bad),
            Status::RESERVED_BITS
        );
    }
    for word in 0..6 {
        let mut bad = good;
        bad.args[word] = 1 << (word * 7);
        assert_eq!(
            status(&mut machine, &mut guest, &bad),
            Status::RESERVED_BITS
        );
    }
    let mut wide = IpiArgs::one(0, 32).submission(5);
    wide.args[3] |= 0x100;
    assert_eq!(
        status(&mut machine, &mut guest, &wide),
        Status::RESERVED_BITS
    );
    assert!(machine.vcpus[0].interrupts.is_empty());
}

#[test]
fn op_6_unknown_opcodes_are_answered_and_experiments_need_their_feature() {
    let (mut machine, mut guest) = machine();
    for opcode in [0, 3, 0x0100, 0x0105, 0x7fff, 0xefff, 0xf000, 0xffff] {
        let unknown = Submission::new(Opcode(opcode), 1, [u64::MAX; 6]);
        assert_eq!(
            status(&mut machine, &mut guest, &unknown),
            Status::UNKNOWN_OPCODE
        );
    }
    let call = Submission::new(Opcode(0xf000), 1, [0; 6]);
    let refused = op::Request::decode(&call, Features::RING);
    assert_eq!(refused, Err(Status::NOT_NEGOTIATED));
}

// [OP-3], [OP-5]: completions carry the tag, and nobody is interrupted for them.
#[test]
fn op_4_a_quiet_call_is_answered_only_if_it_fails() {
    let (mut machine, mut guest) = machine();
    let quiet = IpiArgs::one(1, 0xfd).submission(7).quiet();
    assert_eq!(call(&mut machine, &mut guest, &quiet), None);
    assert_eq!(machine.vcpus[1].interrupts, [0xfd]);
    let refused = IpiArgs::one(1, 3).submission(8).quiet();
    assert_eq!(
        status(&mut machine, &mut guest, &refused),
        Status::BAD_VECTOR
    );
    assert!(machine.vcpus[0].interrupts.is_empty());
}

#[test]
fn ipi_3_with_an_absent_target_nobody_gets_an_interrupt() {
    let (mut machine, mut guest) = machine();
    let some_absent = IpiArgs {
        mask_low: 0b1011,
        ..IpiArgs::one(0, 32)
    };
    let answer = status(&mut machine, &mut guest, &some_absent.submission(1));
    assert_eq!(answer, Status::BAD_TARGET);
    for first_apic_id in [3, 4096, u32::MAX] {
        let absent = IpiArgs::one(first_apic_id, 32).submission(1);
        assert_eq!(
            status(&mut machine, &mut guest, &absent),
            Status::BAD_TARGET
        );
    }
    assert!(machine.vcpus.iter().all(|vcpu| vcpu.interrupts.is_empty()));
    let present = IpiArgs {
        mask_low: 0b0111,
        ..IpiArgs::one(0, 255)
    };
    let done = call(&mut machine, &mut guest, &present.submission(1)).expect("a completion");
    assert_eq!((done.status(), done.result), (Status::OK, 3));
}

#[test]
fn mmu_2_a_list_outside_memory_or_inside_an_area_is_refused() {
    let (mut machine, mut guest) = machine();
    let list = RangeList {
        list_gpa: 0x1000,
        nr_items: 2,
        first_item: 0,
        first_offset: 0,
    };
    machine
        .memory()
        .write_words(0x1000, &[0x2000, 0x1000, 0x8000, 0x2000]);
    let done = call(
        &mut machine,
        &mut guest,
        &op::PopulateArgs::from(list).submission(1),
    );
    let done = done.expect("a completion");
    assert_eq!(
        (done.status(), done.items_done, done.result),
        (Status::PARTIAL, 1, 4096)
    );
    for list_gpa in [
        0x4000,
        0x3ff8,
        0x1_0000 - 16,
        0x1_0000,
        u64::MAX - 7,
        0x1001,
    ] {
        let bad = RangeList { list_gpa, ..list };
        let answer = status(
            &mut machine,
            &mut guest,
            &op::ReleaseArgs::from(bad).submission(1),
        );
        assert_eq!(answer, Status::BAD_ADDRESS, "{list_gpa:#x}");
    }
    // A range over the area itself: its memory stays.
    machine.memory().write_words(0x1000, &[0x3000, 0x2000]);
    let answer = status(
        &mut machine,
        &mut guest,
        &op::ReleaseArgs::from(list).submission(1),
    );
    assert_eq!(answer, Status::BAD_RANGE);
    assert_eq!(machine.worked, [(2, 1), (8, 1)]);
}

#[test]
fn trust_5_log_text_is_bounded() {
    let (mut machine, mut guest) = machine();
    let log = |text_gpa, len_bytes, level| LogArgs {
        text_gpa,
        len_bytes,
        level,
    };
    for (args, expected) in [
        (log(0x100, 1024, 7), Status::OK),
        (log(0x100, 1025, 7), Status::BAD_ARGUMENT),
        (log(0x100, 0, 7), Status::BAD_ARGUMENT),
        (log(0x100, 4, 8), Status::BAD_ARGUMENT),
        (log(0xffff, 2, 1), Status::BAD_ADDRESS),
        (log(u64::MAX, 2, 1), Status::BAD_ADDRESS),
    ] {
        assert_eq!(
            status(&mut machine, &mut guest, &args.submission(1)),
            expected
        );
    }
    assert_eq!(machine.log_bytes, 1024);
}

#[test]
fn lease_1_an_ended_lease_is_none() {
    let (machine, _) = machine();
    let mem = machine.area(0).expect("registered");
    assert!(!lease::listens(&mem, || 0));
    lease::renew(&mem, 90, 10);
    assert!(lease::listens(&mem, || 99) && !lease::listens(&mem, || 100));
    assert!(!lease::publish_elided(
        &mem,
        || 100,
        || panic!("nothing is published")
    ));
    lease::revoke(&mem).take(|| ());
    assert!(!lease::listens(&mem, || 0));
}

#[test]
fn lease_2_while_it_is_held_calls_are_served_without_a_doorbell() {
    let (mut machine, mut guest) = machine();
    machine.poll();
    for _ in 0..5 {
        let mem = machine.area(0).expect("registered");
        let ipi = IpiArgs::one(1, 0xfd).submission(0).quiet();
        let is_elided = lease::publish_elided(
            &mem,
            || machine.now,
            || {
                guest.stage(&mem, &ipi).expect("room");
                guest.publish(&mem);
            },
        );
        assert!(is_elided);
        machine.advance(LEASE_TSC / 2);
        machine.poll();
    }
    assert_eq!(machine.vcpus[1].interrupts, [0xfd; 5]);
}

#[test]
fn lease_7_rewriting_the_tsc_ends_the_lease() {
    let (mut machine, _) = machine();
    machine.advance(1_000_000);
    machine.poll();
    let listens = |machine: &Machine| {
        let mem = machine.area(0).expect("registered");
        lease::listens(&mem, || machine.now)
    };
    assert!(listens(&machine));
    machine.rewrite_tsc(5);
    assert!(!listens(&machine));
}

#[test]
fn trust_3_what_the_guest_writes_into_the_hosts_lines_changes_nothing() {
    let (mut machine, mut guest) = machine();
    machine.poll();
    for offset in (64..128).chain(192..256).chain(448..576).step_by(8) {
        let mem = machine.area(0).expect("registered");
        mem.store_u64(offset, u64::MAX, Store::Relaxed);
    }
    // The guest's own view is spoilt, the host's is not: it takes the call that lies at its head.
    let mem = machine.area(0).expect("registered");
    mem.store_u32(at::SUBMISSION_HEAD, 0, Store::Relaxed);
    mem.store_u32(at::COMPLETION_TAIL, 0, Store::Relaxed);
    guest.stage(&mem, &NopArgs {}.submission(3)).expect("room");
    guest.publish(&mem);
    mem.store_u32(at::SUBMISSION_HEAD, 0x55, Store::Relaxed);
    mem.store_u32(at::COMPLETION_TAIL, 0x66, Store::Relaxed);
    machine.poll();
    let mem = machine.area(0).expect("registered");
    assert_eq!(machine.submissions_taken, 1);
    assert_eq!(mem.load_u32(at::SUBMISSION_HEAD, Load::Acquire), 1);
    assert_eq!(mem.load_u32(at::COMPLETION_TAIL, Load::Acquire), 1);
}
