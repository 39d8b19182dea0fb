//! The local APIC: x2APIC where the machine has it, else by memory accesses. IPIs and the timer.
//!
//! Register numbers are x2APIC's: MSR 0x800 + n, or 16 * n bytes into the page.

use core::sync::atomic::{AtomicBool, Ordering};

use super::{cpuid, interrupts, mmio, msr};
use crate::cpus;

const MSR_APIC_BASE: u32 = 0x1b;
const BASE_ENABLED: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;
const MSR_X2APIC: u32 = 0x800;
const PAGE: u64 = 0xfee0_0000;
/// Takes the TSC value at which the timer fires; 0 disarms it.
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;

const ID: u32 = 0x02;
const TASK_PRIORITY: u32 = 0x08;
const EOI: u32 = 0x0b;
const SPURIOUS: u32 = 0x0f;
const ICR: u32 = 0x30;
const ICR_HIGH: u32 = 0x31;
const LVT_TIMER: u32 = 0x32;

const SPURIOUS_ENABLE: u32 = 1 << 8;
const LVT_MASKED: u32 = 1 << 16;
const LVT_TSC_DEADLINE: u32 = 2 << 17;
const ICR_BUSY: u32 = 1 << 12;
const ICR_ASSERT: u32 = 1 << 14;
const ICR_INIT: u32 = 5 << 8;
const ICR_STARTUP: u32 = 6 << 8;
const ICR_TO_SELF: u32 = 1 << 18;

static IS_X2APIC: AtomicBool = AtomicBool::new(false);

/// Switches this CPU's local APIC on, with its timer masked.
pub fn enable() {
    let base = msr::read(MSR_APIC_BASE) | BASE_ENABLED;
    let has_x2apic = cpuid::has_x2apic();
    IS_X2APIC.store(has_x2apic, Ordering::Relaxed);
    msr::write(MSR_APIC_BASE, base);
    if has_x2apic {
        msr::write(MSR_APIC_BASE, base | BASE_X2APIC);
    }
    write(TASK_PRIORITY, 0);
    write(SPURIOUS, SPURIOUS_ENABLE | u32::from(interrupts::SPURIOUS));
    write(LVT_TIMER, LVT_MASKED);
}

/// Whether the APICs are in x2APIC mode.
pub fn is_x2apic() -> bool {
    IS_X2APIC.load(Ordering::Relaxed)
}

/// This CPU's APIC ID.
pub fn id() -> u32 {
    match is_x2apic() {
        true => read(ID),
        false => read(ID) >> 24,
    }
}

/// Ends the interrupt that is being handled.
pub fn end_of_interrupt() {
    write(EOI, 0);
}

/// Sends an interrupt to one CPU.
pub fn send(cpu: usize, vector: u8) {
    command(cpus::apic_id(cpu), ICR_ASSERT | u32::from(vector));
}

/// Sends an interrupt to the CPU with this APIC ID.
pub fn send_to_id(apic_id: u32, vector: u8) {
    command(apic_id, ICR_ASSERT | u32::from(vector));
}

/// Sends an interrupt to this CPU.
pub fn send_to_self(vector: u8) {
    command(0, ICR_TO_SELF | ICR_ASSERT | u32::from(vector));
}

/// Resets a CPU, which then waits to be started.
pub(super) fn send_init(apic_id: u32) {
    command(apic_id, ICR_ASSERT | ICR_INIT);
}

/// Starts a CPU in real mode at a page below 1 MiB.
pub(super) fn send_startup(apic_id: u32, page: u8) {
    command(apic_id, ICR_ASSERT | ICR_STARTUP | u32::from(page));
}

/// Lets the timer's interrupt come as this vector when the TSC reaches the deadline.
pub fn use_tsc_deadline(vector: u8) {
    write(LVT_TIMER, LVT_TSC_DEADLINE | u32::from(vector));
    // Intel SDM volume 3, 11.5.4.1: a memory access to the LVT is not ordered before WRMSR. An
    // access of the APIC page exits here, which orders everything; the clause costs nothing.
    core::sync::atomic::fence(Ordering::SeqCst);
}

/// Arms the timer of this CPU, or disarms it with 0.
pub fn set_deadline(tsc: u64) {
    msr::write(MSR_TSC_DEADLINE, tsc);
}

/// Masks the timer of this CPU, which also disarms it.
pub fn mask_timer() {
    write(LVT_TIMER, LVT_MASKED);
}

fn command(apic_id: u32, low: u32) {
    // An x2APIC write of the ICR may pass earlier writes of memory (Intel SDM volume 3, 11.12.3):
    // what is sent for must be there first.
    core::sync::atomic::fence(Ordering::SeqCst);
    if is_x2apic() {
        let value = u64::from(apic_id) << 32 | u64::from(low);
        return msr::write(MSR_X2APIC + ICR, value);
    }
    // The two halves belong together: an interrupt handler on this CPU may send, too.
    interrupts::without(|| {
        write(ICR_HIGH, apic_id << 24);
        write(ICR, low);
        while read(ICR) & ICR_BUSY != 0 {
            core::hint::spin_loop();
        }
    });
}

fn read(register: u32) -> u32 {
    if is_x2apic() {
        let value = msr::read(MSR_X2APIC + register);
        return u32::try_from(value & 0xffff_ffff).expect("masked");
    }
    mmio::read_u32(PAGE + u64::from(register) * 16)
}

fn write(register: u32, value: u32) {
    if is_x2apic() {
        msr::write(MSR_X2APIC + register, value.into());
    } else {
        mmio::write_u32(PAGE + u64::from(register) * 16, value);
    }
}
