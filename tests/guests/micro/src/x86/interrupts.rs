//! The interrupt table: counts every vector on every CPU and calls what tests ask for.
//!
//! Handlers run with interrupts off, on a stack of their own. The entry stubs save all registers,
//! SSE included: this target's code, `core` too, uses SSE, and building it without would mean
//! another ABI than that of the precompiled `core`.
#![expect(unsafe_code)]
// UNSAFETY: the table is read by the CPU, and the handler is called by assembly with a frame that
// it may change.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::segments::{self, TablePointer};
use super::{apic, tsc};
use crate::cpus;

/// Vectors below are the CPU's own.
pub const FIRST_INTERRUPT: u8 = 32;
/// Where the local APIC's spurious interrupts go.
pub const SPURIOUS: u8 = 0xff;
/// Wakes a CPU that waits for work.
pub const WAKE: u8 = 0xf0;
/// Vectors that tests may take as they like.
pub const FREE: core::ops::Range<u8> = 0x30..0xf0;

/// Called by a vector's interrupt, with the vector. Must not wait, and must not send records.
pub type Callback = fn(u8);

static CALLBACKS: [AtomicPtr<()>; 256] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 256];

/// A gate is 16 bytes.
#[repr(C, align(16))]
struct Idt(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: written once, by the first CPU before there are others; afterwards only CPUs read it.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(UnsafeCell::new([[0; 2]; 256]));

unsafe extern "C" {
    safe static interrupt_stubs: [[u8; 16]; 256];
    safe static fixups_start: [[u64; 2]; 0];
    safe static fixups_end: [[u64; 2]; 0];
}

/// Fills the table. By the first CPU, before others are started.
pub fn set_up() {
    for (vector, stub) in (0u8..=255).zip(&interrupt_stubs) {
        let target = stub.as_ptr().addr() as u64;
        let stack = match vector {
            2 | 8 | 18 => segments::IST_ANY_TIME,
            0..FIRST_INTERRUPT => segments::IST_FAULT,
            _ => segments::IST_INTERRUPT,
        };
        // AMD APM volume 2, 4.8.4: present, 64-bit interrupt gate.
        let low = (target & 0xffff)
            | u64::from(segments::CODE) << 16
            | u64::from(stack) << 32
            | 0x8e << 40
            | (target >> 16 & 0xffff) << 48;
        let gates: *mut [u64; 2] = IDT.0.get().cast();
        // SAFETY: in bounds, and nobody uses the table yet.
        unsafe { gates.add(usize::from(vector)).write([low, target >> 32]) };
    }
}

/// Loads the table, on each CPU.
pub fn load() {
    let pointer = TablePointer {
        limit: 256 * 16 - 1,
        base: IDT.0.get().addr() as u64,
    };
    // SAFETY: the table is complete and lives for ever.
    unsafe { asm!("lidt [{}]", in(reg) &pointer, options(readonly, nostack, preserves_flags)) };
}

/// Sets what a vector's interrupt calls, on every CPU.
pub fn set_callback(vector: u8, callback: Callback) {
    assert!(FREE.contains(&vector), "vector {vector:#x} is taken");
    CALLBACKS[usize::from(vector)].store(callback as *mut (), Ordering::Release);
}

/// Forgets all callbacks and all counts. Between tests, when no interrupt is under way.
pub fn reset() {
    for callback in &CALLBACKS {
        callback.store(core::ptr::null_mut(), Ordering::Release);
    }
    cpus::reset_counts();
}

/// Lets interrupts in.
pub fn enable() {
    // SAFETY: the table is loaded before anybody can call this.
    unsafe { asm!("sti", options(nostack)) };
}

/// Keeps interrupts out.
pub fn disable() {
    // SAFETY: has no other effect.
    unsafe { asm!("cli", options(nostack)) };
}

/// Runs `body` with interrupts off, and leaves them as they were.
pub fn without<T>(body: impl FnOnce() -> T) -> T {
    const INTERRUPTS_ON: u64 = 1 << 9;
    let rflags: u64;
    // SAFETY: reads the flags by one word of stack, which the block may use.
    unsafe { asm!("pushfq", "pop {}", out(reg) rflags) };
    disable();
    let result = body();
    if rflags & INTERRUPTS_ON != 0 {
        enable();
    }
    result
}

/// Halts until `is_done`, which an interrupt on this CPU must make true. Interrupts are on after.
pub fn halt_until(mut is_done: impl FnMut() -> bool) {
    loop {
        disable();
        if is_done() {
            break enable();
        }
        halt();
    }
}

/// Halts once, with interrupts on from then; they were off.
pub fn halt() {
    // SAFETY: STI takes effect after HLT has begun, so an interrupt that came since CLI ends it.
    unsafe { asm!("sti", "hlt", options(nostack)) };
}

/// The same by a port that halts.
pub fn halt_by_port(port: u16, value: u32) {
    // SAFETY: as for HLT; the write has no other effect on this CPU.
    unsafe { asm!("sti", "out dx, eax", in("dx") port, in("eax") value, options(nostack)) };
}

/// Stops this CPU for good.
pub fn stop() -> ! {
    loop {
        // SAFETY: nothing follows.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Spins until this CPU has counted so many interrupts of a vector; panics if they do not come.
#[track_caller]
pub fn wait_for(vector: u8, count: u64) {
    let cpu = cpus::this();
    tsc::spin_until("an interrupt", || cpus::interrupts_of(cpu, vector) >= count);
}

/// What the entry stub has pushed, lowest address first.
#[repr(C)]
struct Frame {
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// Every interrupt and fault. Called by `entry.s` only.
#[unsafe(no_mangle)]
extern "C" fn micro_interrupt(frame: &mut Frame) {
    let vector = u8::try_from(frame.vector & 0xff).expect("masked");
    if vector < FIRST_INTERRUPT {
        cpus::count_interrupt(vector);
        return fault(frame);
    }
    let callback = CALLBACKS[usize::from(vector)].load(Ordering::Acquire);
    if !callback.is_null() {
        // SAFETY: only `set_callback` stores anything else than null, and it stores a `Callback`.
        let callback = unsafe { core::mem::transmute::<*mut (), Callback>(callback) };
        callback(vector);
    }
    // After the callback: who waits for the count sees what the callback did.
    cpus::count_interrupt(vector);
    if vector != SPURIOUS {
        apic::end_of_interrupt();
    }
}

/// A fault is foreseen by an entry in the table of fixups, or it is the end.
fn fault(frame: &mut Frame) {
    let first: *const [u64; 2] = (&raw const fixups_start).cast();
    let end: *const [u64; 2] = (&raw const fixups_end).cast();
    let count = (end.addr() - first.addr()) / size_of::<[u64; 2]>();
    // SAFETY: the linker script puts both symbols around the entries, which are never written.
    let fixups = unsafe { core::slice::from_raw_parts(first, count) };
    let Some([_, after]) = fixups.iter().find(|[at, _]| *at == frame.rip) else {
        let cr2: u64;
        // SAFETY: reads a register.
        unsafe { asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack, preserves_flags)) };
        panic!(
            "fault {} at {:#x} on CPU {}, error code {:#x}, CR2 {cr2:#x}",
            frame.vector,
            frame.rip,
            cpus::this(),
            frame.error
        );
    };
    frame.rip = *after;
}
