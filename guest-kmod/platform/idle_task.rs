// SPDX-License-Identifier: GPL-2.0
//! The idle task's way to wait, for `idle`.
#![expect(unsafe_code)]
// UNSAFETY: calls C inside the kernel's idle loop.

use core::ffi::CStr;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;

use super::glue::*;

/// The name of the idle driver that the kernel has, if it has one.
pub(crate) fn idle_owner() -> Option<&'static str> {
    let name = NonNull::new(coopvirt_glue_idle_owner().cast_mut())?;
    // SAFETY: a string of a driver. One that is built in stays; ours is not asked for while it goes.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    Some(name.to_str().unwrap_or("without a name"))
}

/// Turns of the polling loop between two looks, if nothing changes.
const TURNS_PER_LOOK: u32 = 64;

/// What a CPU that polls watches between two looks at everything: a word that the host may write, and the time.
///
/// # Invariants
/// `word` is one of this CPU's area, which is there as long as the idle driver is: it goes before the areas
/// (`Module`), and waits for every CPU to leave its wait.
pub(crate) struct Watch {
    pub(super) word: NonNull<AtomicU64>,
    pub(super) seen: u64,
    pub(super) until_tsc: u64,
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

    /// Waits for a task with interrupts on, without halting: watches what it is given, then what each `look` finds, as
    /// long as there is something. Interrupts are off again; [`IdleTask::end`] is to follow.
    pub(crate) fn poll(
        &mut self,
        mut watch: Option<Watch>,
        mut look: impl FnMut(&mut Self) -> Option<Watch>,
    ) {
        // SAFETY: in the idle task, interrupts off.
        unsafe { coopvirt_glue_poll_begin() };
        while let Some(Watch {
            word,
            seen,
            until_tsc,
        }) = watch
        {
            // SAFETY: the word outlives this wait, by the invariant of `Watch`.
            let goes_on =
                unsafe { coopvirt_glue_poll_turns(word.as_ptr(), seen, until_tsc, TURNS_PER_LOOK) };
            watch = goes_on.then(|| look(self)).flatten();
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
