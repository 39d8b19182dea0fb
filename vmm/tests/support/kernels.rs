//! Kernel images made of a few bytes: ELF with or without a PVH note, and bzImage headers.
//!
//! For tests of what the VMM does with wrong files, and of guests that are a few instructions. The
//! integration tests of the whole project include this file too; it must not depend on anything.
#![allow(
    unreachable_pub,
    reason = "public in the crate that includes it for others"
)]

/// Where the code of [`elf`] is loaded, and where it starts.
pub const LOAD_ADDRESS: u32 = 0x10_0000;
/// Size of an ELF header.
pub const ELF_HEADER_BYTES: usize = 64;
/// Where the two program headers of [`elf`] end.
pub const PROGRAM_HEADERS_END: usize = 176;
/// Where the code of [`elf`] lies in the file.
pub const CODE_AT: usize = 0x100;

const MACHINE_X86_64: u16 = 62;
const TYPE_EXECUTABLE: u16 = 2;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the 32-bit entry of the PVH boot protocol.
const NOTE_PHYS32_ENTRY: u32 = 18;

/// An x86-64 ELF file with `code` as its one segment; entered in 32-bit mode if it `has_pvh_note`.
pub fn elf(code: &[u8], has_pvh_note: bool) -> Vec<u8> {
    let mut note = Vec::new();
    if has_pvh_note {
        for word in [4, 8, NOTE_PHYS32_ENTRY] {
            note.extend(u32::to_le_bytes(word));
        }
        note.extend(b"Xen\0");
        note.extend(u64::from(LOAD_ADDRESS).to_le_bytes());
    }
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend(TYPE_EXECUTABLE.to_le_bytes());
    file.extend(MACHINE_X86_64.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend(u64::from(LOAD_ADDRESS).to_le_bytes());
    file.extend(
        u64::try_from(ELF_HEADER_BYTES)
            .expect("64 fits")
            .to_le_bytes(),
    );
    // No sections.
    file.extend(0u64.to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1 + u16::from(has_pvh_note), 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    assert_eq!(file.len(), ELF_HEADER_BYTES);
    file.extend(segment(SEGMENT_LOAD, CODE_AT, code.len()));
    file.extend(segment(SEGMENT_NOTE, PROGRAM_HEADERS_END, note.len()));
    assert_eq!(file.len(), PROGRAM_HEADERS_END);
    file.extend(note);
    file.resize(CODE_AT, 0);
    file.extend(code);
    file
}

fn segment(kind: u32, at: usize, len: usize) -> Vec<u8> {
    let [at, len] = [at, len].map(|value| u64::try_from(value).expect("small"));
    let address = u64::from(LOAD_ADDRESS);
    let mut header = kind.to_le_bytes().to_vec();
    header.extend(5u32.to_le_bytes());
    for field in [at, address, address, len, len, 4] {
        header.extend(field.to_le_bytes());
    }
    header
}

/// An ELF file of another machine: only its header's class and machine number differ.
pub fn elf_of_machine(class: u8, machine: u16) -> Vec<u8> {
    let mut file = elf(&[0xf4], true);
    file[4] = class;
    file[18..20].copy_from_slice(&machine.to_le_bytes());
    file
}

/// A bzImage with two setup sectors, `code_bytes` of zeros as its kernel, and a truthful header.
pub fn bzimage(code_bytes: usize) -> Vec<u8> {
    const SETUP_BYTES: usize = 1024;
    let mut file = vec![0; SETUP_BYTES + code_bytes];
    file[0x1f1] = 1;
    let paragraphs = u32::try_from(code_bytes.div_ceil(16)).expect("a small kernel");
    file[0x1f4..0x1f8].copy_from_slice(&paragraphs.to_le_bytes());
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    // LOADED_HIGH, and XLF_KERNEL_64: it has a 64-bit entry.
    file[0x211] = 1;
    file[0x236] = 1;
    file[0x214..0x218].copy_from_slice(&LOAD_ADDRESS.to_le_bytes());
    file[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    // It keeps 1000 bytes of its command line.
    file[0x238..0x23c].copy_from_slice(&1000u32.to_le_bytes());
    file[0x258..0x260].copy_from_slice(&u64::from(LOAD_ADDRESS).to_le_bytes());
    file[0x260..0x264].copy_from_slice(&0x10_0000u32.to_le_bytes());
    file
}
