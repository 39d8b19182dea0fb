// SPDX-License-Identifier: GPL-2.0
//! Free memory's policy and its two hooks, for as long as they are there.
//!
//! Used by `memory`, and by `callbacks` through it. Holds the one pointer that callbacks in any
//! context reach the policy by.
#![expect(unsafe_code)]
// UNSAFETY: memory that C allocates and reads, and a pointer whose end the kernel's hooks wait for.

use core::ptr::{null_mut, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use guest_shim::memory::{Blocks, Switches};

use crate::flavour::{to_result, Result, EINVAL};
use crate::platform::Values;

// As in glue/coopvirt.h.
unsafe extern "C" {
    safe fn coopvirt_glue_nr_blocks() -> u64;
    fn coopvirt_glue_report_register() -> i32;
    fn coopvirt_glue_report_unregister();
    fn coopvirt_glue_reuse_register(watched: *const AtomicU64, nr_blocks: u64) -> i32;
    fn coopvirt_glue_reuse_unregister();
}

static BLOCKS: AtomicPtr<Blocks<'static>> = AtomicPtr::new(null_mut());

/// Calls `f` with the policy. `None` if there is none.
///
/// Only from callbacks of the two hooks and of the files in debugfs: all of those have ended, and do
/// not begin again, when [`Hooks`] is dropped.
pub(crate) fn with<R>(f: impl FnOnce(&Blocks<'static>) -> R) -> Option<R> {
    let blocks = NonNull::new(BLOCKS.load(Ordering::Acquire))?;
    // SAFETY: whole since before the pointer was stored (release there, acquire here), and alive: see
    // above. Only shared references are ever made.
    Some(f(unsafe { blocks.as_ref() }))
}

/// Policy and hooks, from `register` to drop.
pub(crate) struct Hooks {
    has_report: bool,
    has_reuse: bool,
    blocks: Values<Blocks<'static>>,
    // Behind the policy, which has references to them.
    _words: Values<AtomicU64>,
}

// SAFETY: owns its memory; nothing in it belongs to a thread.
unsafe impl Send for Hooks {}
// SAFETY: has no function that takes a shared reference.
unsafe impl Sync for Hooks {}

impl Hooks {
    /// Makes the policy, then puts the hooks in that its switches need.
    pub(crate) fn register(switches: Switches) -> Result<Self> {
        let nr_blocks = coopvirt_glue_nr_blocks();
        let len = Blocks::words(nr_blocks as usize);
        let words = Values::make(len, |_| Ok(AtomicU64::new(0)))?;
        // SAFETY: they do not move, and outlive the policy: see `drop`. C reads single ones, atomically.
        let all = unsafe { words.as_ptr().as_ref() };
        let blocks = Values::make(1, |_| {
            Blocks::new(nr_blocks as usize, all, switches).ok_or(EINVAL)
        })?;
        let mut hooks = Self {
            has_report: false,
            has_reuse: false,
            blocks,
            _words: words,
        };
        let policy: NonNull<Blocks<'static>> = hooks.blocks.as_ptr().cast();
        // SAFETY: there is one, which lives until `drop`; only shared references are ever made.
        let watched = unsafe { policy.as_ref() }.watched().as_ptr();
        BLOCKS.store(policy.as_ptr(), Ordering::Release);
        if switches.populate {
            // SAFETY: the map has a bit for each block, and outlives the hook: see `drop`.
            to_result(unsafe { coopvirt_glue_reuse_register(watched, nr_blocks) })?;
            hooks.has_reuse = true;
        }
        // SAFETY: not registered: there is one owner of `Hooks`.
        to_result(unsafe { coopvirt_glue_report_register() })?;
        hooks.has_report = true;
        Ok(hooks)
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        // The tracepoints first: they start the work that ahead of use backs, which the other ends.
        if self.has_reuse {
            // SAFETY: registered. Waits for its callbacks.
            unsafe { coopvirt_glue_reuse_unregister() };
        }
        if self.has_report {
            // SAFETY: as above.
            unsafe { coopvirt_glue_report_unregister() };
        }
        // Nobody has a reference any more, see `with`: the policy goes, and after it its words.
        BLOCKS.store(null_mut(), Ordering::Release);
    }
}
