//! Each CPU's descriptor table, task state segment and interrupt stacks.
//!
//! Every interrupt takes a stack of the interrupt stack table (IST). Not for safety: compiled code
//! for this target may keep data below its stack pointer (the red zone), the precompiled `core`
//! too, and an interrupt on the same stack would overwrite it.
#![expect(unsafe_code)]
// UNSAFETY: tables that the CPU reads by address, and the instructions that load them.

use core::arch::asm;
use core::cell::UnsafeCell;

use crate::cpus::MAX_CPUS;

/// IST entries: interrupts, faults, and what can come at any time (NMI, double fault).
pub const IST_INTERRUPT: u8 = 1;
/// Faults have their own, so that a fault inside an interrupt handler can be handled.
pub const IST_FAULT: u8 = 2;
/// NMI, double fault, machine check.
pub const IST_ANY_TIME: u8 = 3;

/// Code segment selector of 64-bit mode, as in `entry.s`.
pub const CODE: u16 = 0x08;
const DATA: u16 = 0x10;
const TSS: u16 = 0x18;

const STACKS: usize = 3;
const STACK_BYTES: usize = 32 << 10;
const TSS_BYTES: usize = 104;
const DESCRIPTORS: usize = 5;

#[repr(C, align(16))]
struct Tables {
    stacks: [[u8; STACK_BYTES]; STACKS],
    // AMD APM volume 2, 12.2.5: 26 words of 32 bits.
    tss: [u32; TSS_BYTES / 4],
    gdt: [u64; DESCRIPTORS],
}

struct OfEachCpu(UnsafeCell<[Tables; MAX_CPUS]>);

// SAFETY: `load` on CPU n touches element n only, and runs once on each CPU.
unsafe impl Sync for OfEachCpu {}

const EMPTY: Tables = Tables {
    stacks: [[0; STACK_BYTES]; STACKS],
    tss: [0; TSS_BYTES / 4],
    gdt: [0; DESCRIPTORS],
};
static TABLES: OfEachCpu = OfEachCpu(UnsafeCell::new([EMPTY; MAX_CPUS]));

/// What LGDT and LIDT take.
#[repr(C, packed)]
pub(super) struct TablePointer {
    pub(super) limit: u16,
    pub(super) base: u64,
}

/// Sets this CPU's tables up and loads them. Once on each CPU, as the first thing it does.
pub fn load(cpu: usize) {
    assert!(cpu < MAX_CPUS);
    // SAFETY: in bounds; only this CPU has this element, and it is here for the first time.
    let tables = unsafe { &mut *TABLES.0.get().cast::<Tables>().add(cpu) };
    for (stack, slot) in tables.stacks.iter().zip(0..) {
        let [low, high] = halves(stack.as_ptr_range().end.addr() as u64);
        // IST1 is the tenth word.
        let at = 9 + slot * 2;
        (tables.tss[at], tables.tss[at + 1]) = (low, high);
    }
    // No I/O permission map: it would begin behind the limit.
    tables.tss[25] = 104 << 16;
    let tss = tables.tss.as_ptr().addr() as u64;
    tables.gdt = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        103 | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56,
        tss >> 32,
    ];
    let pointer = TablePointer {
        limit: 8 * 5 - 1,
        base: tables.gdt.as_ptr().addr() as u64,
    };
    // SAFETY: the table lives for ever and has code and data at the selectors in use, with the
    // same meaning as in the table that it replaces.
    unsafe {
        asm!("lgdt [{pointer}]", "mov ss, {data:e}", "mov ds, {data:e}", "mov es, {data:e}",
            "ltr {tss:x}",
            pointer = in(reg) &pointer, data = in(reg) u32::from(DATA), tss = in(reg) TSS,
            options(nostack));
    }
}

fn halves(value: u64) -> [u32; 2] {
    let low = u32::try_from(value & 0xffff_ffff).expect("masked");
    let high = u32::try_from(value >> 32).expect("shifted");
    [low, high]
}
