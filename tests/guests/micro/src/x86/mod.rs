//! The machine: what an operating system would do, as little of it as tests need.
//!
//! `entry.s` is all assembly. On top: `port`, `mmio`, `msr`, `cpuid`, `tsc` are instructions;
//! `segments` and `interrupts` catch interrupts and faults; `apic` sends and times interrupts;
//! `start` wakes the other CPUs; `hypercall` is KVM's own; `paging` maps memory above 4 GiB.
#![expect(unsafe_code)]
// UNSAFETY: assembly.

pub mod apic;
pub mod cpuid;
pub mod hypercall;
pub mod interrupts;
pub mod mmio;
pub mod msr;
pub mod paging;
pub mod port;
pub mod segments;
pub mod start;
pub mod tsc;

core::arch::global_asm!(include_str!("entry.s"));

/// Masks every interrupt of the two 8259s, which a machine may leave unmasked.
pub fn mask_pics() {
    const PORTS_DATA: [u16; 2] = [0x21, 0xa1];
    for port in PORTS_DATA {
        port::write_u8(port, 0xff);
    }
}
