//! ACPI tables: RSDP, XSDT, FADT with FACS and DSDT, MADT, MCFG.
//!
//! The machine is an ordinary ACPI PC (8259, PIT, I/O APIC, PM1 block) and not a hardware-reduced
//! one: only then does Linux put the boot CPU's local APIC back into virtual-wire mode when it
//! restarts, which is how a restart is told from a panic (`machine`). No processor objects: without
//! them no ACPI idle driver takes the slot that a guest's own idle driver needs.
//! Source: ACPI specification 6.5, chapters 4 and 5.

use acpi_tables::aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::Aml;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::mem::layout as at;
use crate::mem::GuestRam;

const OEM: [u8; 6] = *b"COOPVT";
const TABLE: [u8; 8] = *b"COOPVIRT";
const RESET_VALUE: u8 = 1;
/// Sleep type that `_S5` names and the PM1 control block understands.
pub const SLEEP_TYPE_S5: u8 = 5;
/// IA-PC boot flags: 8259s and the like exist, there is no VGA.
const BOOT_LEGACY_NO_VGA: u16 = 1 | 1 << 2;
/// MADT flag: dual 8259.
const PCAT_COMPAT: u32 = 1;

/// Writes all tables from [`at::ACPI`] on; the RSDP comes first.
pub fn write(ram: &GuestRam, vcpus: u8) -> Result<(), GuestMemoryError> {
    // The RSDP is written last, but its place is first.
    let mut next = at::ACPI + 64;
    let mut place = |bytes: &[u8]| -> Result<u64, GuestMemoryError> {
        let address = next;
        ram.write_slice(bytes, GuestAddress(address))?;
        next = (address + bytes.len() as u64).next_multiple_of(64);
        Ok(address)
    };
    let facs = place(&bytes(&FACS::new()))?;
    let dsdt = place(dsdt().as_slice())?;
    let fadt = place(&bytes(&fadt(facs, dsdt)))?;
    let madt = place(madt(vcpus).as_slice())?;
    let mut mcfg = MCFG::new(OEM, TABLE, 1);
    mcfg.add_ecam(at::ECAM, 0, 0, at::ECAM_LAST_BUS);
    let mcfg = place(&bytes(&mcfg))?;
    let mut xsdt = XSDT::new(OEM, TABLE, 1);
    for table in [fadt, madt, mcfg] {
        xsdt.add_entry(table);
    }
    let xsdt = place(&bytes(&xsdt))?;
    debug_assert!(next < at::ACPI_END, "the tables fit their area");
    ram.write_slice(&bytes(&Rsdp::new(OEM, xsdt)), GuestAddress(at::ACPI))
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn io_register(port: u64, bits: u8) -> GAS {
    let size = if bits == 8 {
        AccessSize::ByteAccess
    } else {
        AccessSize::WordAccess
    };
    GAS::new(AddressSpace::SystemIo, bits, 0, size, port)
}

fn low32(value: u64) -> u32 {
    u32::try_from(value).expect("every table and port lies below 4 GiB")
}

fn fadt(facs: u64, dsdt: u64) -> acpi_tables::fadt::FADT {
    let mut fadt = FADTBuilder::new(OEM, TABLE, 1)
        .firmware_ctrl_32(low32(facs))
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        // A flag that is set means no fixed button of this kind. There is a power button.
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    fadt.sci_int = u16::from(at::IRQ_SCI).into();
    fadt.pm1a_evt_blk = low32(at::PORT_PM1A).into();
    fadt.pm1a_cnt_blk = low32(at::PORT_PM1A + 4).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1_cnt_len = 2;
    // Above 100 and 1000 microseconds: C2 and C3 do not exist.
    fadt.p_lvl2_lat = 0xfff.into();
    fadt.p_lvl3_lat = 0xfff.into();
    fadt.iapc_boot_arch = BOOT_LEGACY_NO_VGA.into();
    fadt.reset_reg = io_register(at::PORT_RESET, 8);
    fadt.reset_value = RESET_VALUE;
    fadt.x_pm1a_evt_blk = io_register(at::PORT_PM1A, 32);
    fadt.x_pm1a_cnt_blk = io_register(at::PORT_PM1A + 4, 16);
    fadt.finalize()
}

fn madt(vcpus: u8) -> Sdt {
    let mut madt = Sdt::new(*b"APIC", 44, 3, OEM, TABLE, 1);
    madt.write_u32(36, at::LOCAL_APIC);
    madt.write_u32(40, PCAT_COMPAT);
    for id in 0..vcpus {
        madt.append_slice(&bytes(&ProcessorLocalApic::new(
            id,
            id,
            EnabledStatus::Enabled,
        )));
    }
    madt.append_slice(&bytes(&IoApic::new(0, at::IO_APIC, 0)));
    // Interrupt source override: the SCI is level-triggered and active high. Every interrupt is
    // wired to the pin of its own number, the PIT's too. Structure: ACPI 6.5 table 5.26.
    madt.append_slice(&[2, 10, 0, at::IRQ_SCI, at::IRQ_SCI, 0, 0, 0, 0x0d, 0]);
    // Local APIC NMI: LINT1 of every processor.
    madt.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    madt
}

fn dsdt() -> Sdt {
    let mut code = Vec::new();
    pci_root(&mut code);
    legacy_devices(&mut code);
    let s5: [&dyn Aml; 4] = [&SLEEP_TYPE_S5, &SLEEP_TYPE_S5, &aml::ZERO, &aml::ZERO];
    aml::Name::new("_S5_".into(), &aml::Package::new(s5.to_vec())).to_aml_bytes(&mut code);
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, 1);
    dsdt.append_slice(&code);
    dsdt
}

/// The PCI host bridge: one bus, the window for BARs, no interrupt pins.
fn pci_root(code: &mut Vec<u8>) {
    let window_end = low32(at::PCI_HOLE + at::PCI_WINDOW_BYTES - 1);
    let last_bus = u16::from(at::ECAM_LAST_BUS);
    let resources: [&dyn Aml; 3] = [
        &aml::AddressSpace::new_bus_number(0u16, last_bus),
        &aml::AddressSpace::new_io(0x1000u16, 0xffffu16, None),
        &aml::AddressSpace::new_memory(
            aml::AddressSpaceCacheable::NotCacheable,
            true,
            low32(at::PCI_HOLE),
            window_end,
            None,
        ),
    ];
    aml::Device::new(
        "_SB_.PCI0".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0A08")),
            &aml::Name::new("_CID".into(), &aml::EISAName::new("PNP0A03")),
            &aml::Name::new("_ADR".into(), &aml::ZERO),
            &aml::Name::new("_SEG".into(), &aml::ZERO),
            &aml::Name::new("_UID".into(), &aml::ZERO),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(resources.to_vec()),
            ),
        ],
    )
    .to_aml_bytes(code);
    // The ECAM belongs to the mainboard, or the guest does not trust it.
    aml::Device::new(
        "_SB_.ECAM".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0C02")),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![&aml::Memory32Fixed::new(
                    true,
                    low32(at::ECAM),
                    low32(at::ECAM_BYTES),
                )]),
            ),
        ],
    )
    .to_aml_bytes(code);
}

fn legacy_devices(code: &mut Vec<u8>) {
    let port = |port: u64, ports: u8| {
        let port = u16::try_from(port).expect("an I/O port has 16 bits");
        aml::IO::new(port, port, 1, ports)
    };
    let device = |name: &str, hid: &dyn Aml, resources: Vec<&dyn Aml>, code: &mut Vec<u8>| {
        aml::Device::new(
            name.into(),
            vec![
                &aml::Name::new("_HID".into(), hid),
                &aml::Name::new("_UID".into(), &aml::ZERO),
                &aml::Name::new("_STA".into(), &0xfu8),
                &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(resources)),
            ],
        )
        .to_aml_bytes(code);
    };
    let serial_irq = aml::Interrupt::new(true, true, false, false, at::IRQ_SERIAL);
    let serial = port(at::PORT_SERIAL, 8);
    device(
        "_SB_.COM1",
        &aml::EISAName::new("PNP0501"),
        vec![&serial, &serial_irq],
        code,
    );
    let rtc_irq = aml::Interrupt::new(true, true, false, false, 8);
    let rtc = port(at::PORT_RTC, 2);
    device(
        "_SB_.RTC_",
        &aml::EISAName::new("PNP0B00"),
        vec![&rtc, &rtc_irq],
        code,
    );
    device(
        "_SB_.PEVT",
        &"QEMU0001",
        vec![&port(at::PORT_PVPANIC, 1)],
        code,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{ram, Backing};

    #[test]
    fn every_table_has_a_zero_checksum() {
        let backing = Backing {
            huge_pages: false,
            prefault: false,
            overcommit: true,
        };
        let memory =
            ram::allocate(16 << 20, backing, crate::mem::Sharing::Private).expect("16 MiB fit");
        write(&memory, 8).expect("the ACPI area is RAM");
        let mut rsdp = [0u8; 36];
        memory
            .read_slice(&mut rsdp, GuestAddress(at::ACPI))
            .unwrap();
        assert_eq!(sum(&rsdp), 0);
        let xsdt = u64::from_le_bytes(rsdp[24..32].try_into().unwrap());
        let xsdt = table(&memory, xsdt);
        let tables: Vec<_> = xsdt[36..]
            .chunks_exact(8)
            .map(|entry| table(&memory, u64::from_le_bytes(entry.try_into().unwrap())))
            .collect();
        let names: Vec<_> = tables.iter().map(|table| &table[..4]).collect();
        assert_eq!(names, [b"FACP", b"APIC", b"MCFG"]);
        // MADT: 44 bytes of header, 8 per vCPU, I/O APIC, one override, one NMI entry.
        assert_eq!(tables[1].len(), 44 + 8 * 8 + 12 + 10 + 6);
        let dsdt = u64::from_le_bytes(tables[0][140..148].try_into().unwrap());
        assert_eq!(&table(&memory, dsdt)[..4], b"DSDT");
    }

    fn table(memory: &GuestRam, address: u64) -> Vec<u8> {
        let length: u32 = memory.read_obj(GuestAddress(address + 4)).unwrap();
        let mut bytes = vec![0; length as usize];
        memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        assert_eq!(sum(&bytes), 0, "{:?}", String::from_utf8_lossy(&bytes[..4]));
        bytes
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
    }
}
