//! Names of ports and guest-physical addresses.
//!
//! What lies where is the VMM's knowledge: it hands a [`NameOf`] to the tracer. [`PcNames`] knows
//! the parts that every PC has, and a [`NameTable`] puts a caller's own ranges before it.

use std::ops::RangeInclusive;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// Gives names to ports and addresses; `None` if nothing is known to be there.
pub trait NameOf: Send + Sync {
    /// The name of what answers at an I/O port.
    fn port(&self, port: u16) -> Option<&str>;
    /// The name of what answers at a guest-physical address that is not RAM. An address with a
    /// name counts as a device.
    fn mmio(&self, gpa: u64) -> Option<&str>;
}

/// The well-known parts of a PC.
#[derive(Clone, Copy, Debug, Default)]
pub struct PcNames;

/// Page of the local APIC while a guest has not moved it.
const LAPIC_BASE: u64 = 0xfee0_0000;
/// Page of the first I/O APIC.
const IOAPIC_BASE: u64 = 0xfec0_0000;

impl NameOf for PcNames {
    fn port(&self, port: u16) -> Option<&str> {
        pc_port(port)
    }

    fn mmio(&self, gpa: u64) -> Option<&str> {
        pc_mmio(gpa)
    }
}

fn pc_port(port: u16) -> Option<&'static str> {
    Some(match port {
        0x00..=0x0f => "dma1",
        0x20 | 0x21 => "pic1",
        0x2e | 0x2f => "superio",
        0x40..=0x43 => "pit",
        0x60 | 0x64 => "i8042",
        0x61 => "speaker",
        0x70..=0x73 => "rtc",
        0x80 => "post",
        0x81..=0x8f => "dma page",
        0x92 => "port92",
        0xa0 | 0xa1 => "pic2",
        0xb2 | 0xb3 => "apm",
        0xc0..=0xdf => "dma2",
        0xe9 => "debug console",
        0xed => "io delay",
        0xf0 | 0xf1 => "fpu",
        0x170..=0x177 | 0x376 => "ide2",
        0x1f0..=0x1f7 | 0x3f6 => "ide1",
        0x278..=0x27a => "lpt2",
        0x2e8..=0x2ef => "serial4",
        0x2f8..=0x2ff => "serial2",
        0x378..=0x37a => "lpt1",
        0x3b0..=0x3df => "vga",
        0x3e8..=0x3ef => "serial3",
        0x3f0..=0x3f5 | 0x3f7 => "floppy",
        0x3f8..=0x3ff => "serial",
        0x4d0 | 0x4d1 => "elcr",
        0x510 | 0x511 | 0x514..=0x51b => "fw_cfg",
        0x600..=0x67f => "acpi pm",
        0xcf8..=0xcfb => "pci address",
        0xcfc..=0xcff => "pci data",
        coopvirt_spec::mark::MARK_PORT => "mark",
        _ => return None,
    })
}

fn pc_mmio(gpa: u64) -> Option<&'static str> {
    match gpa {
        LAPIC_BASE..=0xfee0_0fff => {
            Some(lapic_register(gpa - LAPIC_BASE).map_or("LAPIC", |(name, _)| name))
        }
        IOAPIC_BASE => Some("IOAPIC IOREGSEL"),
        0xfec0_0010 => Some("IOAPIC IOWIN"),
        0xfec0_0040 => Some("IOAPIC EOI"),
        0xfec0_0001..=0xfec0_0fff => Some("IOAPIC"),
        0xfed0_0000..=0xfed0_03ff => Some("HPET"),
        _ => None,
    }
}

/// The register of the local APIC at this offset of its page: with prefix, and alone.
pub const fn lapic_register(offset: u64) -> Option<(&'static str, &'static str)> {
    Some(match offset & !0xf {
        0x020 => ("LAPIC ID", "ID"),
        0x030 => ("LAPIC VERSION", "VERSION"),
        0x080 => ("LAPIC TPR", "TPR"),
        0x090 => ("LAPIC APR", "APR"),
        0x0a0 => ("LAPIC PPR", "PPR"),
        0x0b0 => ("LAPIC EOI", "EOI"),
        0x0c0 => ("LAPIC RRD", "RRD"),
        0x0d0 => ("LAPIC LDR", "LDR"),
        0x0e0 => ("LAPIC DFR", "DFR"),
        0x0f0 => ("LAPIC SIVR", "SIVR"),
        0x100..=0x170 => ("LAPIC ISR", "ISR"),
        0x180..=0x1f0 => ("LAPIC TMR", "TMR"),
        0x200..=0x270 => ("LAPIC IRR", "IRR"),
        0x280 => ("LAPIC ESR", "ESR"),
        0x2f0 => ("LAPIC LVT_CMCI", "LVT_CMCI"),
        0x300 => ("LAPIC ICR", "ICR"),
        0x310 => ("LAPIC ICR2", "ICR2"),
        0x320 => ("LAPIC LVT_TIMER", "LVT_TIMER"),
        0x330 => ("LAPIC LVT_THERMAL", "LVT_THERMAL"),
        0x340 => ("LAPIC LVT_PMI", "LVT_PMI"),
        0x350 => ("LAPIC LVT_LINT0", "LVT_LINT0"),
        0x360 => ("LAPIC LVT_LINT1", "LVT_LINT1"),
        0x370 => ("LAPIC LVT_ERROR", "LVT_ERROR"),
        0x380 => ("LAPIC TMICT", "TMICT"),
        0x390 => ("LAPIC TMCCT", "TMCCT"),
        0x3e0 => ("LAPIC TDCR", "TDCR"),
        _ => return None,
    })
}

/// A caller's own ranges first, the PC's parts for the rest. Of ranges that overlap, the one that
/// was added first counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NameTable {
    ports: Vec<(RangeInclusive<u16>, String)>,
    mmio: Vec<(RangeInclusive<u64>, String)>,
}

/// Names that are known only once the machine is built, after the tracer has started, or once
/// another process has told them. What is asked for before is looked for among the PC's parts.
#[derive(Debug, Default)]
pub struct LateNames(OnceLock<NameTable>);

impl LateNames {
    /// Gives the names; of several calls the first counts.
    pub fn set(&self, table: NameTable) {
        // An error says that they are set already.
        let _ = self.0.set(table);
    }

    /// The names, once they are known.
    pub fn get(&self) -> Option<&NameTable> {
        self.0.get()
    }
}

impl NameOf for LateNames {
    fn port(&self, port: u16) -> Option<&str> {
        match self.0.get() {
            Some(table) => table.port(port),
            None => pc_port(port),
        }
    }

    fn mmio(&self, gpa: u64) -> Option<&str> {
        match self.0.get() {
            Some(table) => table.mmio(gpa),
            None => pc_mmio(gpa),
        }
    }
}

impl NameTable {
    /// A table with the PC's parts only.
    pub fn new() -> NameTable {
        NameTable::default()
    }

    /// Names a range of ports.
    pub fn add_ports(&mut self, ports: RangeInclusive<u16>, name: impl Into<String>) -> &mut Self {
        self.ports.push((ports, name.into()));
        self
    }

    /// Names a range of guest-physical addresses.
    pub fn add_mmio(&mut self, gpas: RangeInclusive<u64>, name: impl Into<String>) -> &mut Self {
        self.mmio.push((gpas, name.into()));
        self
    }
}

impl NameOf for NameTable {
    fn port(&self, port: u16) -> Option<&str> {
        let own = self.ports.iter().find(|(ports, _)| ports.contains(&port));
        own.map(|(_, name)| name.as_str()).or_else(|| pc_port(port))
    }

    fn mmio(&self, gpa: u64) -> Option<&str> {
        let own = self.mmio.iter().find(|(gpas, _)| gpas.contains(&gpa));
        own.map(|(_, name)| name.as_str()).or_else(|| pc_mmio(gpa))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_of_the_interrupt_controllers_have_names() {
        assert_eq!(PcNames.mmio(0xfee0_00b0), Some("LAPIC EOI"));
        assert_eq!(PcNames.mmio(0xfee0_0300), Some("LAPIC ICR"));
        assert_eq!(PcNames.mmio(0xfee0_0ff0), Some("LAPIC"));
        assert_eq!(PcNames.mmio(0xfec0_0010), Some("IOAPIC IOWIN"));
        assert_eq!(PcNames.mmio(0x10_0000), None);
    }

    #[test]
    fn names_may_come_late() {
        let late = LateNames::default();
        assert_eq!(late.port(0x3f8), Some("serial"));
        let mut table = NameTable::new();
        table.add_ports(0x3f8..=0x3ff, "console");
        let json = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<NameTable>(&json).unwrap(), table);
        late.set(table);
        assert_eq!(late.port(0x3f8), Some("console"));
        assert_eq!(late.mmio(0xfee0_00b0), Some("LAPIC EOI"));
    }

    #[test]
    fn a_callers_ranges_come_first() {
        let mut table = NameTable::new();
        table
            .add_ports(0x3f8..=0x3ff, "console")
            .add_mmio(0x40_0000_0000..=0x40_0000_0fff, "blk");
        assert_eq!(table.port(0x3f9), Some("console"));
        assert_eq!(table.port(0x64), Some("i8042"));
        assert_eq!(table.mmio(0x40_0000_0014), Some("blk"));
        assert_eq!(table.mmio(0xfee0_00b0), Some("LAPIC EOI"));
    }
}
