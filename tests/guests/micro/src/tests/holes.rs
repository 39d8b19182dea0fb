//! Ports and memory that nobody claims: all ones, and writes without effect.

use crate::test::{guest_test, Ran};
use crate::x86::{mmio, port};

/// Beside the mark port.
const PORT: u16 = 0x0d00;
/// In the PCI window, where no BAR is.
const ADDRESS: u64 = 0xd000_0000;

guest_test!("machine_unclaimed_ports", "", ports);
fn ports() -> Ran {
    port::write_u8(PORT, 0x12);
    port::write_u16(PORT, 0x1234);
    port::write_u32(PORT, 0x1234_5678);
    assert_eq!(port::read_u8(PORT), u8::MAX);
    assert_eq!(port::read_u16(PORT), u16::MAX);
    assert_eq!(port::read_u32(PORT), u32::MAX);
    Ok(())
}

guest_test!("machine_unclaimed_memory", "", memory);
fn memory() -> Ran {
    // The last ones lie across a page boundary, and at the end of the hole below the I/O APIC.
    for address in [ADDRESS, ADDRESS + 0x1003, ADDRESS + 0x1ffd, 0xfebf_fff8] {
        mmio::write_u8(address, 0x12);
        mmio::write_u16(address, 0x1234);
        mmio::write_u32(address, 0x1234_5678);
        mmio::write_u64(address, 0x1234_5678_9abc_def0);
        assert_eq!(mmio::read_u8(address), u8::MAX, "{address:#x}");
        assert_eq!(mmio::read_u16(address), u16::MAX, "{address:#x}");
        assert_eq!(mmio::read_u32(address), u32::MAX, "{address:#x}");
        assert_eq!(mmio::read_u64(address), u64::MAX, "{address:#x}");
    }
    Ok(())
}
