//! The bytes of version 1.0: what was written once is read for ever (`[VER-2]`).
//!
//! The files under `golden/` are released bytes and never change; a new minor version adds files.
//! Set `COOPVIRT_BLESS=1` to write a missing one.

mod support;

use coopvirt_spec::code::Status;
use coopvirt_spec::discover::Offer;
use coopvirt_spec::entry::{Completion, Submission};
use coopvirt_spec::op::{self, Opcode, Request};
use coopvirt_spec::page::{self, AreaLayout, Header};
use coopvirt_spec::ring::{GuestRing, HostRing, Taken};
use coopvirt_spec::version::Features;
use coopvirt_spec::{lease, mem::AtomicWords, timer};
use support::{area, bytes_of, golden, words_of};

const EVERYTHING: Features = Features(u64::MAX);

/// One submission of each operation, every argument with a value of its own.
fn submissions() -> Vec<Submission> {
    let list = coopvirt_spec::range::RangeList {
        list_gpa: 0x1122_3344_5566_7788,
        nr_items: 0x99aa_bbcc,
        first_item: 0x0102_0304,
        first_offset: 0x0506_0708_090a_0b0c,
    };
    let ipi = op::IpiArgs {
        first_apic_id: 0x0304_0506,
        mask_low: 0x8000_0000_0000_0001,
        mask_high: 0x4000_0000_0000_0002,
        vector: 0xfd,
    };
    let log = op::LogArgs {
        text_gpa: 0x7766_5544_3322_1100,
        len_bytes: 80,
        level: 6,
    };
    vec![
        op::NopArgs {}.submission(1),
        op::EchoArgs {
            value: u64::MAX - 1,
        }
        .submission(2)
        .quiet(),
        op::PopulateArgs::from(list).submission(3),
        op::ReleaseArgs::from(list).submission(4),
        op::HugeArgs::from(list).submission(5),
        op::ColdArgs::from(list).submission(6),
        ipi.submission(0x1234_5678_9abc_def0).quiet(),
        op::YieldToArgs { apic_id: 9 }.submission(8),
        log.submission(9),
        op::MarkArgs { value: 0x0103_0007 }.submission(10),
        Submission::new(Opcode(0xf001), u64::MAX, [1, 2, 3, 4, 5, 6]),
    ]
}

#[test]
fn ver_2_submissions_have_the_bytes_of_version_1() {
    let words: Vec<u64> = submissions().iter().flat_map(|s| s.to_words()).collect();
    assert_eq!(
        golden("submissions-1.0.bin", &bytes_of(&words)),
        bytes_of(&words)
    );
}

#[test]
fn op_2_every_operation_decodes_to_what_was_encoded() {
    let all = submissions();
    let released = words_of(&golden("submissions-1.0.bin", &[]));
    for (call, words) in all.iter().zip(released.chunks(8)) {
        let read = Submission::from_words(words.try_into().expect("chunks of 8"));
        assert_eq!(&read, call);
        let request = Request::decode(&read, EVERYTHING).expect("a valid call");
        assert_eq!(request.encode(), call.args);
    }
    assert_eq!(all.len(), op::OPERATIONS.len() + 1);
}

#[test]
fn ring_8_completions_have_the_bytes_of_version_1() {
    let partial = Completion {
        items_done: 3,
        ..Completion::new(0x1234_5678_9abc_def0, Status::PARTIAL, 0x20_0000)
    };
    let all = [partial, Completion::new(1, Status::BAD_LIST, 0)];
    let words: Vec<u64> = all.iter().flat_map(|done| done.to_words()).collect();
    let released = golden("completions-1.0.bin", &bytes_of(&words));
    assert_eq!(released, bytes_of(&words));
    for (done, words) in all.iter().zip(words_of(&released).chunks(4)) {
        let words = words.try_into().expect("chunks of 4");
        assert_eq!(&Completion::from_words(words), done);
    }
}

#[test]
fn disc_3_the_cpuid_block_has_the_bytes_of_version_1() {
    let features = Features::RING | Features::SIDECORE | Features::TIMER | Features::IPI;
    // As the first hosts announced it; ours gives back more in one call (`[DISC-5]`).
    let offer = Offer {
        max_step_bytes: 2 << 20,
        ..Offer::new(features)
    };
    let mut bytes = Vec::new();
    for (leaf, found) in offer.leaves() {
        for value in [leaf, found.eax, found.ebx, found.ecx, found.edx] {
            bytes.extend(value.to_le_bytes());
        }
    }
    assert_eq!(golden("cpuid-1.0.bin", &bytes), bytes);
}

/// An area in the middle of its life: header, lease, deadline, one open and one answered call.
#[test]
fn page_2_an_area_in_use_has_the_bytes_of_version_1() {
    let layout = AreaLayout::DEFAULT;
    let memory = area(layout);
    let mem = &AtomicWords(&memory);
    page::write_header(mem, layout, Features::RING | Features::TIMER, 3);
    let (mut guest, mut host) = (GuestRing::new(layout), HostRing::new(layout));
    for call in submissions().iter().take(2) {
        guest.stage(mem, call).expect("room");
    }
    guest.publish(mem);
    let Taken::Submission(first) = host.take(mem) else {
        panic!("nothing to take");
    };
    host.finish(mem, &first, Completion::new(first.tag, Status::OK, 0));
    lease::renew(mem, 0x1111_2222_3333_0000, 0x4444);
    let mut clock = timer::HostTimer::new();
    assert_eq!(
        timer::publish(mem, 0x5555, || 1),
        timer::Published::Listening
    );
    assert_eq!(
        clock.disarm(mem, 0x6666),
        timer::Look::Due {
            deadline_tsc: 0x5555
        }
    );
    clock.arm(mem, 0x7777);
    let words: Vec<u64> = memory
        .iter()
        .map(|word| word.load(std::sync::atomic::Ordering::Relaxed))
        .collect();
    let released = golden("area-1.0.bin", &bytes_of(&words));
    assert_eq!(released, bytes_of(&words));
    let header = words_of(&released)[..8].try_into().expect("eight words");
    assert_eq!(Header::from_words(&header).check(), page::read_header(mem));
    assert!(page::read_header(mem).is_some());
}
