//! How a guest reaches a [`PciRoot`]: the ECAM window, the configuration ports, and the BARs.
//!
//! Each is a [`BusDevice`] over the one shared root; the machine builder puts them on its buses.

use std::sync::Arc;

use super::root::PciRoot;
use crate::bus::BusDevice;

/// First port of the configuration mechanism.
pub const CONFIG_PORTS_BASE: u64 = 0xcf8;
/// How many ports it takes: address register, then data register.
pub const CONFIG_PORTS_LEN: u64 = 8;

const ADDRESS_ENABLE: u32 = 1 << 31;
// Port 0xcf9, inside the address register's range: the chipset's reset control.
const RESET_OFFSET: u64 = 1;
const RESET_CPU: u8 = 1 << 2;

/// The memory-mapped configuration space: 4 KiB for each function of each bus.
pub struct EcamWindow {
    root: Arc<PciRoot>,
}

impl EcamWindow {
    /// Creates the window; it belongs at the layout's `ecam_base`.
    pub fn new(root: Arc<PciRoot>) -> Self {
        Self { root }
    }
}

/// Bus, device, function and register of an offset in the ECAM window.
fn split_ecam(offset: u64) -> Option<(u8, u8, u8, u16)> {
    let bus = u8::try_from(offset >> 20).ok()?;
    let device = u8::try_from(offset >> 15 & 0x1f).ok()?;
    let function = u8::try_from(offset >> 12 & 7).ok()?;
    let register = u16::try_from(offset & 0xfff).ok()?;
    Some((bus, device, function, register))
}

impl BusDevice for EcamWindow {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match split_ecam(offset) {
            Some((bus, device, function, register)) => {
                self.root.config_read(bus, device, function, register, data);
            }
            None => data.fill(0xff),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some((bus, device, function, register)) = split_ecam(offset) {
            self.root
                .config_write(bus, device, function, register, data);
        }
    }

    fn name(&self) -> &str {
        "pci-ecam"
    }
}

/// The ports 0xcf8 (address) and 0xcfc (data), and the reset control register among them.
pub struct ConfigPorts {
    root: Arc<PciRoot>,
    address: u32,
    on_reset: Option<Box<dyn Fn() + Send>>,
}

impl ConfigPorts {
    /// Creates the ports; they belong at [`CONFIG_PORTS_BASE`].
    pub fn new(root: Arc<PciRoot>) -> Self {
        Self {
            root,
            address: 0,
            on_reset: None,
        }
    }

    /// Calls `on_reset` when the guest asks for a reset by port 0xcf9. The call comes with the
    /// ports' lock held and must not block.
    pub fn on_reset(mut self, on_reset: impl Fn() + Send + 'static) -> Self {
        self.on_reset = Some(Box::new(on_reset));
        self
    }

    /// What the address register selects, for an access at `offset` in the ports.
    fn selected(&self, offset: u64, len_bytes: usize) -> Option<(u8, u8, u8, u16)> {
        let in_data = u16::try_from(offset.checked_sub(4)?).ok()?;
        let fits = usize::from(in_data) + len_bytes <= 4;
        if !fits || self.address & ADDRESS_ENABLE == 0 {
            return None;
        }
        let [register, device_function, bus, _] = self.address.to_le_bytes();
        let register = u16::from(register & 0xfc) + in_data;
        Some((bus, device_function >> 3, device_function & 7, register))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some((bus, device, function, register)) = self.selected(offset, data.len()) {
            self.root.config_read(bus, device, function, register, data);
        } else if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&self.address.to_le_bytes());
        } else {
            data.fill(0xff);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some((bus, device, function, register)) = self.selected(offset, data.len()) {
            self.root
                .config_write(bus, device, function, register, data);
            return;
        }
        match (offset, data) {
            // Only a 32-bit write reaches the address register; bits 24 to 30 are reserved.
            (0, &[b0, b1, b2, b3]) => {
                self.address = u32::from_le_bytes([b0 & 0xfc, b1, b2, b3 & 0x80]);
            }
            (RESET_OFFSET, &[value]) if value & RESET_CPU != 0 => {
                if let Some(on_reset) = &self.on_reset {
                    on_reset();
                }
            }
            _ => {}
        }
    }

    fn name(&self) -> &str {
        "pci-config"
    }
}

/// All BARs as one device, for a bus. Calling [`PciRoot::mmio_read`] directly is faster: it takes
/// no lock that all vCPUs share.
pub struct BarWindow {
    root: Arc<PciRoot>,
}

impl BarWindow {
    /// Creates the window; it belongs at the layout's `mmio_base`.
    pub fn new(root: Arc<PciRoot>) -> Self {
        Self { root }
    }

    fn gpa(&self, offset: u64) -> u64 {
        self.root.layout().mmio_base.saturating_add(offset)
    }
}

impl BusDevice for BarWindow {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.root.mmio_read(self.gpa(offset), data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.root.mmio_write(self.gpa(offset), data);
    }

    fn name(&self) -> &str {
        "pci-bars"
    }
}
