// SPDX-License-Identifier: GPL-2.0
//! The kernel as the shim's platform, and the glue as safe functions.
//!
//! Everything that is unsafe in this module is here and in `platform/`: instructions, shared memory,
//! per-CPU data, calls on other CPUs. Callers are all other files; nothing here decides anything.
#![expect(unsafe_code)]
// UNSAFETY: talks to C, executes instructions, shares memory with the host and between CPUs.

mod area;
mod cpus;
mod glue;
mod idle_task;
mod registration;
mod show;
mod values;

use core::arch::asm;
use core::sync::atomic::{fence, Ordering};

use coopvirt_spec::discover::Registers;
use coopvirt_spec::op::IpiArgs;
use guest_shim::{Cpu, Platform};

pub(crate) use self::area::Area;
pub(crate) use self::cpus::*;
use self::glue::*;
pub(crate) use self::glue::{RawParams, SeqFile};
pub(crate) use self::idle_task::{idle_owner, IdleTask, Watch};
pub(crate) use self::registration::Registration;
pub(crate) use self::show::Show;
pub(crate) use self::values::Values;
use crate::flavour::pr_warn;

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

/// How long it is until then by the kernel's clock, in nanoseconds. `i64::MAX` is never.
pub(crate) fn ns_until(time_ns: i64) -> i64 {
    coopvirt_glue_ns_until(time_ns)
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
        self.area.gpa()
    }
    fn area_bytes(&self) -> usize {
        self.area.len_bytes()
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
