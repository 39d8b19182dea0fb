//! What a guest must not do: each has a defined answer, and machine and guest go on.

use coopvirt_spec::code::{BrokenReason, Status};
use coopvirt_spec::entry::Submission;
use coopvirt_spec::mem::{Load, SharedMem, Store};
use coopvirt_spec::op::{EchoArgs, IpiArgs, LogArgs, NopArgs, Opcode, PopulateArgs, ReleaseArgs};
use coopvirt_spec::page::at;
use coopvirt_spec::range::RangeList;
use coopvirt_spec::setup::AreaRequest;
use coopvirt_spec::version::Features;
use guest_shim::batch::BatchError;
use guest_shim::{Cpu, Session};

use crate::boot_info;
use crate::coop::{self, SetUp, Vcpu};
use crate::cpus;
use crate::memory::{self, Pages, PAGE_BYTES};
use crate::test::{guest_test, Ran};
use crate::x86::{port, tsc};

const MMU: Features = Features(Features::RING.0 | Features::POPULATE.0 | Features::RELEASE.0);

guest_test!(
    "coop_hostile_submission_tails",
    "[RING-5] [RING-6] [LIFE-6] [TRUST-4]",
    submission_tails
);
fn submission_tails() -> Ran {
    let offer = coop::offer()?;
    let entries = offer.layout.ring_entries();
    // Three calls are taken before: ahead by more than the ring, behind what was accepted, and the
    // ends of the number range.
    for tail in [3 + entries + 1, 2, 0, 3_u32.wrapping_sub(1 << 31), u32::MAX] {
        let mut session = coop::open(Features::RING);
        for value in 0..3 {
            coop::answer(&mut session, EchoArgs { value }.submission(0));
        }
        let mem = session.cpu().area();
        mem.store_u32(at::SUBMISSION_TAIL, tail, Store::Release);
        port::write_u32(offer.sync_port, 0);
        assert_broken(session, BrokenReason::SUBMISSION_TAIL);
    }
    Ok(())
}

guest_test!(
    "coop_hostile_completion_heads",
    "[RING-5] [LIFE-6] [TRUST-4]",
    completion_heads
);
fn completion_heads() -> Ran {
    let offer = coop::offer()?;
    // The host looks at the head when the ring seems full to it: after each 32 completions. Ahead
    // of its tail, behind what it has accepted (32), and the end of the number range.
    for head in [65, 31, 0, u32::MAX] {
        let mut session = coop::open(Features::RING);
        for value in 0..64 {
            coop::answer(&mut session, EchoArgs { value }.submission(0));
        }
        let mem = session.cpu().area();
        mem.store_u32(at::COMPLETION_HEAD, head, Store::Release);
        let tail = mem.load_u32(at::SUBMISSION_TAIL, Load::Relaxed);
        mem.store_u32(at::SUBMISSION_TAIL, tail.wrapping_add(1), Store::Release);
        port::write_u32(offer.sync_port, 0);
        assert_broken(session, BrokenReason::COMPLETION_HEAD);
    }
    Ok(())
}

guest_test!(
    "coop_hostile_breaks_while_it_sleeps",
    "[LIFE-6] [LIFE-7]",
    wakes
);
/// Who sleeps until a deadline of its area is woken when that breaks.
fn wakes() -> Ran {
    let wanted = Features::RING | Features::TIMER;
    coop::require_offer(wanted)?;
    let offer = coop::offer()?;
    for count in 1..=3 {
        let session = coop::open(wanted);
        let mem = session.cpu().area();
        mem.store_u32(at::SUBMISSION_TAIL, 1 << 20, Store::Release);
        for _ in 0..3 {
            port::write_u32(offer.sync_port, 0);
        }
        tsc::spin_until("the timer's interrupt", || {
            cpus::interrupts_of(0, coop::TIMER) == count
        });
        // Once, and no more for any deadline.
        mem.store_u64(at::DEADLINE, tsc::now(), Store::Release);
        port::write_u32(offer.async_port, 0);
        tsc::wait_us(2_000);
        assert_eq!(cpus::interrupts_of(0, coop::TIMER), count);
        SetUp(offer).write_area(0);
    }
    Ok(())
}

/// Broken is for good, until the area is registered anew; then all is well.
#[track_caller]
fn assert_broken(mut session: Session<Vcpu>, reason: BrokenReason) {
    let set_up = SetUp(coop::offer().expect("asked before"));
    let mem = session.cpu().area();
    assert_eq!(mem.load_u32(at::BROKEN, Load::Acquire), reason.0);
    assert_eq!(mem.load_u64(at::LEASE, Load::Relaxed), 0);
    assert_eq!(mem.load_u64(at::ARMED, Load::Relaxed), 0);
    assert_eq!(set_up.state().broken, reason);
    assert!(set_up.state().is_registered);
    // An index that is right again does not help, and nothing more is taken.
    let head = mem.load_u32(at::SUBMISSION_HEAD, Load::Acquire);
    mem.store_u32(at::SUBMISSION_TAIL, head.wrapping_add(1), Store::Release);
    for _ in 0..3 {
        port::write_u32(set_up.0.sync_port, 0);
        port::write_u32(set_up.0.async_port, 0);
    }
    tsc::wait_us(1_000);
    assert_eq!(mem.load_u32(at::SUBMISSION_HEAD, Load::Acquire), head);
    assert_eq!(mem.load_u32(at::BROKEN, Load::Relaxed), reason.0);
    // The shim notices, and leaves the area.
    let nop = NopArgs {}.submission(0);
    assert_eq!(session.stage(nop), Err(BatchError::NoArea));
    assert!(!set_up.state().is_registered);
    assert_eq!(session.open(), Ok(Features::RING));
    assert_eq!(set_up.state().broken, BrokenReason(0));
    assert_eq!(coop::answer(&mut session, nop).status(), Status::OK);
    session.close();
}

guest_test!(
    "coop_hostile_entries",
    "[OP-2] [OP-4] [OP-6] [ABI-3] [NEG-2] [LEVEL-1]",
    entries
);
fn entries() -> Ran {
    coop::offer()?;
    let mut session = coop::open(Features::RING);
    let mut status = |call| coop::answer(&mut session, call).status();
    for opcode in [0, 3, 0x00ff, 0x0100, 0x0105, 0x0202, 0x0dea, 0xefff] {
        let call = Submission::new(Opcode(opcode), 0, [0; 6]);
        assert_eq!(status(call), Status::UNKNOWN_OPCODE, "{opcode:#x}");
    }
    // Unknown comes first, whatever else is wrong.
    let mut call = Submission::new(Opcode(0), 0, [u64::MAX; 6]);
    call.flags = 0xfffe;
    assert_eq!(status(call), Status::UNKNOWN_OPCODE);
    let not_negotiated = [
        PopulateArgs::from(list(0, 1)).submission(0),
        ReleaseArgs::from(list(0, 1)).submission(0),
        IpiArgs::one(0, 0x40).submission(0),
        Submission::new(Opcode(0x0103), 0, [0; 6]),
        Submission::new(Opcode(0x0301), 0, [u64::MAX; 6]),
    ];
    for call in not_negotiated {
        assert_eq!(status(call), Status::NOT_NEGOTIATED, "{call:?}");
    }
    let nop = NopArgs {}.submission(0);
    for bit in 1..16 {
        let flags = 1 << bit;
        assert_eq!(status(Submission { flags, ..nop }), Status::RESERVED_BITS);
    }
    for word in 0..6 {
        let mut call = nop;
        call.args[word] = 1 << 63;
        assert_eq!(status(call), Status::RESERVED_BITS, "word {word}");
    }
    let mut words = nop.to_words();
    words[0] |= 1 << 32;
    let call = Submission::from_words(words);
    assert_eq!(status(call), Status::RESERVED_BITS);
    assert_eq!(status(nop), Status::OK);
    session.close();
    Ok(())
}

fn list(list_gpa: u64, nr_items: u32) -> RangeList {
    RangeList {
        list_gpa,
        nr_items,
        first_item: 0,
        first_offset: 0,
    }
}

/// Writes a list of one range at the beginning of these pages.
fn write_range(pages: &Pages, gpa: u64, len_bytes: u64) -> RangeList {
    use core::sync::atomic::Ordering::Relaxed;
    pages.words()[0].store(gpa, Relaxed);
    pages.words()[1].store(len_bytes, Relaxed);
    list(pages.start(), 1)
}

guest_test!(
    "coop_hostile_lists",
    "[MMU-1] [MMU-2] [MMU-3] [MMU-4] [TRUST-1] [TRUST-4]",
    lists
);
fn lists() -> Ran {
    coop::require_offer(MMU)?;
    let mut session = coop::open(MMU);
    let area = session.cpu().area_gpa();
    let pages = memory::pages(2);
    let target = memory::pages(2);
    let end_of_ram = end_of_ram();
    let calls: [fn(RangeList) -> Submission; 2] = [
        |list| PopulateArgs::from(list).submission(0),
        |list| ReleaseArgs::from(list).submission(0),
    ];
    for call in calls {
        let mut check = |list, expected, what: &str| {
            let done = coop::answer(&mut session, call(list));
            assert_eq!(done.status(), expected, "{what}: {list:x?}");
            assert_eq!(done.items_done, 0, "{what}");
        };
        let good = write_range(&pages, target.start(), PAGE_BYTES);
        for nr_items in [0, 513, u32::MAX] {
            let list = list(good.list_gpa, nr_items);
            check(list, Status::BAD_LIST, "number of items");
        }
        for first_item in [1, u32::MAX] {
            check(RangeList { first_item, ..good }, Status::BAD_LIST, "start");
        }
        for first_offset in [PAGE_BYTES, 1 << 40, 8, u64::MAX] {
            let list = RangeList {
                first_offset,
                ..good
            };
            check(list, Status::BAD_RANGE, "offset");
        }
        for (list_gpa, nr_items) in [
            (good.list_gpa + 4, 1),
            (end_of_ram - 8, 1),
            (end_of_ram - PAGE_BYTES, 512),
            (end_of_ram, 1),
            (0xfee0_0000, 1),
            (u64::MAX - 7, 1),
            (u64::MAX - 7, 512),
            (area, 1),
            (area + 4096 - 16, 1),
            (area - 8, 1),
            (area + 4096 - 8, 1),
        ] {
            check(list(list_gpa, nr_items), Status::BAD_ADDRESS, "address");
        }
        for (gpa, len_bytes) in [
            (target.start(), 0),
            (target.start() + 8, PAGE_BYTES),
            (target.start(), 8),
            (end_of_ram, PAGE_BYTES),
            (end_of_ram - PAGE_BYTES, 2 * PAGE_BYTES),
            (0xfee0_0000, PAGE_BYTES),
            (u64::MAX - 4095, PAGE_BYTES),
            (PAGE_BYTES, !0xfff),
            (area, PAGE_BYTES),
            (area - PAGE_BYTES, 2 * PAGE_BYTES),
        ] {
            let list = write_range(&pages, gpa, len_bytes);
            check(list, Status::BAD_RANGE, "range");
        }
        // After all this a good one still works.
        let list = write_range(&pages, target.start(), PAGE_BYTES);
        let done = coop::answer(&mut session, call(list));
        assert_eq!((done.status(), done.items_done), (Status::OK, 1));
    }
    session.close();
    Ok(())
}

/// Where RAM ends for the host: whole MiB, of which the map may leave out the last bytes.
fn end_of_ram() -> u64 {
    let last = boot_info::usable().map(|range| range.end).max();
    last.expect("there is RAM").next_multiple_of(1 << 20)
}

guest_test!(
    "coop_hostile_targets_and_text",
    "[IPI-1] [IPI-2] [IPI-3] [TRUST-5]",
    targets_and_text
);
fn targets_and_text() -> Ran {
    let wanted = Features::RING | Features::IPI | Features::LOG;
    coop::require_offer(wanted)?;
    let mut session = coop::open(wanted);
    const VECTOR: u8 = 0x55;
    let nr_cpus = u32::try_from(cpus::count()).expect("few CPUs");
    for vector in 0..16 {
        let done = coop::answer(&mut session, IpiArgs::one(0, vector).submission(0));
        assert_eq!(done.status(), Status::BAD_VECTOR);
    }
    for ipi in [
        IpiArgs::one(nr_cpus, VECTOR),
        IpiArgs::one(u32::MAX, VECTOR),
        IpiArgs {
            // One that exists and one that does not: nobody gets it.
            mask_low: 1 | 1 << nr_cpus,
            ..IpiArgs::one(0, VECTOR)
        },
        IpiArgs {
            mask_high: 1 << 63,
            ..IpiArgs::one(0, VECTOR)
        },
        IpiArgs {
            mask_low: 2,
            ..IpiArgs::one(u32::MAX, VECTOR)
        },
    ] {
        let done = coop::answer(&mut session, ipi.submission(0));
        assert_eq!(done.status(), Status::BAD_TARGET, "{ipi:?}");
    }
    let none = IpiArgs {
        mask_low: 0,
        ..IpiArgs::one(0, VECTOR)
    };
    let done = coop::answer(&mut session, none.submission(0));
    assert_eq!((done.status(), done.result), (Status::OK, 0));
    tsc::wait_us(1_000);
    for cpu in 0..cpus::count() {
        assert_eq!(cpus::interrupts_of(cpu, VECTOR), 0);
    }
    let done = coop::answer(&mut session, IpiArgs::one(0, VECTOR).submission(0));
    assert_eq!((done.status(), done.result), (Status::OK, 1));
    tsc::spin_until("an interrupt", || cpus::interrupts_of(0, VECTOR) == 1);

    let text_gpa = memory::pages(1).start();
    let log = |text_gpa, len_bytes, level| {
        let args = LogArgs {
            text_gpa,
            len_bytes,
            level,
        };
        args.submission(0)
    };
    for (call, expected) in [
        (log(text_gpa, 0, 6), Status::BAD_ARGUMENT),
        (log(text_gpa, 1025, 6), Status::BAD_ARGUMENT),
        (log(text_gpa, u32::MAX, 6), Status::BAD_ARGUMENT),
        (log(text_gpa, 4, 8), Status::BAD_ARGUMENT),
        (log(end_of_ram() - 2, 4, 6), Status::BAD_ADDRESS),
        (log(u64::MAX, 4, 6), Status::BAD_ADDRESS),
        (log(0xfee0_0000, 4, 6), Status::BAD_ADDRESS),
        (log(session.cpu().area_gpa(), 4, 6), Status::BAD_ADDRESS),
    ] {
        let done = coop::answer(&mut session, call);
        assert_eq!(done.status(), expected, "{call:x?}");
    }
    session.close();
    Ok(())
}

guest_test!("coop_hostile_doorbells", "[BELL-4] [BELL-5]", doorbells);
fn doorbells() -> Ran {
    let offer = coop::offer()?;
    let set_up = SetUp(offer);
    set_up.write_area(0);
    // Without an area, in masses, of other widths and values.
    for _ in 0..200 {
        port::write_u32(offer.sync_port, 0);
        port::write_u32(offer.async_port, 0);
    }
    let mut session = coop::open(Features::RING);
    session
        .stage(EchoArgs { value: 5 }.submission(0))
        .expect("room");
    let mem = session.cpu().area();
    mem.store_u32(at::SUBMISSION_TAIL, 1, Store::Release);
    for ports in [offer.sync_port, offer.async_port] {
        port::write_u8(ports, 0);
        port::write_u16(ports, 0);
        port::write_u32(ports, 1);
        assert_eq!(port::read_u32(ports), u32::MAX);
        assert_eq!(port::read_u16(ports), u16::MAX);
        assert_eq!(port::read_u8(ports), u8::MAX);
    }
    tsc::wait_us(1_000);
    assert_eq!(mem.load_u32(at::SUBMISSION_HEAD, Load::Acquire), 0);
    session.flush(guest_shim::batch::Flush::Now);
    assert_eq!(session.take().map(|done| done.result), Some(5));
    session.close();
    Ok(())
}

guest_test!(
    "coop_hostile_host_lines",
    "[TRUST-2] [TRUST-3] [PAGE-2]",
    host_lines
);
fn host_lines() -> Ran {
    let offer = coop::offer()?;
    let mut session = coop::open(Features::RING);
    let gpa = session.cpu().area_gpa();
    for value in 0..40 {
        session
            .stage(EchoArgs { value }.submission(0))
            .expect("room");
        let mem = session.cpu().area();
        for offset in (0..64).chain(at::HOST_COUNTERS..at::HOST_COUNTERS + 128) {
            if offset % 8 == 0 {
                mem.store_u64(offset, u64::MAX, Store::Relaxed);
            }
        }
        session.flush(guest_shim::batch::Flush::Now);
        assert_eq!(session.take().map(|done| done.result), Some(value));
        assert_eq!(session.take(), None);
    }
    session.close();
    let request = AreaRequest::Register { gpa };
    assert_eq!(request.encode(), Some(gpa | 1));
    assert!(!SetUp(offer).state().is_registered);
    Ok(())
}
