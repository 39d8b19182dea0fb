// SPDX-License-Identifier: GPL-2.0
//! Values that belong to a CPU, and code that runs on another one.
#![expect(unsafe_code)]
// UNSAFETY: hands out references by the CPU that asks, and passes closures through C.

use core::cell::{Cell, UnsafeCell};
use core::ffi::{c_ulong, c_void};
use core::ptr::{null_mut, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::glue::*;
use super::Values;
use crate::flavour::Result;

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
/// `slots` is null, or the first of `len` slots of a [`Values::into_raw`].
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
        let slots = Values::make(nr_cpus() as usize, |cpu| {
            Ok(Slot {
                is_busy: Cell::new(false),
                value: UnsafeCell::new(make(cpu as u32)?),
            })
        })?;
        self.len.store(nr_cpus(), Ordering::Relaxed);
        // Release: pairs with the load in `with`; the slots are whole before they are seen.
        let first = slots.into_raw().cast::<Slot<T>>();
        self.slots.store(first.as_ptr(), Ordering::Release);
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
        if let Some(first) = NonNull::new(slots) {
            let len = self.len.load(Ordering::Relaxed) as usize;
            // SAFETY: from `into_raw`, by the invariant; nobody can have a reference any more.
            drop(unsafe { Values::from_raw(NonNull::slice_from_raw_parts(first, len)) });
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
