//! The host bridge at 00:00.0: an identity, nothing else.

use super::config::{ConfigHeader, ConfigSpace, BAR_COUNT};
use super::function::{BarBase, PciFunction};

/// Device 00:00.0, which tells a guest that there is a bus at all.
pub(super) struct HostBridge {
    config: ConfigSpace,
}

impl HostBridge {
    pub(super) fn new() -> Self {
        // The generic PCIe host of Red Hat's range: no quirk in any guest matches it.
        let header = ConfigHeader {
            vendor: 0x1b36,
            device: 0x0008,
            class: 0x06_00_00,
            ..Default::default()
        };
        Self {
            config: ConfigSpace::new(&header),
        }
    }
}

impl PciFunction for HostBridge {
    fn name(&self) -> &str {
        "host-bridge"
    }
    fn bar_sizes(&self) -> [u32; BAR_COUNT] {
        [0; BAR_COUNT]
    }
    fn place_bar(&mut self, _bar: usize, _base: u32) {}
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }
    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
    }
    fn bar_address(&self, _bar: usize) -> Option<u64> {
        None
    }
    fn bar_moved(&mut self, _bar: BarBase) {}
    fn bar_read(&mut self, _bar: usize, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn bar_write(&mut self, _bar: usize, _offset: u64, _data: &[u8]) {}
}
