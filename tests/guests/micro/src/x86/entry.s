# All that cannot be Rust: the two entries, the interrupt stubs and the compiler's memory functions.
# Included by x86/mod.rs. Sources: PVH (Xen public/arch-x86/hvm/start_info.h), AMD APM volume 2 chapters 4, 8 and 14.

# --- The PVH note: "the 32-bit entry is pvh_start" (XEN_ELFNOTE_PHYS32_ENTRY). ---
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad pvh_start

# --- Shared by both entries. ---
# From 32-bit protected mode without paging to 64-bit mode. SSE is switched on here, on every CPU, before any Rust
# code runs: that code uses it. Clobbers eax, ecx, edx.
    .macro enter_long_mode target
    mov eax, cr4
    or eax, 0x620               # PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov eax, offset page_map
    mov cr3, eax
    mov ecx, 0xc0000080         # EFER
    rdmsr
    or eax, 0x100               # LME
    wrmsr
    mov eax, cr0
    and eax, 0x9ffffff3         # not EM, TS; caches on
    or eax, 0x80010023          # PG, WP, NE, MP, PE
    mov cr0, eax
    .byte 0xea                  # jmp 0x08:target
    .long \target
    .word 0x08
    .endm

# --- The first CPU's entry: 32-bit protected mode, flat, EBX = start info. ---
    .section .text.entry, "ax"
    .code32
    .global pvh_start
pvh_start:
    cli
    cld
    mov edi, offset bss_start
    mov ecx, offset bss_end
    sub ecx, edi
    xor eax, eax
    rep stosb
    # 4 GiB one to one: 4 directories of 512 pages of 2 MiB each. Present, writable, large.
    xor ecx, ecx
1:  mov eax, ecx
    shl eax, 21
    or eax, 0x83
    mov dword ptr [page_directories + ecx * 8], eax
    inc ecx
    cmp ecx, 2048
    jb 1b
    xor ecx, ecx
2:  mov eax, ecx
    shl eax, 12
    add eax, offset page_directories
    or eax, 3
    mov dword ptr [page_pointers + ecx * 8], eax
    inc ecx
    cmp ecx, 4
    jb 2b
    mov eax, offset page_pointers
    or eax, 3
    mov dword ptr [page_map], eax
    lgdt [boot_gdt_pointer]
    enter_long_mode pvh_long

    .code64
pvh_long:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov rsp, offset boot_stack_end
    mov edi, ebx
    xor ebp, ebp
    call micro_main
    ud2

# --- The other CPUs' entry: 16-bit real mode in a copy of this below 1 MiB (x86/start.rs). ---
    .section .rodata.trampoline, "a"
    .code16
    .global trampoline_start
    .global trampoline_end
trampoline_start:
    cli
    cld
    mov ax, cs
    mov ds, ax
    .byte 0x66, 0x0f, 0x01, 0x16  # lgdt with a 32-bit base, at this offset in the segment
    .word trampoline_gdt_pointer - trampoline_start
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea            # jmp 0x18:ap_start32
    .long ap_start32
    .word 0x18
    .balign 4
trampoline_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt
trampoline_end:

    .section .text.entry, "ax"
    .code32
ap_start32:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    enter_long_mode ap_long

    .code64
ap_long:
    xor eax, eax
    mov fs, eax
    mov gs, eax
    # The first CPU starts the others one at a time, and says here which one this is.
    mov rsp, qword ptr [ap_stack_end]
    mov edi, dword ptr [ap_index]
    xor ebp, ebp
    call micro_ap_main
    ud2

    .section .data.entry, "aw"
    .balign 8
    .global ap_stack_end
ap_stack_end:
    .quad 0
    .global ap_index
ap_index:
    .long 0
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 0x08: 64-bit code
    .quad 0x00cf93000000ffff    # 0x10: data
    .quad 0x00cf9b000000ffff    # 0x18: 32-bit code
boot_gdt_end:
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt

# --- 256 interrupt stubs of 16 bytes each: error code (or zero), vector, common part. ---
    .section .text.entry, "ax"
    .balign 16
    .global interrupt_stubs
interrupt_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if !((vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30))
    .byte 0x6a, 0               # push 0
    .endif
    .byte 0x68                  # push vector
    .long vector
    jmp interrupt_common
    .set vector, vector + 1
    .endr

# The stack is one of the interrupt stack table (x86/segments.rs), so the interrupted code's red zone stays as it is.
# It was aligned to 16 bytes before 7 words by CPU and stub and 15 words here: aligned again.
    .balign 16
interrupt_common:
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    sub rsp, 512
    fxsave64 [rsp]
    cld
    call micro_interrupt
    fxrstor64 [rsp]
    add rsp, 512
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16
    iretq

# --- What the compiler calls by itself. Not in Rust: there the compiler may turn a loop into a call of itself. ---
    .section .text.memory, "ax"
    .global memcpy
memcpy:
    mov rax, rdi
    mov rcx, rdx
    rep movsb
    ret

    .global memmove
memmove:
    mov rax, rdi
    mov rcx, rdx
    mov r8, rdi
    sub r8, rsi
    cmp r8, rdx
    jb 1f                       # the target begins inside the source
    rep movsb
    ret
1:  lea rsi, [rsi + rcx - 1]
    lea rdi, [rdi + rcx - 1]
    std
    rep movsb
    cld
    ret

    .global memset
memset:
    mov r8, rdi
    mov eax, esi
    mov rcx, rdx
    rep stosb
    mov rax, r8
    ret

    .global memcmp
    .global bcmp
memcmp:
bcmp:
    xor eax, eax
    mov rcx, rdx
    test rcx, rcx
    jz 2f
1:  movzx eax, byte ptr [rdi]
    movzx edx, byte ptr [rsi]
    sub eax, edx
    jnz 2f
    inc rdi
    inc rsi
    dec rcx
    jnz 1b
2:  ret

# --- Memory without content: page tables, the first CPU's stack. ---
    .section .bss.entry, "aw", @nobits
    .balign 4096
    .global page_map
page_map:
    .skip 4096
    .global page_pointers
page_pointers:
    .skip 4096
page_directories:
    .skip 4 * 4096
boot_stack:
    .skip 65536
boot_stack_end:
