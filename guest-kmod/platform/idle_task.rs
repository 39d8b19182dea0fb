// SPDX-License-Identifier: GPL-2.0
//! The idle task's way to wait, for `idle`.
#![expect(unsafe_code)]
// UNSAFETY: calls C inside the kernel's idle loop.

use core::ffi::CStr;
use core::ptr::NonNull;

use super::glue::*;

/// The name of the idle driver that the kernel has, if it has one.
pub(crate) fn idle_owner() -> Option<&'static str> {
    let name = NonNull::new(coopvirt_glue_idle_owner().cast_mut())?;
    // SAFETY: a string of a driver. One that is built in stays; ours is not asked for while it goes.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    Some(name.to_str().unwrap_or("without a name"))
}

/// The idle task's way to wait, inside the idle driver's callback: interrupts off, polling flag on,
/// RCU watching. One wait: each way takes the flag off, polling by [`IdleTask::end`].
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

    /// Waits for a task with interrupts on, without halting, as long as `f` says so. Interrupts are off again;
    /// [`IdleTask::end`] is to follow.
    pub(crate) fn poll(&mut self, mut f: impl FnMut(&mut Self) -> bool) {
        // SAFETY: in the idle task, interrupts off.
        if unsafe { coopvirt_glue_poll_begin() } {
            while coopvirt_glue_poll_goes_on() && f(self) {}
        }
        // SAFETY: after coopvirt_glue_poll_begin(); whoever called us has interrupts off.
        unsafe { coopvirt_glue_poll_stop() };
    }

    /// Ends polling: whether there is a task. One that comes later interrupts.
    pub(crate) fn end(&mut self) -> bool {
        // SAFETY: in the idle task, interrupts off.
        unsafe { coopvirt_glue_poll_end() }
    }

    /// Makes this CPU one for which [`IdleTask::handle`] works; false if it cannot be. On the CPU; an exit.
    pub(crate) fn prepare_handling() -> bool {
        coopvirt_glue_post_prepare()
    }

    /// Calls the handler of an interrupt as if it had come now.
    pub(crate) fn handle(&mut self, vector: u8) {
        // SAFETY: in the idle task, which holds no lock and has no interrupt in service; whatever
        // vector this is, a device could have raised it here.
        unsafe { coopvirt_glue_post_handle(vector) };
    }

    /// Halts until an interrupt has been handled, or not at all if there is a task already. Whether there
    /// is one; interrupts are off. `port` is asked just before: a doorbell that halts, or none for HLT.
    pub(crate) fn halt(&mut self, port: impl FnOnce() -> Option<u16>) -> bool {
        // SAFETY: in the idle task, interrupts off, RCU watching.
        unsafe {
            coopvirt_glue_halt_begin()
                || coopvirt_glue_halt(port().unwrap_or(0), coopvirt_spec::doorbell::HALT)
        }
    }
}
