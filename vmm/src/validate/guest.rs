//! The validation guest: long-mode code that causes exactly N exits of one kind between two marks.
//!
//! It is position-independent machine code, copied to guest memory and entered in 64-bit mode with
//! identity-mapped pages. Each kind runs once before its begin mark, so that no first-touch fault
//! of its own code or page lies between the marks. Sources: AMD APM volume 2 (SVM), Intel SDM
//! volume 3 (VMX, x2APIC), for what each instruction exits on.
#![expect(unsafe_code)]
// UNSAFETY: an assembler block, and its bytes seen as a slice between two linker symbols.

use std::arch::global_asm;

use crate::code_guest::{code_between, timed_halt, timer_handler, timer_set_up};

/// Fresh memory for the first-touch kind.
pub const TOUCH_ADDRESS: u64 = 0x0400_0000;
/// Guest memory the guest needs for `count` first touches.
pub const fn memory_bytes(count: u64) -> u64 {
    let wanted = TOUCH_ADDRESS + (count + 16) * 4096;
    wanted.next_multiple_of(2 << 20)
}

// Parameters: count (u64), hypercall (u64, 0 VMCALL, 1 VMMCALL). Registers kept throughout: r12 = count, r13 = sequence number of the mark, r14 = hypercall kind.
// A mark is `kind << 24 | work << 16 | sequence`; this guest's works are 0x80 + kind.
global_asm!(
    r##"
    .pushsection .rodata.coopvirt_validate, "a"
    .balign 16
    .global coopvirt_validate_start
    .global coopvirt_validate_end
    .macro MARK kind, work
        mov eax, (\kind << 24) | (\work << 16)
        mov edx, 0x0d0c
        out dx, eax
    .endm
    # Runs the instructions once unmeasured, then r12 times between two marks.
    .macro MEASURE work, body
        mov r15, 1
    50: \body
        dec r15
        jnz 50b
        MARK 1, \work
        mov r15, r12
    51: \body
        dec r15
        jnz 51b
        MARK 2, \work
    .endm

coopvirt_validate_start:
    mov rsp, 0x7000
    mov r12, [0x8000]
    mov r14, [0x8008]

    # The empty phase: nothing may be counted in it.
    MARK 1, 0x80
    MARK 2, 0x80

    MEASURE 0x81, "xor eax, eax; cpuid"
    MEASURE 0x82, "mov edx, 0x0d00; mov al, 1; out dx, al"
    MEASURE 0x83, "mov edx, 0x0d00; in al, dx"
    MEASURE 0x84, "mov edx, 0x21; mov al, 0xff; out dx, al"
    MEASURE 0x85, "mov ebx, 0xd0000000; mov dword ptr [rbx], 1"
    MEASURE 0x86, "mov ebx, 0xd0000000; mov eax, [rbx]"
    MEASURE 0x87, "mov ecx, 0x1b; rdmsr"
    MEASURE 0x88, "mov ecx, 0x6e0; xor eax, eax; xor edx, edx; wrmsr"
    MEASURE 0x89, "mov ecx, 0x43560000; xor eax, eax; xor edx, edx; wrmsr"
    MEASURE 0x8a, "mov ecx, 0x43560000; rdmsr"

    test r14, r14
    jz 2f
    MEASURE 0x8b, "mov eax, 0xffff; vmmcall"
    jmp 3f
2:  MEASURE 0x8b, "mov eax, 0xffff; vmcall"
3:
    # First touch: one write to each of r12 pages.
    mov rbx, 0x04000000
    MARK 1, 0x8c
    mov r15, r12
4:  mov qword ptr [rbx], 1
    add rbx, 4096
    dec r15
    jnz 4b
    MARK 2, 0x8c

    # HLT with wake-up.
    "##,
    timer_set_up!("validate_interrupt"),
    concat!("MEASURE 0x8d, \"", timed_halt!("200000"), "\""),
    r##"
    mov al, 0
    mov edx, 0xf4
    out dx, al
1:  jmp 1b

    "##,
    timer_handler!("validate_interrupt", "200000"),
    r##"
coopvirt_validate_end:
    .popsection
    "##
);

code_between!(coopvirt_validate_start, coopvirt_validate_end);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_small_and_ends_with_a_return_from_interrupt() {
        let code = code();
        assert!(code.len() > 200 && code.len() < 4096, "{}", code.len());
        assert!(code.ends_with(&[0x48, 0xcf]));
    }
}
