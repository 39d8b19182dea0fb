//! Maps memory above 4 GiB one to one. Below, `entry.s` has mapped everything already.
#![expect(unsafe_code)]
// UNSAFETY: page tables are memory that the CPU reads by physical address.

use core::cell::UnsafeCell;
use core::ops::Range;

use crate::memory;

const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const GIB_SHIFT: u32 = 30;
const LARGE_SHIFT: u32 = 21;
/// The one table of pointers covers so much.
const END: u64 = 512 << GIB_SHIFT;

#[repr(transparent)]
struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: changed by `map` only, which the first CPU calls before there are others.
unsafe impl Sync for Table {}

unsafe extern "C" {
    safe static page_pointers: Table;
}

/// Maps every 2 MiB page that `range` touches. By the first CPU, before others are started.
///
/// Entries that were empty need no flush: no CPU keeps a translation of them.
pub fn map(range: &Range<u64>) {
    assert!(range.end <= END, "memory at {:#x} is too high", range.end);
    let first = range.start >> LARGE_SHIFT;
    let end = range.end.div_ceil(1 << LARGE_SHIFT);
    for page in first..end {
        let address = page << LARGE_SHIFT;
        let gib = usize::try_from(address >> GIB_SHIFT).expect("below 512");
        // SAFETY: nobody else changes the table (see above); the index is below 512.
        let pointer = unsafe { &mut (*page_pointers.0.get())[gib] };
        if *pointer == 0 {
            *pointer = memory::pages(1).start() | PRESENT_WRITABLE;
        }
        let directory: *mut u64 = memory::at(*pointer & ADDRESS);
        let slot = usize::try_from(page % 512).expect("below 512");
        // SAFETY: the directory is a page of its own, mapped one to one, with 512 entries.
        unsafe {
            directory
                .add(slot)
                .write(address | PRESENT_WRITABLE | LARGE)
        };
    }
}
