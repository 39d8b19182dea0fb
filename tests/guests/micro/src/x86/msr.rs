//! Model-specific registers, also such as may not be there.
#![expect(unsafe_code)]
// UNSAFETY: RDMSR and WRMSR are instructions; a write can change what memory accesses mean. This
// guest has the machine for itself. #GP is caught by the fixup that each access registers.

use core::arch::asm;

/// The access raised #GP: no such register, or no such value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// Reads a register that may not be there.
pub fn try_read(index: u32) -> Result<u64, Fault> {
    let (low, high, fault): (u32, u32, u32);
    // SAFETY: touches no memory of this program. After a fault the handler goes on at label 3,
    // with all registers as they were.
    unsafe {
        asm!("mov {fault:e}, 1",
            "2: rdmsr",
            "mov {fault:e}, 0",
            "3:",
            ".pushsection .fixups, \"a\"", ".quad 2b, 3b", ".popsection",
            fault = out(reg) fault, in("ecx") index, out("eax") low, out("edx") high,
            options(nostack));
    }
    match fault {
        0 => Ok(u64::from(high) << 32 | u64::from(low)),
        _ => Err(Fault),
    }
}

/// Writes a register that may not be there.
pub fn try_write(index: u32, value: u64) -> Result<(), Fault> {
    let (low, high) = (value & 0xffff_ffff, value >> 32);
    let fault: u32;
    // SAFETY: as above; which register may be written is the caller's decision.
    unsafe {
        asm!("mov {fault:e}, 1",
            "2: wrmsr",
            "mov {fault:e}, 0",
            "3:",
            ".pushsection .fixups, \"a\"", ".quad 2b, 3b", ".popsection",
            fault = out(reg) fault, in("ecx") index, in("rax") low, in("rdx") high,
            options(nostack));
    }
    match fault {
        0 => Ok(()),
        _ => Err(Fault),
    }
}

/// Reads a register that every machine has.
#[track_caller]
pub fn read(index: u32) -> u64 {
    try_read(index).unwrap_or_else(|Fault| panic!("MSR {index:#x} cannot be read"))
}

/// Writes a register that every machine has.
#[track_caller]
pub fn write(index: u32, value: u64) {
    try_write(index, value)
        .unwrap_or_else(|Fault| panic!("MSR {index:#x} does not take {value:#x}"));
}
