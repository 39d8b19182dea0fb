// SPDX-License-Identifier: GPL-2.0
//! The idle driver: how a CPU waits for work.

use kernel::prelude::*;

use crate::platform::{self, IdleTask, KernelCpu, Registration};

/// What is kept for each CPU.
pub(crate) struct IdleCpu {}

impl IdleCpu {
    pub(crate) const fn new() -> Self {
        Self {}
    }

    /// The CPU has an area now.
    pub(crate) fn start(&mut self, _cpu: &KernelCpu) {}

    /// The CPU is about to lose its area.
    pub(crate) fn stop(&mut self, _cpu: &KernelCpu) {}
}

/// Waits: called by the idle task when there is nothing to run.
pub(crate) fn wait(mut task: IdleTask, _until_timer_ns: i64) {
    let end = platform::read_tsc() + u64::from(platform::tsc_khz()) / 100;
    if !task.poll(|| platform::read_tsc() < end) {
        task.halt();
    }
}

/// The driver, while it is registered.
pub(crate) struct Idle {
    _registration: Registration,
}

impl Idle {
    /// Takes the kernel's idle slot, if it is free.
    pub(crate) fn register() -> Result<Self> {
        match Registration::idle() {
            Ok(registration) => Ok(Self { _registration: registration }),
            Err(error) => {
                match platform::idle_owner() {
                    Some(name) => pr_warn!("idle is off: the kernel's idle driver is {:?}\n", name),
                    None => pr_warn!("idle is off: the kernel takes no idle driver ({:?})\n", error),
                }
                Err(error)
            }
        }
    }
}
