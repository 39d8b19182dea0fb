//! The balloon: pages that go in, targets, statistics, and reports of free pages.

use std::sync::Arc;
use std::time::Duration;

use super::rig::{Dice, Rig, BUFFERS, RAM_BYTES};
use crate::virtio::{Balloon, BalloonControl, BalloonError, BalloonState};

const REPORTING: u64 = 1 << 5;
const STATISTICS: u64 = 1 << 1;
const ON_OOM: u64 = 1 << 2;
const PAGE: u64 = 0x1000;
/// Where a test's frame numbers are.
const LIST: u64 = BUFFERS + 0x8_0000;

fn rig(features: u64) -> (Rig, Arc<BalloonControl>) {
    let balloon = Balloon::new().unwrap();
    let control = balloon.control();
    let mut rig = Rig::new(balloon);
    rig.start(features, 16);
    (rig, control)
}

/// Puts these frames into the balloon, in one chain.
fn inflate(rig: &mut Rig, frames: &[u32]) {
    let bytes: Vec<u8> = frames
        .iter()
        .flat_map(|frame| frame.to_le_bytes())
        .collect();
    rig.put(LIST, &bytes);
    rig.add(0, &[(LIST, bytes.len() as u32, false)]);
    rig.notify(0);
    assert!(rig.take_used(0).is_some());
}

fn frame(gpa: u64) -> u32 {
    (gpa / PAGE) as u32
}

fn counts(state: &BalloonState) -> (u64, u64) {
    (state.inflated_bytes, state.refused_pages)
}

#[test]
fn reported_pages_are_given_back_and_read_as_zero() {
    // Queue 2 where there are no statistics; with them 3 as Linux counts, or 4 as the specification.
    for (features, queue) in [
        (REPORTING, 2),
        (REPORTING | STATISTICS, 3),
        (REPORTING | STATISTICS, 4),
    ] {
        let (mut rig, control) = rig(features);
        rig.put(BUFFERS, &[7; 4]);
        rig.put(BUFFERS + PAGE, &[7; 4]);
        rig.put(BUFFERS + 3 * PAGE, &[7; 4]);
        rig.add(
            queue,
            &[(BUFFERS, 0x1000, true), (BUFFERS + 3 * PAGE, 0x1000, true)],
        );
        rig.notify(queue as u16);
        assert_eq!(rig.take_used(queue), Some((0, 0)));
        assert_eq!(rig.get::<4>(BUFFERS), [0; 4]);
        assert_eq!(rig.get::<4>(BUFFERS + PAGE), [7; 4]);
        assert_eq!(rig.get::<4>(BUFFERS + 3 * PAGE), [0; 4]);
        assert_eq!(control.state().reported_bytes, 2 * PAGE);
    }
}

#[test]
fn reports_come_in_turns_of_bounded_size_and_a_chain_is_bounded_too() {
    let (mut rig, control) = rig(REPORTING);
    rig.start(REPORTING, 256);
    // Four chains of 60 pages each: with the second one a turn has done enough.
    let pages: Vec<_> = (0..60)
        .map(|page| (BUFFERS + 2 * page * PAGE, 0x1000, true))
        .collect();
    (0..4).for_each(|_| {
        rig.add(2, &pages);
    });
    let gpa = rig.notify_gpa(2);
    assert!(rig.doorbells.ring(gpa));
    rig.run_once();
    assert_eq!(control.state().reported_bytes, 2 * 60 * PAGE);
    rig.run();
    assert_eq!(control.state().reported_bytes, 4 * 60 * PAGE);
    while rig.take_used(2).is_some() {}

    // All memory behind the rings in each buffer: of 60 times 3 MiB, 128 MiB are taken, and the chain gets
    // its answer.
    let rest = (BUFFERS, (RAM_BYTES - BUFFERS) as u32, true);
    rig.add(2, &[rest; 60]);
    rig.notify(2);
    assert!(rig.take_used(2).is_some());
    let more = control.state().reported_bytes - 4 * 60 * PAGE;
    assert_eq!(more, 128 << 20);
    // Pieces beyond the 64th are kept.
    let mut pages: Vec<_> = (0..65)
        .map(|page| (BUFFERS + page * PAGE, 0x1000, true))
        .collect();
    pages.iter().for_each(|page| rig.put(page.0, &[7; 4]));
    pages.rotate_left(1);
    rig.add(2, &pages);
    rig.notify(2);
    assert_eq!(rig.get::<4>(BUFFERS + PAGE), [0; 4]);
    assert_eq!(rig.get::<4>(BUFFERS), [7; 4]);
}

#[test]
fn what_is_no_whole_page_or_was_not_given_for_writing_is_kept() {
    let (mut rig, control) = rig(REPORTING);
    for (at, len, is_writable) in [
        (BUFFERS + 8, 0x1000, true),
        (BUFFERS, 0xfff, true),
        (BUFFERS, 0x1000, false),
    ] {
        rig.put(BUFFERS, &[7; 4]);
        rig.add(2, &[(at, len, is_writable)]);
        rig.notify(2);
        assert!(rig.take_used(2).is_some());
        assert_eq!(rig.get::<4>(BUFFERS), [7; 4]);
    }
    assert_eq!(control.state().reported_bytes, 0);
}

#[test]
fn pages_in_the_balloon_are_given_back_and_their_neighbours_stay() {
    let (mut rig, control) = rig(0);
    let pages = [1, 2, 3, 5].map(|page| BUFFERS + page * PAGE);
    for page in 0..8 {
        rig.put(BUFFERS + page * PAGE, &[7; 4]);
    }
    // Backwards, as Linux often has them, and one of them twice.
    let frames: Vec<u32> = pages
        .iter()
        .rev()
        .chain(&pages[..1])
        .map(|gpa| frame(*gpa))
        .collect();
    inflate(&mut rig, &frames);
    for page in 0..8 {
        let gpa = BUFFERS + page * PAGE;
        let wanted = if pages.contains(&gpa) { [0; 4] } else { [7; 4] };
        assert_eq!(rig.get::<4>(gpa), wanted, "page {page}");
    }
    assert_eq!(counts(&control.state()), (4 * PAGE, 0));
    // What comes out is the guest's again as it is.
    rig.put(BUFFERS + PAGE, &[9; 4]);
    rig.put(LIST, &frame(BUFFERS + PAGE).to_le_bytes());
    rig.add(1, &[(LIST, 4, false)]);
    rig.notify(1);
    assert_eq!(rig.take_used(1), Some((0, 0)));
    assert_eq!(rig.get::<4>(BUFFERS + PAGE), [9; 4]);
}

#[test]
fn frames_that_are_no_memory_are_counted_and_nothing_else_happens() {
    let (mut rig, control) = rig(0);
    let end = frame(RAM_BYTES);
    rig.put(RAM_BYTES - PAGE, &[7; 4]);
    inflate(
        &mut rig,
        &[end, end + 1, 0xc_0000, u32::MAX, u32::MAX - 1, end - 1],
    );
    assert_eq!(counts(&control.state()), (PAGE, 5));
    assert_eq!(rig.get::<4>(RAM_BYTES - PAGE), [0; 4]);
    // Nothing, half a number, and a buffer on the wrong side.
    for buffer in [(LIST, 0, false), (LIST, 3, false), (LIST, 4, true)] {
        rig.add(0, &[buffer]);
        rig.notify(0);
        assert!(rig.take_used(0).is_some());
    }
    assert_eq!(counts(&control.state()), (PAGE, 5));
}

#[test]
fn a_chain_has_a_bounded_number_of_frames() {
    let (mut rig, control) = rig(0);
    rig.put(BUFFERS, &[7; 4]);
    // The same buffer again and again: 64 KiB of frames that do not exist, then one that does.
    rig.put(LIST, &[0xff; 0x1000]);
    rig.put(LIST + 0x1000, &frame(BUFFERS).to_le_bytes());
    let mut buffers = vec![(LIST, 0x1000, false); 15];
    buffers.push((LIST + 0x1000, 4, false));
    rig.add(0, &buffers);
    rig.notify(0);
    assert!(rig.take_used(0).is_some());
    // One number, many times.
    assert_eq!(counts(&control.state()), (0, 1));
    assert_eq!(rig.get::<4>(BUFFERS), [7; 4]);
}

#[test]
fn many_frames_come_in_several_batches_and_all_are_taken() {
    let (mut rig, control) = rig(0);
    let frames: Vec<u8> = (0..1024)
        .flat_map(|page| (frame(BUFFERS) + page % 64).to_le_bytes())
        .collect();
    rig.put(LIST, &frames);
    for _ in 0..16 {
        rig.add(0, &[(LIST, 0x1000, false)]);
    }
    let gpa = rig.notify_gpa(0);
    assert!(rig.doorbells.ring(gpa));
    rig.run_once();
    // Four chains are a batch.
    assert_eq!(control.state().inflated_bytes, 4 * 64 * PAGE);
    rig.run();
    assert_eq!(control.state().inflated_bytes, 16 * 64 * PAGE);
}

#[test]
fn random_lists_touch_no_page_that_they_do_not_name() {
    let (mut rig, control) = rig(0);
    let mut dice = Dice(7);
    for _ in 0..200 {
        for page in 0..64 {
            rig.put(BUFFERS + page * PAGE, &[7; 4]);
        }
        let mut frames: Vec<u32> = Vec::new();
        for _ in 0..dice.below(20) {
            let near = frame(BUFFERS) + dice.below(64) as u32;
            frames.push(dice.pick(&[near, near, near + 1, 0x400, dice.0 as u32 | 1 << 31]));
        }
        inflate(&mut rig, &frames);
        for page in 0..64 {
            let gpa = BUFFERS + page * PAGE;
            let wanted = if frames.contains(&frame(gpa)) {
                [0; 4]
            } else {
                [7; 4]
            };
            assert_eq!(rig.get::<4>(gpa), wanted, "{frames:?}");
        }
    }
    assert!(control.state().refused_pages > 0);
}

#[test]
fn a_target_interrupts_the_guest_which_says_what_it_has_done() {
    let (mut rig, control) = rig(ON_OOM);
    assert_eq!(rig.read4(rig.device(0)), 0);
    let generation = |rig: &Rig| rig.read::<1>(rig.common(0x15));
    let before = generation(&rig);
    control.set_target(2, RAM_BYTES).unwrap();
    rig.run();
    assert_ne!(generation(&rig), before);
    assert_eq!(rig.interrupts.take(0), 1);
    assert_eq!(rig.read4(rig.device(0)), 512);
    rig.write(rig.device(4), &300_u32.to_le_bytes());
    let state = control.state();
    assert_eq!(
        (state.target_bytes, state.actual_bytes),
        (2 << 20, 300 * PAGE)
    );
    assert!(state.has_driver && state.deflates_on_oom);
    // The target is the host's alone, and odd accesses change what they cover.
    rig.write(rig.device(0), &[0xff; 4]);
    rig.write(rig.device(5), &[0xff]);
    rig.write(rig.device(7), &[0xff; 8]);
    let state = control.state();
    assert_eq!(state.target_bytes, 2 << 20);
    assert_eq!(state.actual_bytes, 0xff00_ff2c * PAGE);
    // A driver that goes has all of its memory.
    rig.set_status(0);
    let state = control.state();
    assert_eq!((state.actual_bytes, state.has_driver), (0, false));
    // The next one finds the target.
    rig.start(0, 16);
    assert_eq!(rig.read4(rig.device(0)), 512);
    assert!(!control.state().deflates_on_oom);
}

#[test]
fn a_target_that_leaves_the_guest_nothing_is_refused() {
    let (_rig, control) = rig(0);
    for target_mib in [4, 5, u64::MAX, 1 << 60] {
        let refused = control.set_target(target_mib, RAM_BYTES);
        assert!(
            matches!(refused, Err(BalloonError::TooLarge { .. })),
            "{target_mib}"
        );
    }
    assert_eq!(control.state().target_bytes, 0);
}

fn entry(tag: u16, value: u64) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()
}

#[test]
fn statistics_wait_until_somebody_asks() {
    let (mut rig, control) = rig(STATISTICS);
    assert_eq!(control.state().statistics, None);
    rig.put(LIST, &[entry(4, 11), entry(5, 22), entry(999, 3)].concat());
    rig.add(2, &[(LIST, 30, false)]);
    rig.notify(2);
    assert_eq!(rig.take_used(2), None);
    let said = control.state().statistics.unwrap().values;
    assert_eq!(
        said,
        [("free_bytes".into(), 11), ("total_bytes".into(), 22)].into()
    );

    let asking = std::thread::spawn(move || control.ask());
    // The guest gets its buffer, and says something new.
    rig.run_blocking();
    assert_eq!(rig.take_used(2), Some((0, 0)));
    rig.put(LIST, &entry(4, 33));
    rig.add(2, &[(LIST, 10, false)]);
    rig.notify(2);
    let said = asking.join().unwrap().statistics.unwrap();
    assert_eq!(said.values, [("free_bytes".into(), 33)].into());
    assert!(said.age_ms < 2000);
}

#[test]
fn a_guest_that_does_not_answer_leaves_what_it_said_before() {
    let (mut rig, control) = rig(STATISTICS);
    // None that could be asked.
    assert_eq!(control.ask().statistics, None);
    rig.put(LIST, &entry(4, 11));
    rig.add(2, &[(LIST, 10, false)]);
    rig.notify(2);
    std::thread::sleep(Duration::from_millis(5));
    let said = control.ask().statistics.unwrap();
    assert!(said.age_ms >= 2000, "{said:?}");
    // Nor does a driver without statistics hold anybody up.
    rig.start(0, 16);
    let begun = std::time::Instant::now();
    control.ask();
    assert!(begun.elapsed() < Duration::from_millis(1500));
}

#[test]
fn statistics_that_make_no_sense_are_bounded() {
    let (mut rig, control) = rig(STATISTICS);
    rig.put(LIST, &entry(4, u64::MAX).repeat(400));
    for buffer in [
        (LIST, 4000, false),
        (LIST, 7, false),
        (LIST, 0, false),
        (LIST, 20, true),
    ] {
        rig.add(2, &[buffer]);
    }
    rig.notify(2);
    // One is kept, the older ones go back.
    assert_eq!((0..4).filter_map(|_| rig.take_used(2)).count(), 3);
    assert!(control.state().statistics.unwrap().values.is_empty());
}
