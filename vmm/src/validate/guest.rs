//! The validation guest: long-mode code that causes exactly N exits of one kind between two marks.
//!
//! It is position-independent machine code, copied to guest memory and entered in 64-bit mode with
//! identity-mapped pages. Each kind runs once before its begin mark, so that no first-touch fault
//! of its own code or page lies between the marks. Sources: AMD APM volume 2 (SVM), Intel SDM
//! volume 3 (VMX, x2APIC), for what each instruction exits on.
#![expect(unsafe_code)]
// UNSAFETY: an assembler block, and its bytes seen as a slice between two linker symbols.

use std::arch::global_asm;

/// Where the guest is loaded and starts.
pub const LOAD_ADDRESS: u64 = 0x10_0000;
/// Where it finds its parameters: count (u64), hypercall (u64, 0 VMCALL, 1 VMMCALL).
pub const PARAMETERS: u64 = 0x8000;
/// Fresh memory for the first-touch kind.
pub const TOUCH_ADDRESS: u64 = 0x0400_0000;
/// Guest memory the guest needs for `count` first touches.
pub const fn memory_bytes(count: u64) -> u64 {
    let wanted = TOUCH_ADDRESS + (count + 16) * 4096;
    wanted.next_multiple_of(2 << 20)
}

// Registers kept throughout: r12 = count, r13 = sequence number of the mark, r14 = hypercall kind.
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

    # HLT with wake-up: an IDT with one gate, x2APIC on, the timer in TSC-deadline mode.
    lea rax, [rip + 9f]
    mov rbx, 0x6000
    mov word ptr [rbx + 0x40 * 16], ax
    mov word ptr [rbx + 0x40 * 16 + 2], 0x10
    mov word ptr [rbx + 0x40 * 16 + 4], 0x8e00
    shr rax, 16
    mov word ptr [rbx + 0x40 * 16 + 6], ax
    mov qword ptr [rbx + 0x40 * 16 + 8], 0
    mov word ptr [0x5ff0], 0x40 * 16 + 15
    mov qword ptr [0x5ff2], rbx
    lidt [0x5ff0]
    mov ecx, 0x1b
    rdmsr
    or eax, 0xc00
    wrmsr
    xor edx, edx
    mov ecx, 0x80f
    mov eax, 0x1ff
    wrmsr
    mov ecx, 0x832
    mov eax, 0x40040
    wrmsr
    # Each HLT is entered with its timer armed and interrupts off until the instruction before it:
    # whenever the timer fires, HLT exits first and the pending interrupt then wakes it.
    MEASURE 0x8d, "rdtsc; shl rdx, 32; or rax, rdx; add rax, 200000; mov rdx, rax; shr rdx, 32; mov ecx, 0x6e0; wrmsr; sti; hlt; cli"

    mov al, 0
    mov edx, 0xf4
    out dx, al
1:  jmp 1b

    .balign 16
9:  push rax
    push rcx
    push rdx
    # Before its HLT and not in it: on hardware the STI shadow rules this out, but an emulator may
    # forget the shadow when it leaves the guest there. The HLT to come needs a timer of its own.
    mov rax, [rsp + 24]
    cmp byte ptr [rax], 0xf4
    jne 8f
    rdtsc
    add eax, 200000
    adc edx, 0
    mov ecx, 0x6e0
    wrmsr
8:  mov ecx, 0x80b
    xor eax, eax
    xor edx, edx
    wrmsr
    pop rdx
    pop rcx
    pop rax
    iretq
coopvirt_validate_end:
    .popsection
    "##
);

unsafe extern "C" {
    static coopvirt_validate_start: u8;
    static coopvirt_validate_end: u8;
}

/// The guest's machine code.
pub fn code() -> &'static [u8] {
    let start = &raw const coopvirt_validate_start;
    let end = &raw const coopvirt_validate_end;
    let len = end as usize - start as usize;
    // SAFETY: both symbols bound one read-only section of this program, start before end, made by
    // the assembler block above; it lives as long as the program.
    unsafe { std::slice::from_raw_parts(start, len) }
}

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
