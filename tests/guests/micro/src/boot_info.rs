//! What the loader says: command line, memory map, where ACPI's tables are.
//!
//! Copied once at the start; afterwards the loader's memory may be overwritten.
//! Source: PVH, Xen `public/arch-x86/hvm/start_info.h`.
#![expect(unsafe_code)]
// UNSAFETY: reads the loader's structures at the physical addresses that it names.

use core::cell::UnsafeCell;
use core::ops::Range;

use crate::memory::at;

const MAGIC: u32 = 0x336e_c578;
const USABLE: u32 = 1;
const MAX_CMDLINE_BYTES: usize = 4096;
const MAX_RANGES: usize = 32;

#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    nr_modules: u32,
    modules: u64,
    cmdline: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    _reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct MapEntry {
    start: u64,
    size: u64,
    kind: u32,
    _reserved: u32,
}

struct Info {
    cmdline: [u8; MAX_CMDLINE_BYTES],
    cmdline_len: usize,
    usable: [(u64, u64); MAX_RANGES],
    nr_usable: usize,
    rsdp: u64,
}

struct Once(UnsafeCell<Info>);

// SAFETY: written by `copy` before there is a second CPU, only read afterwards.
unsafe impl Sync for Once {}

static INFO: Once = Once(UnsafeCell::new(Info {
    cmdline: [0; MAX_CMDLINE_BYTES],
    cmdline_len: 0,
    usable: [(0, 0); MAX_RANGES],
    nr_usable: 0,
    rsdp: 0,
}));

fn info() -> &'static Info {
    // SAFETY: nobody writes it any more (see `Once`).
    unsafe { &*INFO.0.get() }
}

/// Copies everything. The first thing that the first CPU does.
pub fn copy(start_info: u64) {
    // SAFETY: the first CPU is alone, and nobody has called `info` yet.
    let info = unsafe { &mut *INFO.0.get() };
    // SAFETY: the boot protocol puts the structure there.
    let start: &StartInfo = unsafe { &*at(start_info) };
    assert_eq!(start.magic, MAGIC, "not started by PVH");
    assert!(start.version >= 1, "no memory map");
    info.rsdp = start.rsdp;
    let cmdline: *const u8 = at(start.cmdline);
    for at in 0..MAX_CMDLINE_BYTES {
        // SAFETY: the line ends with a zero, and we have not come to it yet.
        let byte = unsafe { cmdline.add(at).read() };
        if byte == 0 {
            break;
        }
        info.cmdline[at] = byte;
        info.cmdline_len = at + 1;
    }
    let map: *const MapEntry = at(start.memory_map);
    for index in 0..start.memory_map_entries as usize {
        // SAFETY: the loader says that there are so many.
        let entry = unsafe { map.add(index).read() };
        if entry.kind == USABLE && info.nr_usable < MAX_RANGES {
            info.usable[info.nr_usable] = (entry.start, entry.start.saturating_add(entry.size));
            info.nr_usable += 1;
        }
    }
}

/// The command line.
pub fn cmdline() -> &'static str {
    let info = info();
    core::str::from_utf8(&info.cmdline[..info.cmdline_len]).unwrap_or("")
}

/// The usable ranges of memory, as the loader lists them.
pub fn usable() -> impl Iterator<Item = Range<u64>> {
    let info = info();
    info.usable[..info.nr_usable]
        .iter()
        .map(|&(start, end)| start..end)
}

/// Whether all of a range is usable memory.
pub fn is_ram(range: Range<u64>) -> bool {
    usable().any(|ram| ram.start <= range.start && range.end <= ram.end)
}

/// Where ACPI's root pointer is.
pub fn rsdp() -> u64 {
    info().rsdp
}
