//! The Linux 64-bit boot protocol: the zero page for a bzImage.
//!
//! Source: Linux `Documentation/arch/x86/boot.rst` and `zero-page.rst`.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::load::Initrd;
use super::pvh::memory_map;
use crate::mem::layout::{CMDLINE, ZERO_PAGE};
use crate::mem::GuestRam;

/// The 64-bit entry lies this far behind the start of the protected-mode code.
pub(super) const ENTRY_OFFSET: u64 = 0x200;

/// "Undefined" boot loader.
const LOADER_TYPE: u8 = 0xff;
const CAN_USE_HEAP: u8 = 0x80;

/// Writes the zero page.
pub(super) fn write(
    ram: &GuestRam,
    memory_bytes: u64,
    header: setup_header,
    initrd: Option<Initrd>,
    rsdp: u64,
) -> Result<(), GuestMemoryError> {
    let low32 = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap_or(0);
    let mut params = boot_params {
        hdr: header,
        acpi_rsdp_addr: rsdp,
        ..Default::default()
    };
    params.hdr.type_of_loader = LOADER_TYPE;
    params.hdr.loadflags |= CAN_USE_HEAP;
    params.hdr.cmd_line_ptr = low32(CMDLINE);
    if let Some(initrd) = initrd {
        params.hdr.ramdisk_image = low32(initrd.start);
        params.hdr.ramdisk_size = low32(initrd.bytes);
    }
    for (slot, (addr, size, kind)) in memory_map(memory_bytes).into_iter().enumerate() {
        params.e820_table[slot] = boot_e820_entry {
            addr,
            size,
            r#type: kind,
        };
        params.e820_entries += 1;
    }
    ram.write_obj(params, GuestAddress(ZERO_PAGE))
}
