//! Guest-physical and I/O port addresses that the VMM chooses, each with its reason.
//!
//! | from | to | what |
//! |---|---|---|
//! | `0x0` | `0x9_fc00` | RAM; boot structures below `0x5_0000` |
//! | `0xe_0000` | `0x10_0000` | ACPI tables (reserved in the memory map) |
//! | `0x10_0000` | at most `0xc000_0000` | RAM |
//! | `0xc000_0000` | `0xe000_0000` | PCI 32-bit memory window |
//! | `0xe000_0000` | `0xe010_0000` | PCI ECAM, bus 0 |
//! | `0xfec0_0000` | | I/O APIC (KVM's) |
//! | `0xfee0_0000` | | local APIC (KVM's) |
//! | `0xfffb_c000` | `0xfffc_0000` | identity map page and TSS, needed by Intel without unrestricted guest |
//! | `0x1_0000_0000` | | RAM above the hole |

/// GDT for the boot CPU.
pub const GDT: u64 = 0x500;
/// PVH start info and its memory map.
pub const PVH_INFO: u64 = 0x6000;
/// The zero page of the 64-bit boot protocol (4 KiB).
pub const ZERO_PAGE: u64 = 0x7000;
/// Page tables that map the first 4 GiB one to one: PML4, PDPT, four page directories.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Room for the command line with its final zero; more than any kernel keeps.
pub const CMDLINE_MAX_BYTES: usize = 0x1_0000;
/// End of the RAM below the legacy hole.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// ACPI tables; RSDP first.
pub const ACPI: u64 = 0xe_0000;
/// End of the ACPI area.
pub const ACPI_END: u64 = 0x10_0000;
/// Where kernels are loaded at the lowest.
pub const HIGH_RAM: u64 = 0x10_0000;
/// Start of the PCI hole: no RAM from here to 4 GiB.
pub const PCI_HOLE: u64 = 0xc000_0000;
/// Size of the PCI memory window at the start of the hole.
pub const PCI_WINDOW_BYTES: u64 = 0x2000_0000;
/// PCI enhanced configuration space.
pub const ECAM: u64 = 0xe000_0000;
/// Size of the ECAM for one bus. Linux probes every bus that the ECAM covers and ACPI does not name
/// (`pcibios_fixup_peer_bridges`, arch/x86/pci/legacy.c): 32 exits for each at boot.
pub const ECAM_BYTES: u64 = 0x10_0000;
/// The last bus that the ECAM covers.
pub const ECAM_LAST_BUS: u8 = 0;
/// KVM's I/O APIC.
pub const IO_APIC: u32 = 0xfec0_0000;
/// KVM's local APIC.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Page for `KVM_SET_IDENTITY_MAP_ADDR`.
pub const IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages for `KVM_SET_TSS_ADDR`.
pub const TSS: usize = 0xfffb_d000;
/// RAM continues here.
pub const ABOVE_4G: u64 = 0x1_0000_0000;

/// First serial port (COM1), 8 ports.
pub const PORT_SERIAL: u64 = 0x3f8;
/// Interrupt line of COM1.
pub const IRQ_SERIAL: u32 = 4;
/// CMOS RTC, index and data.
pub const PORT_RTC: u64 = 0x70;
/// Keyboard controller command port: only its reset command is there.
pub const PORT_I8042: u64 = 0x64;
/// pvpanic (one port), as its ACPI device says.
pub const PORT_PVPANIC: u64 = 0x505;
/// ACPI PM1a event block (4 ports), then control block (2 ports).
pub const PORT_PM1A: u64 = 0x600;
/// ACPI reset register (one port).
pub const PORT_RESET: u64 = 0x608;
/// ACPI interrupt line.
pub const IRQ_SCI: u8 = 9;
/// A test guest ends the machine with a byte written here. Only with `--debug-exit`.
pub const PORT_DEBUG_EXIT: u64 = 0x0f4;
