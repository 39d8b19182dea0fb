// SPDX-License-Identifier: GPL-2.0
//! The timer hook: deadlines by a word in the area in place of an MSR (`[TIMER-2]`, `[TIMER-3]`).
//!
//! Called by the clock event device of each CPU, with interrupts off. Whatever happens, the kernel
//! has set its timer when these functions return: by the word, or by the stock write.

use core::sync::atomic::{AtomicBool, Ordering};

use coopvirt_spec::discover::Offer;
use coopvirt_spec::version::Features;
use guest_shim::lateness::Lateness;

use crate::cpus::{self, ThisCpu};
use crate::flavour::{pr_info, pr_warn, Result, EINVAL, ENODEV};
use crate::platform::{self, Registration};

/// A deadline that is overdue by more than this, with no interrupt on its way, is lost. A busy host
/// is late by tens of milliseconds at times; the interface allows ten (`[LEASE-6]`).
const LOST_AFTER_US: u64 = 1_000_000;

/// What is kept for each CPU.
pub(crate) struct TimerCpu {
    pub(crate) lateness: Lateness,
}

impl TimerCpu {
    pub(crate) fn new() -> Self {
        let lost_after_tsc = platform::tsc_steps_per_us() * LOST_AFTER_US;
        Self {
            lateness: Lateness::new(lost_after_tsc),
        }
    }
}

/// Whether deadlines are words: set while all CPUs' timers are hooked.
static IS_HOOKED: AtomicBool = AtomicBool::new(false);

/// Whether setting a deadline is no exit.
pub(crate) fn is_hooked() -> bool {
    IS_HOOKED.load(Ordering::Relaxed)
}

/// The kernel waits for this time, zero for none.
pub(crate) fn set_deadline(deadline_tsc: u64) {
    let is_set = cpus::with_this(|cpu| {
        rescue(cpu, platform::read_tsc());
        cpu.timer.lateness.set(deadline_tsc);
        let grace_tsc = cpu.idle.grace(deadline_tsc);
        cpu.session.set_deadline_by(deadline_tsc, grace_tsc);
    });
    if is_set.is_none() {
        platform::write_deadline(deadline_tsc);
    }
}

/// The timer interrupt has come; the kernel's handler runs next.
pub(crate) fn interrupt() {
    let _ = cpus::with_this(|cpu| {
        cpu.timer.lateness.interrupt(platform::read_tsc());
        cpu.session.timer_interrupt();
    });
}

/// The kernel's handler has run.
pub(crate) fn handled() {
    let _ = cpus::with_this(|cpu| cpu.session.timer_handled());
}

/// A deadline whose interrupt never came is made up for, at once, by the stock timer: the kernel
/// sees that it is late. Called where the CPU comes by anyway.
pub(crate) fn rescue(cpu: &mut ThisCpu, now_tsc: u64) {
    if cpu
        .timer
        .lateness
        .is_lost(now_tsc, platform::is_timer_pending)
    {
        cpu.session.write_stock_deadline(now_tsc);
    }
}

/// The hook, while it is in.
pub(crate) struct Timer {
    _registration: Registration,
}

impl Timer {
    /// Hooks the timer of every CPU, or none.
    pub(crate) fn register(offer: &Offer) -> Result<Self> {
        if !offer.features.contains(Features::TIMER) {
            pr_info!("timer is off: the host does not offer it\n");
            return Err(ENODEV);
        }
        match Registration::timer() {
            Ok(registration) => {
                IS_HOOKED.store(true, Ordering::Relaxed);
                Ok(Self {
                    _registration: registration,
                })
            }
            Err(error) => {
                if error == EINVAL {
                    pr_warn!("timer is off: the time stamp counter is not to be trusted\n");
                } else {
                    pr_warn!("timer is off: a CPU's clock event device is not lapic-deadline\n");
                }
                Err(error)
            }
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        IS_HOOKED.store(false, Ordering::Relaxed);
    }
}
