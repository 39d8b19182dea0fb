// SPDX-License-Identifier: GPL-2.0
//! The kernel as the shim's platform, and the glue as safe functions.
//!
//! Everything that is unsafe in this module is here: instructions, shared memory, per-CPU data,
//! calls on other CPUs. Callers are all other files; nothing here decides anything.
#![expect(unsafe_code)]
// UNSAFETY: talks to C, executes instructions, shares memory with the host and between CPUs.

use core::arch::asm;
use core::cell::{Cell, UnsafeCell};
use core::ffi::{c_char, c_int, c_ulong, c_void};
use core::fmt;
use core::ptr::{null_mut, NonNull};
use core::sync::atomic::{fence, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use coopvirt_spec::discover::Registers;
use coopvirt_spec::mem::{Load, SharedMem, Store};
use coopvirt_spec::op::IpiArgs;
use guest_shim::{Cpu, Platform};
use kernel::error::{to_result, Result};
use kernel::prelude::*;

/// The module's parameters: `struct coopvirt_params`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RawParams {
    pub(crate) level: u32,
    pub(crate) idle: bool,
    pub(crate) timer: bool,
    pub(crate) ipi: bool,
    pub(crate) populate: bool,
    pub(crate) release: bool,
    pub(crate) selftest: bool,
}

/// What a callback writes text to.
#[repr(C)]
pub(crate) struct SeqFile {
    _opaque: [u8; 0],
}

type OnCpu = extern "C" fn(*mut c_void);

// As in glue/coopvirt.h. Safe to call: any argument, at any time, from any context that the place of
// the call allows.
unsafe extern "C" {
    safe fn coopvirt_glue_params() -> &'static RawParams;
    safe fn coopvirt_glue_cpuid(leaf: u32, registers: &mut [u32; 4]);
    safe fn coopvirt_glue_read_msr(msr: u32, value: &mut u64) -> bool;
    fn coopvirt_glue_write_msr(msr: u32, value: u64) -> bool;
    safe fn coopvirt_glue_tsc_khz() -> u32;
    safe fn coopvirt_glue_irq_save() -> c_ulong;
    fn coopvirt_glue_irq_restore(flags: c_ulong);
    safe fn coopvirt_glue_this_cpu() -> u32;
    safe fn coopvirt_glue_nr_cpu_ids() -> u32;
    safe fn coopvirt_glue_is_possible(cpu: u32) -> bool;
    safe fn coopvirt_glue_is_online(cpu: u32) -> bool;
    safe fn coopvirt_glue_area_alloc(cpu: u32, len_bytes: usize, gpa: &mut u64) -> *mut c_void;
    fn coopvirt_glue_area_free(area: *mut c_void, len_bytes: usize);
    fn coopvirt_glue_call_on(cpu: u32, call: OnCpu, argument: *mut c_void) -> c_int;
    fn coopvirt_glue_call_all(call: OnCpu, argument: *mut c_void);
    safe fn coopvirt_glue_cpus_lock();
    fn coopvirt_glue_cpus_unlock();
    safe fn coopvirt_glue_wait_for_readers();
    fn coopvirt_glue_hotplug_register() -> c_int;
    fn coopvirt_glue_hotplug_unregister();
    fn coopvirt_glue_idle_register() -> c_int;
    fn coopvirt_glue_idle_unregister();
    safe fn coopvirt_glue_idle_owner() -> *const c_char;
    fn coopvirt_glue_poll_begin() -> bool;
    safe fn coopvirt_glue_poll_goes_on() -> bool;
    fn coopvirt_glue_poll_end() -> bool;
    fn coopvirt_glue_halt() -> bool;
    fn coopvirt_glue_timer_register() -> c_int;
    fn coopvirt_glue_timer_unregister();
    safe fn coopvirt_glue_timer_is_pending() -> bool;
    fn coopvirt_glue_ipi_hook() -> c_int;
    fn coopvirt_glue_ipi_unhook();
    safe fn coopvirt_glue_ipi_skipped(cpu: u32) -> u64;
    fn coopvirt_glue_life_register() -> c_int;
    fn coopvirt_glue_life_unregister();
    fn coopvirt_glue_debugfs_register() -> c_int;
    fn coopvirt_glue_debugfs_unregister();
    fn coopvirt_glue_show_bytes(to: *mut SeqFile, bytes: *const u8, len: usize);
}

/// The parameters as given at load.
pub(crate) fn params() -> RawParams {
    *coopvirt_glue_params()
}

/// The instructions that need no session: CPUID, marks.
pub(crate) struct Bare;

impl Platform for Bare {
    fn write_mark_port(&mut self, value: u32) {
        write_port(coopvirt_spec::mark::MARK_PORT, value);
    }
}

/// Executes CPUID with ECX zero.
pub(crate) fn cpuid(leaf: u32) -> Registers {
    let mut registers = [0; 4];
    coopvirt_glue_cpuid(leaf, &mut registers);
    let [eax, ebx, ecx, edx] = registers;
    Registers { eax, ebx, ecx, edx }
}

fn write_port(port: u16, value: u32) {
    // SAFETY: a port write has no effect on this kernel's memory. The ports are those that the host
    // announces for doorbells and the mark port, to which nothing else is given (`[MARK-1]`).
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags));
    }
}

/// Reads the time stamp counter, not before the loads that precede it.
pub(crate) fn read_tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register. LFENCE waits for the loads before it; without `nomem` the compiler
    // keeps the place as well.
    unsafe {
        asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// How many steps the time stamp counter makes in a microsecond, rounded down.
pub(crate) fn tsc_steps_per_us() -> u64 {
    (tsc_steps_per_ns_32() * 1_000) >> 32
}

/// How many steps the time stamp counter makes in a nanosecond, times 2^32.
pub(crate) fn tsc_steps_per_ns_32() -> u64 {
    (u64::from(coopvirt_glue_tsc_khz()) << 32) / 1_000_000
}

/// The stock path of the timer.
pub(crate) fn write_deadline(deadline_tsc: u64) {
    // The write does not wait for stores before it, as other MSR writes do; the handler may read them.
    fence(Ordering::SeqCst);
    // SAFETY: of this CPU's timer; an interrupt too many is harmless.
    unsafe { coopvirt_glue_write_msr(MSR_TSC_DEADLINE, deadline_tsc) };
}

/// Whether this CPU's timer interrupt waits to be taken. An exit.
pub(crate) fn is_timer_pending() -> bool {
    coopvirt_glue_timer_is_pending()
}

/// How many interrupts to a CPU that polled were left out by another one.
pub(crate) fn ipis_skipped(cpu: u32) -> u64 {
    coopvirt_glue_ipi_skipped(cpu)
}

/// The memory of one area: whole pages that the host may write at any time.
///
/// # Invariants
/// `base` is the start of `len_bytes` bytes of zero-initialized pages that nobody else owns, and of
/// which no reference but to single atomic words is ever made.
#[derive(Debug)]
pub(crate) struct Area {
    base: NonNull<u8>,
    len_bytes: usize,
    gpa: u64,
}

// SAFETY: the pages belong to no CPU or thread, and all accesses are atomic.
unsafe impl Send for Area {}

impl Area {
    /// Memory near a CPU.
    pub(crate) fn allocate(cpu: u32, len_bytes: usize) -> Result<Self> {
        let mut gpa = 0;
        let base = coopvirt_glue_area_alloc(cpu, len_bytes, &mut gpa);
        let base = NonNull::new(base.cast()).ok_or(ENOMEM)?;
        Ok(Self {
            base,
            len_bytes,
            gpa,
        })
    }

    fn word<T>(&self, offset: usize) -> Option<NonNull<T>> {
        let size = core::mem::size_of::<T>();
        let is_inside = self
            .len_bytes
            .checked_sub(size)
            .is_some_and(|last| offset <= last);
        if !is_inside || offset % core::mem::align_of::<T>() != 0 {
            return None;
        }
        // SAFETY: by the check above, the word lies in the memory that the invariant gives.
        Some(unsafe { self.base.add(offset) }.cast())
    }

    fn u32_at(&self, offset: usize) -> Option<&AtomicU32> {
        // SAFETY: inside and aligned; initialized by allocation; the host accesses it atomically, too.
        self.word::<AtomicU32>(offset)
            .map(|word| unsafe { word.as_ref() })
    }

    fn u64_at(&self, offset: usize) -> Option<&AtomicU64> {
        // SAFETY: as above.
        self.word::<AtomicU64>(offset)
            .map(|word| unsafe { word.as_ref() })
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: from coopvirt_glue_area_alloc() with the same length, freed once. Its session has
        // unregistered it: see `cpus`.
        unsafe { coopvirt_glue_area_free(self.base.as_ptr().cast(), self.len_bytes) };
    }
}

/// An offset outside the area reads zero and writes nothing.
impl SharedMem for Area {
    fn load_u32(&self, offset: usize, order: Load) -> u32 {
        self.u32_at(offset)
            .map_or(0, |word| word.load(order.ordering()))
    }
    fn store_u32(&self, offset: usize, value: u32, order: Store) {
        if let Some(word) = self.u32_at(offset) {
            word.store(value, order.ordering());
        }
    }
    fn load_u64(&self, offset: usize, order: Load) -> u64 {
        self.u64_at(offset)
            .map_or(0, |word| word.load(order.ordering()))
    }
    fn store_u64(&self, offset: usize, value: u64, order: Store) {
        if let Some(word) = self.u64_at(offset) {
            word.store(value, order.ordering());
        }
    }
    fn fence_full(&self) {
        fence(Ordering::SeqCst);
    }
}

/// The CPU that a session belongs to.
#[derive(Debug)]
pub(crate) struct KernelCpu {
    area: Area,
}

impl KernelCpu {
    /// With its area's memory.
    pub(crate) fn new(area: Area) -> Self {
        Self { area }
    }
}

impl Cpu for KernelCpu {
    type Area = Area;

    fn cpuid(&self, leaf: u32) -> Registers {
        cpuid(leaf)
    }
    fn read_msr(&self, msr: u32) -> Option<u64> {
        let mut value = 0;
        coopvirt_glue_read_msr(msr, &mut value).then_some(value)
    }
    fn write_msr(&self, msr: u32, value: u64) -> bool {
        // SAFETY: the shim and this module write the host's set-up registers, whose only effect on
        // memory is on areas that `Area` owns, the timer's deadline, and KVM's poll control.
        unsafe { coopvirt_glue_write_msr(msr, value) }
    }
    fn read_tsc(&self) -> u64 {
        read_tsc()
    }
    fn write_port(&self, port: u16, value: u32) {
        write_port(port, value);
    }
    fn area(&self) -> &Area {
        &self.area
    }
    fn area_gpa(&self) -> u64 {
        self.area.gpa
    }
    fn area_bytes(&self) -> usize {
        self.area.len_bytes
    }
    fn write_stock_deadline(&self, deadline_tsc: u64) {
        write_deadline(deadline_tsc);
    }
    fn send_stock_ipi(&self, _ipi: &IpiArgs) {
        // The hooks have their own way, and ask by `try_send_ipi`.
        pr_warn!("an interrupt was not sent\n");
    }
}

const MSR_TSC_DEADLINE: u32 = 0x6e0;

/// Interrupts off, until it is dropped.
struct IrqsOff(c_ulong, core::marker::PhantomData<*mut ()>);

impl IrqsOff {
    fn new() -> Self {
        Self(coopvirt_glue_irq_save(), core::marker::PhantomData)
    }
}

impl Drop for IrqsOff {
    fn drop(&mut self) {
        // SAFETY: the flags are those saved on this CPU: with interrupts off nothing moved us.
        unsafe { coopvirt_glue_irq_restore(self.0) };
    }
}

struct Slot<T> {
    is_busy: Cell<bool>,
    value: UnsafeCell<T>,
}

/// One value for each possible CPU, which only code on that CPU can reach.
///
/// # Invariants
/// `slots` is null, or a leaked vector of `len` slots.
pub(crate) struct PerCpu<T> {
    slots: AtomicPtr<Slot<T>>,
    len: AtomicU32,
}

// SAFETY: `with` gives each value to one piece of code at a time, see there.
unsafe impl<T: Send> Sync for PerCpu<T> {}

impl<T: Send> PerCpu<T> {
    pub(crate) const fn new() -> Self {
        Self {
            slots: AtomicPtr::new(null_mut()),
            len: AtomicU32::new(0),
        }
    }

    /// Sets the values, one for each number below [`nr_cpus`]. Not while there are some.
    pub(crate) fn fill(&self, make: impl Fn(u32) -> Result<T>) -> Result {
        let mut slots = KVec::with_capacity(nr_cpus() as usize, GFP_KERNEL)?;
        for cpu in 0..nr_cpus() {
            let value = UnsafeCell::new(make(cpu)?);
            slots.push(
                Slot {
                    is_busy: Cell::new(false),
                    value,
                },
                GFP_KERNEL,
            )?;
        }
        let (slots, _, _) = slots.into_raw_parts();
        self.len.store(nr_cpus(), Ordering::Relaxed);
        // Release: pairs with the load in `with`; the slots are whole before they are seen.
        self.slots.store(slots, Ordering::Release);
        Ok(())
    }

    /// Calls `f` with the value of the CPU that it runs on, with interrupts off. `None` if there is
    /// none, or if this interrupts another call on this CPU, as only an NMI can.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        let _irqs_off = IrqsOff::new();
        let slots = NonNull::new(self.slots.load(Ordering::Acquire))?;
        let cpu = coopvirt_glue_this_cpu();
        if cpu >= self.len.load(Ordering::Relaxed) {
            return None;
        }
        // SAFETY: one of `len` slots by the check above. They are alive: `clear` takes the pointer
        // away and waits until everybody had interrupts on, which we have off since before we read it.
        let slot = unsafe { slots.add(cpu as usize).as_ref() };
        if slot.is_busy.replace(true) {
            return None;
        }
        // SAFETY: only this CPU comes here for this slot, interrupts are off, and what comes in spite
        // of that finds it busy: nobody else has a reference to the value.
        let result = f(unsafe { &mut *slot.value.get() });
        slot.is_busy.set(false);
        Some(result)
    }

    /// Drops the values once nobody uses them. May sleep.
    pub(crate) fn clear(&self) {
        let slots = self.slots.swap(null_mut(), Ordering::AcqRel);
        coopvirt_glue_wait_for_readers();
        if !slots.is_null() {
            let len = self.len.load(Ordering::Relaxed) as usize;
            // SAFETY: from `into_raw_parts` of a vector that was filled to `len`, its capacity at
            // least; nobody can have it any more.
            drop(unsafe { KVec::from_raw_parts(slots, len, len) });
        }
    }
}

/// The numbers of possible CPUs are below this.
pub(crate) fn nr_cpus() -> u32 {
    coopvirt_glue_nr_cpu_ids()
}

/// Whether there is such a CPU, or can be.
pub(crate) fn is_possible(cpu: u32) -> bool {
    coopvirt_glue_is_possible(cpu)
}

/// Whether the CPU runs now.
pub(crate) fn is_online(cpu: u32) -> bool {
    coopvirt_glue_is_online(cpu)
}

struct Call<F, R> {
    f: Cell<Option<F>>,
    result: Cell<Option<R>>,
}

extern "C" fn run_call<F: FnOnce() -> R, R>(argument: *mut c_void) {
    // SAFETY: `call_on` passes a `Call` of these types that lives until this returns.
    let call = unsafe { &*argument.cast::<Call<F, R>>() };
    call.result.set(call.f.take().map(|f| f()));
}

/// Runs `f` on another CPU (or this one), with interrupts off, and waits. `None` if it is offline.
/// Not with interrupts off.
pub(crate) fn call_on<R: Send, F: FnOnce() -> R + Send>(cpu: u32, f: F) -> Option<R> {
    let call = Call {
        f: Cell::new(Some(f)),
        result: Cell::new(None),
    };
    let argument: *const Call<F, R> = &call;
    // SAFETY: waits for the other CPU; function and result may cross; only one CPU has them at a time.
    unsafe { coopvirt_glue_call_on(cpu, run_call::<F, R>, argument.cast_mut().cast()) };
    call.result.take()
}

extern "C" fn run_shared<F: Fn()>(argument: *mut c_void) {
    // SAFETY: `call_all` passes a function of this type that lives until all calls have returned.
    let f = unsafe { &*argument.cast::<F>() };
    f();
}

/// Runs `f` on every online CPU at once, with interrupts off, and waits.
pub(crate) fn call_all<F: Fn() + Sync>(f: F) {
    let argument: *const F = &f;
    // SAFETY: waits for all CPUs; they only share it, which its type allows.
    unsafe { coopvirt_glue_call_all(run_shared::<F>, argument.cast_mut().cast()) };
}

/// No CPU comes or goes while `f` runs.
pub(crate) fn with_cpus_locked<R>(f: impl FnOnce() -> R) -> R {
    coopvirt_glue_cpus_lock();
    let result = f();
    // SAFETY: locked above, by this thread.
    unsafe { coopvirt_glue_cpus_unlock() };
    result
}

/// Something of the kernel's that calls us, from `register` to drop.
pub(crate) struct Registration {
    undo: unsafe extern "C" fn(),
}

impl Registration {
    /// CPUs that come and go; calls for those that are there.
    pub(crate) fn hotplug() -> Result<Self> {
        // SAFETY: callable once until undone; each type of registration is owned by one static owner.
        Self::make(
            unsafe { coopvirt_glue_hotplug_register() },
            coopvirt_glue_hotplug_unregister,
        )
    }
    /// The idle driver.
    pub(crate) fn idle() -> Result<Self> {
        // SAFETY: as above.
        Self::make(
            unsafe { coopvirt_glue_idle_register() },
            coopvirt_glue_idle_unregister,
        )
    }
    /// The timers of all CPUs; of CPUs that come later, too.
    pub(crate) fn timer() -> Result<Self> {
        // SAFETY: as above.
        Self::make(
            unsafe { coopvirt_glue_timer_register() },
            coopvirt_glue_timer_unregister,
        )
    }
    /// Interrupts to other CPUs.
    pub(crate) fn ipi() -> Result<Self> {
        // SAFETY: as above.
        Self::make(
            unsafe { coopvirt_glue_ipi_hook() },
            coopvirt_glue_ipi_unhook,
        )
    }
    /// The ends of the kernel.
    pub(crate) fn life() -> Result<Self> {
        // SAFETY: as above.
        Self::make(
            unsafe { coopvirt_glue_life_register() },
            coopvirt_glue_life_unregister,
        )
    }
    /// The files.
    pub(crate) fn debugfs() -> Result<Self> {
        // SAFETY: as above.
        Self::make(
            unsafe { coopvirt_glue_debugfs_register() },
            coopvirt_glue_debugfs_unregister,
        )
    }

    fn make(result: c_int, undo: unsafe extern "C" fn()) -> Result<Self> {
        to_result(result).map(|()| Self { undo })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: registered when this was made, and undone once.
        unsafe { (self.undo)() };
    }
}

/// The name of the idle driver that the kernel has, if it has one.
pub(crate) fn idle_owner() -> Option<&'static CStr> {
    let name = NonNull::new(coopvirt_glue_idle_owner().cast_mut())?;
    // SAFETY: a string of a driver. One that is built in stays; ours is not asked for while it goes.
    Some(unsafe { CStr::from_char_ptr(name.as_ptr().cast()) })
}

/// The idle task's way to wait, inside the idle driver's callback: interrupts off, RCU watching.
///
/// # Invariants
/// Only made by [`IdleTask::from_callback`], so it exists only there.
pub(crate) struct IdleTask(core::marker::PhantomData<*mut ()>);

impl IdleTask {
    /// # Safety
    /// To be called by `coopvirt_rs_idle` only, and dropped before it returns.
    pub(crate) unsafe fn from_callback() -> Self {
        Self(core::marker::PhantomData)
    }

    /// Waits for a task with interrupts on, without halting, as long as `f` says so.
    /// Whether there is a task; interrupts are off again.
    pub(crate) fn poll(&mut self, mut f: impl FnMut() -> bool) -> bool {
        // SAFETY: in the idle task, interrupts off.
        if unsafe { coopvirt_glue_poll_begin() } {
            while coopvirt_glue_poll_goes_on() && f() {}
        }
        // SAFETY: after coopvirt_glue_poll_begin().
        unsafe { coopvirt_glue_poll_end() }
    }

    /// Halts until an interrupt has been handled. Whether there is a task; interrupts are off.
    pub(crate) fn halt(&mut self) -> bool {
        // SAFETY: in the idle task, interrupts off, polling flag off, RCU watching.
        unsafe { coopvirt_glue_halt() }
    }
}

/// Where a debugfs file's text goes.
pub(crate) struct Show(NonNull<SeqFile>);

impl Show {
    /// # Safety
    /// `to` is what the kernel gave to a seq_file callback that has not returned yet.
    pub(crate) unsafe fn new(to: NonNull<SeqFile>) -> Self {
        Self(to)
    }
}

impl fmt::Write for Show {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: valid by the contract of `new`. What does not fit makes the kernel ask again.
        unsafe { coopvirt_glue_show_bytes(self.0.as_ptr(), text.as_ptr(), text.len()) };
        Ok(())
    }
}
