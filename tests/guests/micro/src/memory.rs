//! Gives out pages of memory: fresh ones only, none ever comes back. A guest runs for seconds.
#![expect(unsafe_code)]
// UNSAFETY: turns physical addresses into references; that each page is given out once makes it so.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::boot_info;

/// A pointer to physical memory. All memory is mapped one to one.
pub fn at<T>(address: u64) -> *mut T {
    assert_ne!(address, 0, "nothing is at address 0");
    core::ptr::with_exposed_provenance_mut(usize::try_from(address).expect("64 bits"))
}

/// Size of a page.
pub const PAGE_BYTES: u64 = 4096;

static NEXT: AtomicU64 = AtomicU64::new(0);
static END: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    safe static image_end: [u8; 0];
}

/// Takes the memory from the end of this program to the end of its range of RAM.
pub fn set_up() {
    let start = (&raw const image_end).addr() as u64;
    let ram = boot_info::usable().find(|range| range.contains(&start));
    let ram = ram.expect("the loader put this program into RAM");
    NEXT.store(start.next_multiple_of(PAGE_BYTES), Ordering::Relaxed);
    END.store(ram.end, Ordering::Relaxed);
}

/// Whole pages that follow each other, below 4 GiB, where virtual and physical addresses are the
/// same. Their content is zero.
#[derive(Debug)]
pub struct Pages {
    // Invariant: RAM behind this program that was given out, which is used by atomic words only.
    start: u64,
    bytes: u64,
}

impl Pages {
    /// The guest-physical address of the first byte.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// All words, also for memory that the host or other CPUs change.
    pub fn words(&self) -> &[AtomicU64] {
        let count = usize::try_from(self.bytes / 8).expect("64 bits");
        // SAFETY: RAM, mapped, aligned, by the invariant; whoever shares it with this guest by its
        // address changes whole words, which atomic words allow for.
        unsafe { core::slice::from_raw_parts(at(self.start), count) }
    }

    /// The same as words of 32 bits. A word is used by one of the two sizes only, at one time.
    pub fn halves(&self) -> &[AtomicU32] {
        let count = usize::try_from(self.bytes / 4).expect("64 bits");
        // SAFETY: as above; accesses of two sizes are atomic instructions to this CPU.
        unsafe { core::slice::from_raw_parts(at(self.start), count) }
    }
}

/// Takes `count` pages.
pub fn pages(count: u64) -> Pages {
    let pages = untouched(count);
    for word in pages.words() {
        word.store(0, Ordering::Relaxed);
    }
    pages
}

/// Pages that were given out before, once more: for another CPU that works on them.
pub fn shared(start: u64, count: u64) -> Pages {
    let bytes = count * PAGE_BYTES;
    let first = (&raw const image_end).addr() as u64;
    let next = NEXT.load(Ordering::Relaxed);
    let is_given_out = start >= first && start.saturating_add(bytes) <= next;
    assert!(is_given_out && start.is_multiple_of(PAGE_BYTES));
    Pages { start, bytes }
}

/// Takes `count` pages, beginning at a multiple of 2 MiB, that this guest has never touched: the
/// host may have no memory behind them yet.
pub fn untouched_large(count: u64) -> Pages {
    const LARGE_BYTES: u64 = 2 << 20;
    let next = NEXT.load(Ordering::Relaxed);
    let _gap = untouched((next.next_multiple_of(LARGE_BYTES) - next) / PAGE_BYTES);
    untouched(count)
}

fn untouched(count: u64) -> Pages {
    let bytes = count * PAGE_BYTES;
    let end = END.load(Ordering::Relaxed);
    let taken = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
        next.checked_add(bytes).filter(|&new| new <= end)
    });
    let start =
        taken.unwrap_or_else(|next| panic!("no {count} pages between {next:#x} and {end:#x}"));
    Pages { start, bytes }
}
