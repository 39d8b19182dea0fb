//! The PVH boot protocol: start info, module list and memory map for an ELF kernel.
//!
//! Source: Xen `docs/misc/pvh.pandoc` and `public/arch-x86/hvm/start_info.h`.

use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::load::Initrd;
use crate::mem::layout::{
    ABOVE_4G, ACPI, ACPI_END, CMDLINE, ECAM, ECAM_BYTES, HIGH_RAM, LOW_RAM_END, PVH_INFO,
};
use crate::mem::{ram, GuestRam};

const MAGIC: u32 = 0x336e_c578;
const MODULE_LIST: u64 = PVH_INFO + 0x100;
const MEMORY_MAP: u64 = PVH_INFO + 0x200;

/// E820 memory types.
const USABLE: u32 = 1;
const RESERVED: u32 = 2;

/// One range of the memory map that both boot protocols give to the guest: start, size, type.
pub(super) fn memory_map(memory_bytes: u64) -> Vec<(u64, u64, u32)> {
    let mut map = vec![
        (0, LOW_RAM_END, USABLE),
        (ACPI, ACPI_END - ACPI, RESERVED),
        // Linux trusts an ECAM only where the memory map or ACPI reserves it.
        (ECAM, ECAM_BYTES, RESERVED),
    ];
    for (start, size) in ram::ranges(memory_bytes) {
        if start == ABOVE_4G {
            map.push((start, size, USABLE));
        } else if size > HIGH_RAM {
            map.push((HIGH_RAM, size - HIGH_RAM, USABLE));
        }
    }
    map.sort_unstable();
    map
}

/// Writes the PVH structures.
pub(super) fn write(
    ram: &GuestRam,
    memory_bytes: u64,
    initrd: Option<Initrd>,
    rsdp: u64,
) -> Result<(), GuestMemoryError> {
    let map = memory_map(memory_bytes);
    let mut info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        cmdline_paddr: CMDLINE,
        rsdp_paddr: rsdp,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: u32::try_from(map.len()).unwrap_or(0),
        ..Default::default()
    };
    if let Some(initrd) = initrd {
        info.nr_modules = 1;
        info.modlist_paddr = MODULE_LIST;
        let module = hvm_modlist_entry {
            paddr: initrd.start,
            size: initrd.bytes,
            ..Default::default()
        };
        ram.write_obj(module, GuestAddress(MODULE_LIST))?;
    }
    ram.write_obj(info, GuestAddress(PVH_INFO))?;
    let mut at = MEMORY_MAP;
    for (addr, size, type_) in map {
        let entry = hvm_memmap_table_entry {
            addr,
            size,
            type_,
            reserved: 0,
        };
        ram.write_obj(entry, GuestAddress(at))?;
        at += 24;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_map_is_sorted_and_leaves_the_hole_free() {
        let map = memory_map(4 << 30);
        assert!(
            map.windows(2)
                .all(|pair| pair[0].0 + pair[0].1 <= pair[1].0),
            "{map:x?}"
        );
        let usable: u64 = map
            .iter()
            .filter(|range| range.2 == USABLE)
            .map(|range| range.1)
            .sum();
        assert_eq!(usable, (4 << 30) - HIGH_RAM + LOW_RAM_END);
    }
}
