//! The guest that goes through each door: position-independent machine code in long mode.
//!
//! For each door that its parameters name, it doubles the number of iterations until one block of
//! them takes long enough by its own TSC, then times so many blocks between two marks, and writes
//! the cycles of each to memory, where [`super::run`] reads them at the end. Interrupts are off but
//! at the HLT. Sources: AMD APM volume 2, Intel SDM volume 3; `spec/SPEC.md` for the ring.
#![expect(unsafe_code)]
// UNSAFETY: an assembler block, and its bytes seen as a slice between two linker symbols.

use std::arch::global_asm;

use coopvirt_spec::page::{at, AreaLayout};
use coopvirt_spec::version::Features;
use coopvirt_spec::{doorbell, mark, setup};

use crate::code_guest::{code_between, timed_halt, timer_handler, timer_set_up};

/// Where it writes down facts: TSC frequency in kHz, status of features and of area.
pub const FACTS: u64 = 0x20_0000;
/// Where the doors' results begin, a page each: iterations per block, one once it is done, then at
/// [`SAMPLES_OFFSET`] the cycles of each block.
pub const RESULTS: u64 = 0x20_1000;
/// Bytes of one door's results: within one page, so that no first touch lies between marks.
pub const RESULT_BYTES: u64 = 4096;
/// Where in a door's results its samples begin.
pub const SAMPLES_OFFSET: u64 = 64;
/// Most blocks that a door's results hold.
pub const MAX_BLOCKS: u64 = (RESULT_BYTES - SAMPLES_OFFSET) / 8;
/// Memory that the guest needs.
pub const MEMORY_BYTES: u64 = 4 << 20;
/// How far ahead the HLT door sets its timer: long enough to halt before it, on hardware.
pub const HALT_CYCLES: u64 = 200_000;
/// Work code of the marks of door 0; the others follow.
pub const FIRST_WORK: u8 = 0xa0;
/// Exit code of a guest that the interface refused or served wrongly.
pub const REFUSED: u8 = 3;

/// Doors in the guest's table.
pub const NR_DOORS: u64 = 16;

const AREA: u64 = 0x30_0000;
const LAYOUT: AreaLayout = AreaLayout::DEFAULT;

/// What the guest is told.
#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    /// Whether the CPU's hypercall is VMMCALL.
    pub is_amd: bool,
    /// Iterations per block to begin with.
    pub iterations: u64,
    /// Iterations are doubled until a block takes so many cycles; 0: they stay.
    pub block_cycles: u64,
    /// Blocks to time, at most [`MAX_BLOCKS`].
    pub blocks: u64,
    /// Which doors, a bit for each index.
    pub doors: u64,
    /// What to negotiate before registering an area.
    pub features: u64,
}

impl Parameters {
    /// As they lie in guest memory.
    pub fn to_bytes(self) -> Vec<u8> {
        let words = [
            u64::from(self.is_amd),
            self.iterations,
            self.block_cycles,
            self.blocks.min(MAX_BLOCKS),
            self.doors,
            self.features,
        ];
        words.map(u64::to_le_bytes).concat()
    }
}

// `Parameters` lie at 0x8000; 0x8040 holds the submission tail. Driver's registers: r8 = work << 16,
// rbp = results, r12 = blocks done, r13 = iterations, r14 = door, r15 = iterations left (the door
// counts it down). A door may use all others.
global_asm!(
    r##"
    .pushsection .rodata.coopvirt_doors, "a"
    .balign 16
    .global coopvirt_doors_start
    .global coopvirt_doors_end
    .macro DOOR name, body
    \name:
    50: \body
        dec r15
        jnz 50b
        ret
    .endm
    .macro CYCLES
        lfence
        rdtsc
        shl rdx, 32
        or rax, rdx
    .endm
    .macro END_GUEST code
        mov al, \code
        mov edx, 0xf4
        out dx, al
    59: jmp 59b
    .endm

coopvirt_doors_start:
    mov rsp, 0x7000
    mov rbp, {FACTS}
    xor ecx, ecx
    mov eax, 0x15
    cpuid
    mov [rbp], rbx

    "##,
    timer_set_up!("doors_interrupt"),
    r##"
    # Features, then the area; the memory is fresh, hence zero [REG-5].
    mov ecx, {FEATURES_MSR}
    mov eax, [0x8028]
    mov edx, [0x802c]
    wrmsr
    mov ecx, {STATUS_MSR}
    rdmsr
    mov [rbp + 8], rax
    cmp ax, 1
    jne doors_refused
    mov ecx, {AREA_MSR}
    mov eax, {AREA} + 1
    xor edx, edx
    wrmsr
    mov ecx, {STATUS_MSR}
    rdmsr
    mov [rbp + 16], rax
    cmp ax, 1
    jne doors_refused

    # Where the host may poll, until it does, at most 500,000,000 cycles: it needs some time to start.
    test dword ptr [0x8028], {SIDECORE}
    jz 58f
    mov r10d, {AREA}
    CYCLES
    lea rbx, [rax + 500000000]
57: CYCLES
    cmp rax, rbx
    ja 58f
    cmp rax, [r10 + {LEASE}]
    jae 57b
58:
    xor ebx, ebx
60: bt qword ptr [0x8020], rbx
    jnc 61f
    push rbx
    lea rax, [rip + doors_table]
    movsxd r14, dword ptr [rax + rbx * 4]
    add r14, rax
    lea r8d, [rbx + {FIRST_WORK}]
    shl r8d, 16
    mov rbp, rbx
    shl rbp, 12
    add rbp, {RESULTS}
    call doors_measure
    pop rbx
61: inc ebx
    cmp ebx, {NR_DOORS}
    jb 60b
    END_GUEST 0
doors_refused:
    END_GUEST {REFUSED}

doors_measure:
    mov r13, [0x8008]
62: call doors_block
    cmp rax, [0x8010]
    jae 63f
    shl r13, 1
    jmp 62b
63: mov [rbp], r13
    xor r12d, r12d
    mov eax, r8d
    or eax, 1 << 24
    mov edx, {MARK_PORT}
    out dx, eax
64: call doors_block
    mov [rbp + r12 * 8 + 64], rax
    inc r12
    cmp r12, [0x8018]
    jb 64b
    mov eax, r8d
    or eax, 2 << 24
    mov edx, {MARK_PORT}
    out dx, eax
    mov qword ptr [rbp + 8], 1
    ret

# Goes r13 times through the door; rax = cycles.
doors_block:
    mov r15, r13
    CYCLES
    push rax
    call r14
    CYCLES
    pop rdx
    sub rax, rdx
    ret

    .balign 16
    DOOR doors_empty, ""
    .balign 16
    DOOR doors_port, "mov edx, 0x0d00; mov al, 1; out dx, al"
    DOOR doors_ioeventfd, "mov edx, {ASYNC_PORT}; xor eax, eax; out dx, eax"
    DOOR doors_mmio, "mov ebx, 0xd0000000; mov dword ptr [rbx], 1"
    DOOR doors_rdmsr, "mov ecx, 0x1b; rdmsr"
    DOOR doors_wrmsr, "mov ecx, 0x6e0; xor eax, eax; xor edx, edx; wrmsr"
    DOOR doors_wrmsr_user, "mov ecx, {MARK_MSR}; xor eax, eax; xor edx, edx; wrmsr"
    DOOR doors_vmcall, "mov eax, 0xffff; vmcall"
    DOOR doors_vmmcall, "mov eax, 0xffff; vmmcall"
    DOOR doors_cpuid, "xor eax, eax; cpuid"
    "##,
    concat!("DOOR doors_halt, \"", timed_halt!("{HALT_CYCLES}"), "\""),
    r##"
doors_hypercall:
    cmp qword ptr [0x8000], 0
    jne doors_vmmcall
    jmp doors_vmcall

    # One iteration: write `batch` submissions, publish them together, have them served, check and
    # release the completions. esi counts, r11d is the tail, r10 the area.
    .macro RING name, batch, wait
    \name:
        mov r10d, {AREA}
        mov r11d, [0x8040]
    51: mov esi, \batch
    52: mov eax, r11d
        and eax, {RING_MASK}
        shl eax, 6
        lea rdi, [r10 + rax + {SUBMISSIONS}]
        mov qword ptr [rdi], 1
        mov qword ptr [rdi + 8], r11
        mov qword ptr [rdi + 16], 0
        mov qword ptr [rdi + 24], 0
        mov qword ptr [rdi + 32], 0
        mov qword ptr [rdi + 40], 0
        mov qword ptr [rdi + 48], 0
        mov qword ptr [rdi + 56], 0
        inc r11d
        dec esi
        jnz 52b
        mov dword ptr [r10 + {SUBMISSION_TAIL}], r11d
        \wait
        mov esi, \batch
        mov ebx, r11d
        sub ebx, esi
    55: mov eax, ebx
        and eax, {RING_MASK}
        shl eax, 5
        cmp dword ptr [r10 + rax + {COMPLETIONS} + 8], 1
        jne doors_refused
        inc ebx
        dec esi
        jnz 55b
        mov dword ptr [r10 + {COMPLETION_HEAD}], r11d
        dec r15
        jnz 51b
        mov [0x8040], r11d
        ret
    .endm
    # The doorbell returns when all is done [BELL-3], or rings again.
    .macro RING_SYNC name, batch
    RING \name, \batch, "53: mov edx, {SYNC_PORT}; xor eax, eax; out dx, eax; cmp dword ptr [r10 + {COMPLETION_TAIL}], r11d; jne 53b"
    .endm
    # Waits while the lease is held [LEASE-3], else rings. No PAUSE: many of them exit.
    .macro RING_POLLED name, batch
    RING \name, \batch, "mfence; 53: cmp dword ptr [r10 + {COMPLETION_TAIL}], r11d; je 54f; rdtsc; shl rdx, 32; or rax, rdx; cmp rax, [r10 + {LEASE}]; jb 53b; mov edx, {SYNC_PORT}; xor eax, eax; out dx, eax; jmp 53b; 54:"
    .endm
    RING_SYNC doors_ring_1, 1
    RING_SYNC doors_ring_8, 8
    RING_SYNC doors_ring_32, 32
    RING_POLLED doors_polled_1, 1
    RING_POLLED doors_polled_8, 8
    RING_POLLED doors_polled_32, 32

    .balign 4
doors_table:
    .long doors_empty - doors_table
    .long doors_port - doors_table
    .long doors_ioeventfd - doors_table
    .long doors_mmio - doors_table
    .long doors_rdmsr - doors_table
    .long doors_wrmsr - doors_table
    .long doors_wrmsr_user - doors_table
    .long doors_hypercall - doors_table
    .long doors_cpuid - doors_table
    .long doors_halt - doors_table
    .long doors_ring_1 - doors_table
    .long doors_ring_8 - doors_table
    .long doors_ring_32 - doors_table
    .long doors_polled_1 - doors_table
    .long doors_polled_8 - doors_table
    .long doors_polled_32 - doors_table

    "##,
    timer_handler!("doors_interrupt", "{HALT_CYCLES}"),
    r##"
coopvirt_doors_end:
    .popsection
    "##,
    NR_DOORS = const NR_DOORS,
    FACTS = const FACTS,
    RESULTS = const RESULTS,
    AREA = const AREA,
    FIRST_WORK = const FIRST_WORK,
    REFUSED = const REFUSED,
    HALT_CYCLES = const HALT_CYCLES,
    FEATURES_MSR = const setup::FEATURES_MSR,
    AREA_MSR = const setup::AREA_MSR,
    STATUS_MSR = const setup::STATUS_MSR,
    MARK_PORT = const mark::MARK_PORT,
    MARK_MSR = const mark::MARK_MSR,
    ASYNC_PORT = const doorbell::ASYNC_PORT,
    SYNC_PORT = const doorbell::SYNC_PORT,
    RING_MASK = const LAYOUT.ring_entries() - 1,
    SUBMISSIONS = const LAYOUT.submissions().entries,
    COMPLETIONS = const LAYOUT.completions().entries,
    SUBMISSION_TAIL = const at::SUBMISSION_TAIL,
    COMPLETION_TAIL = const at::COMPLETION_TAIL,
    COMPLETION_HEAD = const at::COMPLETION_HEAD,
    LEASE = const at::LEASE,
    SIDECORE = const Features::SIDECORE.0,
);

code_between!(coopvirt_doors_start, coopvirt_doors_end);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_small_and_ends_with_a_return_from_interrupt() {
        let code = code();
        assert!(code.len() > 400 && code.len() < 4096, "{}", code.len());
        assert!(code.ends_with(&[0x48, 0xcf]));
    }

    #[test]
    fn what_the_guest_writes_stays_in_its_places() {
        const { assert!(RESULTS + NR_DOORS * RESULT_BYTES <= AREA) };
        const { assert!(AREA + LAYOUT.area_bytes() as u64 <= MEMORY_BYTES) };
        let parameters = Parameters {
            is_amd: true,
            iterations: 7,
            block_cycles: 0,
            blocks: u64::MAX,
            doors: 1,
            features: 1,
        };
        let bytes = parameters.to_bytes();
        assert_eq!((bytes.len(), bytes[8]), (48, 7));
        assert_eq!(bytes[24..32], MAX_BLOCKS.to_le_bytes());
    }
}
