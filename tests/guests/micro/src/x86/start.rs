//! Starts the other CPUs: INIT, SIPI, SIPI, one CPU at a time.
#![expect(unsafe_code)]
// UNSAFETY: code is copied to low memory, and words are written that `entry.s` reads.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{apic, tsc};
use crate::boot_info;
use crate::cpus::{self, MAX_CPUS};
use crate::memory;

/// Where the trampoline is copied: below 1 MiB, and no boot structure lies there any more.
const TRAMPOLINE: u64 = 0x8000;
const TRAMPOLINE_PAGE: u8 = 8;
const STACK_BYTES: usize = 64 << 10;
/// Between INIT and SIPI, and between two SIPIs.
const PAUSE_US: u64 = 200;

#[repr(C, align(16))]
struct Stacks(UnsafeCell<[[u8; STACK_BYTES]; MAX_CPUS]>);

// SAFETY: each is the stack of one CPU; Rust code never looks into it.
unsafe impl Sync for Stacks {}

static STACKS: Stacks = Stacks(UnsafeCell::new([[0; STACK_BYTES]; MAX_CPUS]));

unsafe extern "C" {
    safe static trampoline_start: [u8; 0];
    safe static trampoline_end: [u8; 0];
    safe static ap_stack_end: AtomicU64;
    safe static ap_index: AtomicU32;
}

/// Starts the CPU with number `cpu` and waits until it says that it is there.
pub(crate) fn start(cpu: usize, apic_id: u32) {
    assert!(cpu < MAX_CPUS);
    copy_trampoline();
    let stack_end = STACKS.0.get().addr() + (cpu + 1) * STACK_BYTES;
    ap_stack_end.store(stack_end as u64, Ordering::Relaxed);
    let index = u32::try_from(cpu).expect("few CPUs");
    ap_index.store(index, Ordering::SeqCst);
    apic::send_init(apic_id);
    tsc::wait_us(PAUSE_US);
    apic::send_startup(apic_id, TRAMPOLINE_PAGE);
    tsc::wait_us(PAUSE_US);
    if !cpus::is_online(cpu) {
        apic::send_startup(apic_id, TRAMPOLINE_PAGE);
    }
    tsc::spin_until("another CPU starts", || cpus::is_online(cpu));
}

fn copy_trampoline() {
    let start: *const u8 = (&raw const trampoline_start).cast();
    let len = (&raw const trampoline_end).addr() - start.addr();
    assert!(boot_info::is_ram(TRAMPOLINE..TRAMPOLINE + len as u64));
    let target = memory::at(TRAMPOLINE);
    // SAFETY: the source is our own code between two labels, the target RAM that nothing else uses:
    // what the loader left below 1 MiB has been copied (`boot_info`), and ACPI tables lie higher.
    unsafe { core::ptr::copy_nonoverlapping(start, target, len) };
}
