//! The balloon as a reporter of free pages.

use std::sync::atomic::Ordering;

use super::rig::{Rig, BUFFERS};
use crate::virtio::Balloon;

#[test]
fn reported_pages_are_given_back_and_read_as_zero() {
    let balloon = Balloon::new();
    let returned = balloon.returned_bytes();
    let mut rig = Rig::new(balloon);
    rig.start(1 << 5, 16);
    rig.put(BUFFERS, &[7; 4]);
    rig.put(BUFFERS + 0x1000, &[7; 4]);
    rig.put(BUFFERS + 0x3000, &[7; 4]);
    rig.add(
        2,
        &[(BUFFERS, 0x1000, true), (BUFFERS + 0x3000, 0x1000, true)],
    );
    rig.notify(2);
    assert_eq!(rig.take_used(2), Some((0, 0)));
    assert_eq!(rig.get::<4>(BUFFERS), [0; 4]);
    assert_eq!(rig.get::<4>(BUFFERS + 0x1000), [7; 4]);
    assert_eq!(rig.get::<4>(BUFFERS + 0x3000), [0; 4]);
    assert_eq!(returned.load(Ordering::Relaxed), 0x2000);
}

#[test]
fn what_is_no_whole_page_or_was_not_given_for_writing_is_kept() {
    let balloon = Balloon::new();
    let returned = balloon.returned_bytes();
    let mut rig = Rig::new(balloon);
    rig.start(1 << 5, 16);
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
    assert_eq!(returned.load(Ordering::Relaxed), 0);
}

#[test]
fn the_balloon_itself_takes_nothing() {
    let mut rig = Rig::new(Balloon::new());
    rig.start(0, 16);
    rig.put(BUFFERS, &[7; 4]);
    rig.add(0, &[(BUFFERS, 4, false)]);
    rig.notify(0);
    assert_eq!(rig.take_used(0), Some((0, 0)));
    assert_eq!(rig.get::<4>(BUFFERS), [7; 4]);
}
