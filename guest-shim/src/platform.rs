//! What the shim needs from the place it runs in.

use coopvirt_spec::discover::Registers;
use coopvirt_spec::mem::SharedMem;
use coopvirt_spec::op::IpiArgs;

/// A place that can make marks.
pub trait Platform {
    /// Writes a 32-bit value to the mark port (`[MARK-1]`): one `OUT` instruction.
    fn write_mark_port(&mut self, value: u32);
}

/// The vCPU that a session belongs to.
///
/// All calls are made on that vCPU, by a caller that cannot be moved to another or be interrupted
/// by another call of the same session: preemption off and, for timer and interrupts, interrupts
/// off. Nothing here may sleep.
pub trait Cpu {
    /// The area's memory.
    type Area: SharedMem;

    /// Executes CPUID with ECX zero.
    fn cpuid(&self, leaf: u32) -> Registers;
    /// Reads an MSR; `None` if it faults.
    fn read_msr(&self, msr: u32) -> Option<u64>;
    /// Writes an MSR; `false` if it faults.
    fn write_msr(&self, msr: u32, value: u64) -> bool;
    /// Reads the time stamp counter, not before the loads that precede it.
    fn read_tsc(&self) -> u64;
    /// Writes a 32-bit value to an I/O port.
    fn write_port(&self, port: u16, value: u32);

    /// Memory for the area: physically contiguous, page-aligned, of [`Cpu::area_bytes`].
    fn area(&self) -> &Self::Area;
    /// Where the area's memory lies for the host.
    fn area_gpa(&self) -> u64;
    /// How long the area's memory is.
    fn area_bytes(&self) -> usize;

    /// The stock path of the timer: a write of the TSC-deadline MSR.
    fn write_stock_deadline(&self, deadline_tsc: u64);
    /// The stock path of interrupts: the kernel's own way to send this one.
    fn send_stock_ipi(&self, ipi: &IpiArgs);
}
