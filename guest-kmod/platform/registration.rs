// SPDX-License-Identifier: GPL-2.0
//! What the kernel calls us by, and the guarantee that it stops.
#![expect(unsafe_code)]
// UNSAFETY: registers and unregisters functions of C.

use core::ffi::c_int;

use super::glue::*;
use crate::flavour::{to_result, Result};

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
