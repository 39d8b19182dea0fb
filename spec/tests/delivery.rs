//! The words of posted interrupts, and what either side makes of values that should not be there.

use std::sync::atomic::AtomicU64;

use coopvirt_spec::delivery::{GuestPost, HostPost};
use coopvirt_spec::mem::{AtomicWords, Load, SharedMem, Store};
use coopvirt_spec::page::at;

fn with_area(test: impl FnOnce(&AtomicWords<'_>)) {
    let words: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
    test(&AtomicWords(&words));
}

fn words(mem: &AtomicWords<'_>) -> (u64, u64) {
    let word = |offset| mem.load_u64(offset, Load::Relaxed);
    (word(at::POSTED), word(at::ACCEPT))
}

#[test]
fn post_1_the_words_hold_number_vector_session_and_whether_it_accepts() {
    with_area(|mem| {
        let (mut host, mut guest) = (HostPost::new(), GuestPost::new());
        guest.begin(mem);
        assert_eq!(words(mem), (0, 3));
        assert!(host.post(mem, 0xec));
        assert_eq!(words(mem), (1 << 32 | 0xec, 3));
        assert_eq!(guest.look(mem), Some(0xec));
        assert_eq!(words(mem).1, 1 << 32 | 3);
        assert_eq!(guest.end(mem), None);
        assert_eq!(words(mem).1, 1 << 32 | 2);
        guest.begin(mem);
        assert_eq!(words(mem).1, 1 << 32 | 5);
    });
}

#[test]
fn post_5_what_the_host_has_raised_itself_is_not_taken_later() {
    with_area(|mem| {
        let mut guest = GuestPost::new();
        guest.begin(mem);
        assert_eq!(guest.end(mem), None);
        // It came too late for the last look of this session, and was raised.
        mem.store_u64(at::POSTED, 1 << 32 | 0x41, Store::Relaxed);
        guest.begin(mem);
        assert_eq!(guest.look(mem), None);
        mem.store_u64(at::POSTED, 2 << 32 | 0x42, Store::Relaxed);
        assert_eq!([guest.look(mem), guest.end(mem)], [Some(0x42), None]);
    });
}

#[test]
fn post_4_a_guest_that_takes_nothing_is_interrupted_as_ever() {
    with_area(|mem| {
        let mut host = HostPost::new();
        mem.store_u64(at::ACCEPT, 1, Store::Relaxed);
        assert!(host.post(mem, 0x41));
        assert!(!(0..1_000).any(|_| host.post(mem, 0x42)));
    });
}
