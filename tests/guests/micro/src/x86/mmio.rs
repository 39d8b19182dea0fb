//! Memory that is no RAM: each access is one `MOV`, which any instruction emulator knows.
#![expect(unsafe_code)]
// UNSAFETY: physical addresses are accessed as they are. Only for addresses without RAM.

use core::arch::asm;

macro_rules! mmio_access {
    ($read:ident, $write:ident, $type:ty, $class:ident, $format:literal) => {
        #[doc = concat!("Reads ", stringify!($type), " at a physical address without RAM.")]
        pub fn $read(address: u64) -> $type {
            assert_no_ram(address);
            let value: $type;
            // SAFETY: mapped one to one, and no RAM: nothing of this program lies there.
            unsafe {
                asm!(concat!("mov {value", $format, "}, [{address}]"), value = out($class) value,
                    address = in(reg) address, options(nostack, preserves_flags));
            }
            value
        }

        #[doc = concat!("Writes ", stringify!($type), " to a physical address without RAM.")]
        pub fn $write(address: u64, value: $type) {
            assert_no_ram(address);
            // SAFETY: mapped one to one, and no RAM: nothing of this program lies there.
            unsafe {
                asm!(concat!("mov [{address}], {value", $format, "}"), value = in($class) value,
                    address = in(reg) address, options(nostack, preserves_flags));
            }
        }
    };
}

/// Below 4 GiB everything is mapped; from here on up there is no RAM.
const NO_RAM: core::ops::Range<u64> = 0xc000_0000..0x1_0000_0000;

fn assert_no_ram(address: u64) {
    assert!(NO_RAM.contains(&address), "{address:#x} may be RAM");
}

mmio_access!(read_u8, write_u8, u8, reg_byte, "");
mmio_access!(read_u16, write_u16, u16, reg, ":x");
mmio_access!(read_u32, write_u32, u32, reg, ":e");
mmio_access!(read_u64, write_u64, u64, reg, "");
