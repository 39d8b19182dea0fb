//! Each operation with arguments that a guest may and may not give.

use coopvirt_spec::code::Status;
use coopvirt_spec::entry::{Completion, Submission};
use coopvirt_spec::mark::{Mark, MarkKind};
use coopvirt_spec::op::{self, IpiArgs, LogArgs, MarkArgs, PopulateArgs, ReleaseArgs, YieldToArgs};
use coopvirt_spec::version::Features;
use vm_memory::{Bytes, GuestAddress};

use crate::coop::testing::{area_gpa, host, host_with, Done, Guest};
use crate::coop::{sidecore_option, CoopOptions};

const ALL: Features = Features(0x73f);

fn statuses(calls: &[Submission]) -> Vec<Status> {
    let (coop, ram, recorder) = host();
    let mut guest = Guest::register(&coop, &ram, 0, ALL);
    let statuses = calls.iter().map(|call| guest.call(call).status()).collect();
    assert!(recorder.done().is_empty(), "a refused call has no effect");
    statuses
}

#[test]
fn ipi_1_an_interrupt_reaches_each_target_once() {
    let (coop, ram, recorder) = host();
    let mut guest = Guest::register(&coop, &ram, 0, ALL);
    let mut args = IpiArgs::one(0, 255);
    args.mask_low = 0b11;
    let done = guest.call(&args.submission(1));
    assert_eq!((done.status(), done.result), (Status::OK, 2));
    assert_eq!(
        recorder.done(),
        [Done::Raised(0, 255), Done::Raised(1, 255)]
    );
    args.mask_low = 0;
    assert_eq!(guest.call(&args.submission(1)).result, 0);
}

#[test]
fn ipi_3_no_interrupt_is_sent_if_any_target_or_the_vector_is_bad() {
    let mut both = IpiArgs::one(1, 32);
    both.mask_low = 0b11;
    let mut wraps = IpiArgs::one(u32::MAX, 32);
    wraps.mask_low = 0b10;
    let calls = [both, wraps, IpiArgs::one(2, 32), IpiArgs::one(u32::MAX, 32)];
    let calls = calls.map(|args| args.submission(0));
    assert_eq!(statuses(&calls), [Status::BAD_TARGET; 4]);
    let vectors = [0, 1, 15].map(|vector| IpiArgs::one(0, vector).submission(0));
    assert_eq!(statuses(&vectors), [Status::BAD_VECTOR; 3]);
}

#[test]
fn yield_log_and_mark_check_their_arguments() {
    let log = |text_gpa, len_bytes, level| {
        LogArgs {
            text_gpa,
            len_bytes,
            level,
        }
        .submission(0)
    };
    let calls = [
        YieldToArgs { apic_id: 2 }.submission(0),
        MarkArgs { value: 0xff00_0000 }.submission(0),
        log(0x1000, 0, 0),
        log(0x1000, 1025, 0),
        log(0x1000, u32::MAX, 0),
        log(0x1000, 1, 8),
        log((4 << 20) - 1, 2, 0),
        log(u64::MAX, 1024, 0),
    ];
    use Status as S;
    assert_eq!(
        statuses(&calls),
        [
            S::BAD_TARGET,
            S::BAD_ARGUMENT,
            S::BAD_ARGUMENT,
            S::BAD_ARGUMENT,
            S::BAD_ARGUMENT,
            S::BAD_ARGUMENT,
            S::BAD_ADDRESS,
            S::BAD_ADDRESS,
        ]
    );
}

#[test]
fn log_and_mark_reach_the_host_and_a_flood_of_lines_does_not() {
    let (coop, ram, recorder) = host();
    let mut guest = Guest::register(&coop, &ram, 1, ALL);
    ram.write_slice(b"hello\x1b[2J", GuestAddress(0x1000))
        .unwrap();
    let log = LogArgs {
        text_gpa: 0x1000,
        len_bytes: 9,
        level: 6,
    };
    assert_eq!(guest.call(&log.submission(0)).result, 9);
    let mark = Mark {
        kind: MarkKind::Point,
        work: 3,
        seq: 4,
    };
    let value = mark.encode();
    assert_eq!(
        guest.call(&MarkArgs { value }.submission(0)).status(),
        Status::OK
    );
    assert_eq!(
        recorder.done(),
        [
            Done::Logged("guest vcpu1 <6>: hello\\u{1b}[2J".into()),
            Done::Marked(1, mark)
        ]
    );
    let answers: Vec<_> = (0..1000)
        .map(|_| guest.call(&log.submission(0)).status())
        .collect();
    assert!(answers.contains(&Status::BUSY));
    assert!(recorder.done().len() < 1000);
}

fn write_list(ram: &crate::mem::GuestRam, items: &[[u64; 2]]) {
    for (address, word) in (0x2000..).step_by(8).zip(items.iter().flatten()) {
        ram.write_obj(*word, GuestAddress(address)).unwrap();
    }
}

fn release(nr_items: u32) -> ReleaseArgs {
    ReleaseArgs {
        list_gpa: 0x2000,
        nr_items,
        first_item: 0,
        first_offset: 0,
    }
}

#[test]
fn mmu_5_release_zeroes_what_it_names_and_populate_backs_it() {
    let (coop, ram, _) = host();
    let mut guest = Guest::register(&coop, &ram, 0, ALL);
    for gpa in [0x20_0000, 0x20_3000, 0x30_0000] {
        ram.write_obj(u64::MAX, GuestAddress(gpa)).unwrap();
    }
    let items = [[0x20_0000, 0x3000], [0x30_0000, 0x1000]];
    write_list(&ram, &items);
    let done = guest.call(&release(2).submission(1));
    assert_eq!((done.status(), done.items_done), (Status::OK, 2));
    let read = |gpa| ram.read_obj::<u64>(GuestAddress(gpa)).unwrap();
    assert_eq!(
        [read(0x20_0000), read(0x20_3000), read(0x30_0000)],
        [0, u64::MAX, 0]
    );
    let populate = PopulateArgs {
        nr_items: 2,
        ..PopulateArgs::from(coopvirt_spec::range::RangeList::from(release(2)))
    };
    let done = guest.call(&populate.submission(2));
    assert_eq!((done.status(), done.items_done), (Status::OK, 2));
    let counts = coop.counts();
    assert_eq!(counts.events["released_bytes"], 0x4000);
    assert_eq!(counts.events["populated_bytes"], 0x4000);
    assert_eq!(counts.events["prefaulted_bytes"], 0x4000);
}

#[test]
fn mmu_1_no_area_is_ever_released_not_even_another_vcpus() {
    let (coop, ram, _) = host();
    let mut guest = Guest::register(&coop, &ram, 0, ALL);
    let _other = Guest::register(&coop, &ram, 1, ALL);
    for vcpu in [0, 1] {
        for item in [
            [area_gpa(vcpu), 0x1000],
            [area_gpa(vcpu) - 0x1000, 0x3000],
            [0, 4 << 20],
        ] {
            write_list(&ram, &[item]);
            let done = guest.call(&release(1).submission(1));
            assert_eq!(done.status(), Status::BAD_RANGE, "{item:x?}");
        }
    }
    // The list in the area itself, where the guest's ring is.
    let mut in_ring = release(1);
    in_ring.list_gpa = area_gpa(0) + 1024;
    assert_eq!(
        guest.call(&in_ring.submission(1)).status(),
        Status::BAD_ADDRESS
    );
    assert_eq!(coop.counts().events["released_bytes"], 0);
}

#[test]
fn mmu_3_a_list_that_releases_itself_ends_with_what_it_then_reads() {
    let (coop, ram, _) = host();
    let mut guest = Guest::register(&coop, &ram, 0, ALL);
    write_list(&ram, &[[0x2000, 0x1000], [0x20_0000, 0x1000]]);
    let done = guest.call(&release(2).submission(1));
    assert_eq!((done.status(), done.items_done), (Status::BAD_RANGE, 1));
}

#[test]
fn bell_4_one_exit_does_bounded_memory_work() {
    let (coop, ram, _) = host();
    let mut guest = Guest::register(&coop, &ram, 0, ALL);
    write_list(&ram, &[[0x20_0000, 0x20_0000]]);
    let populate = PopulateArgs::from(coopvirt_spec::range::RangeList::from(release(1)));
    for tag in 0..32 {
        guest.publish(&populate.submission(tag));
    }
    let (mut rings, mut done): (u32, Vec<Completion>) = (0, Vec::new());
    while done.len() < 32 {
        guest.ring();
        rings += 1;
        done.extend(std::iter::from_fn(|| guest.take()));
        let populated = coop.shared.totals.snapshot().events["populated_bytes"];
        assert!(populated <= u64::from(rings) * (2 << 20));
        assert!(rings < 100);
    }
    assert!(rings >= 16, "{rings}");
}

#[test]
fn op_2_every_operation_takes_any_words_and_is_counted_by_its_name() {
    let features = (ALL | Features::EXPERIMENTAL).without(Features::SIDECORE);
    // Nobody else serves, so that each doorbell has its answer.
    let sidecore = sidecore_option("off").unwrap();
    let (coop, ram, _) = host_with(CoopOptions { features, sidecore });
    let mut guest = Guest::register(&coop, &ram, 0, features);
    for operation in op::all() {
        for word in [0, 1, 0x1000, 0x10_0000, 1 << 32, u64::MAX - 0xfff, u64::MAX] {
            let mut words = [0; op::ARG_WORDS];
            words[..operation.arguments.len()].fill(word);
            let before = coop.shared.totals.snapshot().operations[operation.counter];
            let done = guest.call(&Submission::new(operation.opcode, 7, words));
            assert!(done.tag == 7 && done.status().name().is_some());
            let after = coop.shared.totals.snapshot().operations[operation.counter];
            assert_eq!(after, before + 1, "{}", operation.name);
        }
    }
}
