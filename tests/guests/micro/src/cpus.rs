//! All CPUs: their numbers, their counts of interrupts, and work for them.
//!
//! The first CPU runs the tests. The others halt until [`on_each`] or [`on`] gives them a function
//! to run. CPU numbers are the places in ACPI's list; the first CPU is number 0.
#![expect(unsafe_code)]
// UNSAFETY: the segment base that says which CPU this is, and functions that are lent to other
// CPUs for as long as their owner waits.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::acpi;
use crate::x86::{apic, interrupts, msr, segments, start, tsc};

/// The most that this guest uses.
pub const MAX_CPUS: usize = 8;

const MSR_GS_BASE: u32 = 0xc000_0101;

/// What belongs to one CPU. `number` comes first: it is read relative to GS.
#[repr(C, align(64))]
struct Cpu {
    number: AtomicU32,
    apic_id: AtomicU32,
    is_online: AtomicBool,
    job: AtomicPtr<Job<'static>>,
    interrupts: [AtomicU64; 256],
}

/// A function for another CPU.
struct Job<'a> {
    run: &'a (dyn Fn(usize) + Sync),
}

static CPUS: [Cpu; MAX_CPUS] = [const {
    Cpu {
        number: AtomicU32::new(0),
        apic_id: AtomicU32::new(0),
        is_online: AtomicBool::new(false),
        job: AtomicPtr::new(core::ptr::null_mut()),
        interrupts: [const { AtomicU64::new(0) }; 256],
    }
}; MAX_CPUS];
static COUNT: AtomicUsize = AtomicUsize::new(1);

/// How many CPUs there are.
pub fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// The number of the CPU that asks.
pub fn this() -> usize {
    let number: u32;
    // SAFETY: `come_online` has pointed GS to this CPU's element, which begins with its number.
    unsafe {
        asm!("mov {:e}, gs:[0]", out(reg) number, options(readonly, nostack, preserves_flags));
    }
    number as usize
}

/// A CPU's APIC ID.
pub fn apic_id(cpu: usize) -> u32 {
    CPUS[cpu].apic_id.load(Ordering::Relaxed)
}

/// Whether a CPU has started.
pub fn is_online(cpu: usize) -> bool {
    CPUS[cpu].is_online.load(Ordering::Acquire)
}

/// How many interrupts (or faults) with this vector a CPU has handled in this test.
pub fn interrupts_of(cpu: usize, vector: u8) -> u64 {
    CPUS[cpu].interrupts[usize::from(vector)].load(Ordering::Acquire)
}

/// Counts one on this CPU. From interrupt handlers only.
pub fn count_interrupt(vector: u8) {
    // Release: who sees the count sees what the handler did before.
    CPUS[this()].interrupts[usize::from(vector)].fetch_add(1, Ordering::Release);
}

/// Sets all counts to zero.
pub fn reset_counts() {
    for count in CPUS.iter().flat_map(|cpu| &cpu.interrupts) {
        count.store(0, Ordering::Relaxed);
    }
}

/// Makes this CPU, the first, ready for interrupts.
pub fn set_up_first() {
    interrupts::set_up();
    come_online(0);
}

/// Starts all others.
pub fn start_others() {
    let first = apic_id(0);
    let mut next = 1;
    acpi::each_cpu(|id| {
        if id != first {
            assert!(next < MAX_CPUS, "more than {MAX_CPUS} CPUs");
            start::start(next, id);
            next += 1;
        }
    });
    COUNT.store(next, Ordering::Relaxed);
}

/// Tables, interrupts, local APIC; says that this CPU is there.
fn come_online(cpu: usize) {
    segments::load(cpu);
    interrupts::load();
    let me = &CPUS[cpu];
    let number = u32::try_from(cpu).expect("few CPUs");
    me.number.store(number, Ordering::Relaxed);
    msr::write(MSR_GS_BASE, core::ptr::from_ref(me).addr() as u64);
    apic::enable();
    me.apic_id.store(apic::id(), Ordering::Relaxed);
    interrupts::enable();
    me.is_online.store(true, Ordering::Release);
}

/// Where every other CPU begins. Called by `entry.s` only.
#[unsafe(no_mangle)]
extern "C" fn micro_ap_main(index: u32) -> ! {
    let cpu = index as usize;
    come_online(cpu);
    let slot = &CPUS[cpu].job;
    loop {
        interrupts::halt_until(|| !slot.load(Ordering::Acquire).is_null());
        // SAFETY: not null, so it is what `give` stored; its owner waits until the slot is empty.
        let job = unsafe { &*slot.load(Ordering::Acquire) };
        (job.run)(cpu);
        slot.store(core::ptr::null_mut(), Ordering::Release);
    }
}

/// Runs `run` on each CPU at the same time, with its number, and waits until all are done.
pub fn on_each(run: &(dyn Fn(usize) + Sync)) {
    let job = Job { run };
    let others = 1..count();
    others.clone().for_each(|cpu| give(cpu, &job));
    run(0);
    others.for_each(await_end);
}

/// Runs `run` on one CPU and waits until it is done. Only the first CPU may ask.
pub fn on(cpu: usize, run: &(dyn Fn(usize) + Sync)) {
    if cpu == 0 {
        return run(0);
    }
    give(cpu, &Job { run });
    await_end(cpu);
}

/// Lends a job to another CPU. The caller must not return before [`await_end`] has: a panic in
/// between ends the machine, so nothing else can make it return.
fn give(cpu: usize, job: &Job<'_>) {
    assert!(this() == 0 && (1..count()).contains(&cpu));
    let job = core::ptr::from_ref(job).cast::<Job<'static>>();
    CPUS[cpu].job.store(job.cast_mut(), Ordering::Release);
    apic::send(cpu, interrupts::WAKE);
}

#[track_caller]
fn await_end(cpu: usize) {
    let slot = &CPUS[cpu].job;
    tsc::spin_until("another CPU's work", || {
        slot.load(Ordering::Acquire).is_null()
    });
}
