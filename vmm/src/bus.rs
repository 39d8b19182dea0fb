//! A bus: checked address ranges and the devices behind them.
//!
//! One [`Bus`] carries the port I/O space and another the MMIO space. The machine builder inserts
//! devices once; afterwards the bus is only read, by all vCPU threads at the same time.
//!
//! Lock order: a vCPU thread holds at most one device's lock taken here, and a device never calls
//! back into a bus. The bus never panics on an address or a length that a guest chose.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A device that answers accesses to a range of addresses.
///
/// `offset` counts from the start of the range; `offset + data.len()` never exceeds its length.
pub trait BusDevice: Send {
    /// Fills `data` with what a read at `offset` gives.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes a write of `data` at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
    /// Names the device in reports of exits ("serial", "pci-config").
    fn name(&self) -> &str;
}

/// A device as the bus holds it: shared between vCPU threads, one access at a time.
pub type SharedDevice = Arc<Mutex<dyn BusDevice>>;

/// Why a range could not be put on a bus.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The range has no bytes.
    #[error("bus range at {base:#x} for {name} is empty")]
    Empty {
        /// Start of the range.
        base: u64,
        /// The device that asked for it.
        name: String,
    },
    /// The range does not fit in the address space.
    #[error(
        "bus range {base:#x}+{len_bytes:#x} for {name} runs past the end of the address space"
    )]
    Overflow {
        /// Start of the range.
        base: u64,
        /// Its length.
        len_bytes: u64,
        /// The device that asked for it.
        name: String,
    },
    /// Another device has some of these addresses.
    #[error(
        "bus range {base:#x}+{len_bytes:#x} for {name} overlaps {other} at {other_base:#x}+{other_len_bytes:#x}"
    )]
    Overlap {
        /// Start of the range.
        base: u64,
        /// Its length.
        len_bytes: u64,
        /// The device that asked for it.
        name: String,
        /// Start of the range that is there already.
        other_base: u64,
        /// Its length.
        other_len_bytes: u64,
        /// The device that has it.
        other: String,
    },
}

struct Entry {
    len_bytes: u64,
    name: String,
    device: SharedDevice,
}

/// Non-overlapping address ranges, each with its device.
#[derive(Default)]
pub struct Bus {
    // By start address. No entry is empty, and none runs past u64::MAX.
    entries: BTreeMap<u64, Entry>,
}

impl Bus {
    /// Creates a bus without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` at `base..base + len_bytes`.
    pub fn insert(
        &mut self,
        base: u64,
        len_bytes: u64,
        device: SharedDevice,
    ) -> Result<(), BusError> {
        let name = lock(&device).name().to_owned();
        if len_bytes == 0 {
            return Err(BusError::Empty { base, name });
        }
        // The last address, not the end: a range may include the very last byte.
        let Some(last) = base.checked_add(len_bytes - 1) else {
            return Err(BusError::Overflow {
                base,
                len_bytes,
                name,
            });
        };
        // Ranges do not overlap, so of those that start at or before `last` only the last one can
        // reach into the new range.
        if let Some((&other_base, other)) = self.entries.range(..=last).next_back() {
            if other_base + (other.len_bytes - 1) >= base {
                return Err(BusError::Overlap {
                    base,
                    len_bytes,
                    name,
                    other_base,
                    other_len_bytes: other.len_bytes,
                    other: other.name.clone(),
                });
            }
        }
        self.entries.insert(
            base,
            Entry {
                len_bytes,
                name,
                device,
            },
        );
        Ok(())
    }

    /// All ranges with their device's name: first address, last address, name.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64, &str)> {
        let last = |base: u64, entry: &Entry| base + (entry.len_bytes - 1);
        self.entries
            .iter()
            .map(move |(&base, entry)| (base, last(base, entry), &*entry.name))
    }

    /// Finds the device at `address`: its offset there, its name and the device.
    pub fn lookup(&self, address: u64) -> Option<(u64, &str, &SharedDevice)> {
        let (offset, entry) = self.find(address)?;
        Some((offset, &entry.name, &entry.device))
    }

    /// Reads `data.len()` bytes at `address`. Returns whether a device claimed the access; if not,
    /// `data` is all ones.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        let Some((offset, entry)) = self.find_access(address, data.len()) else {
            data.fill(0xff);
            return false;
        };
        lock(&entry.device).read(offset, data);
        true
    }

    /// Writes `data` at `address`. Returns whether a device claimed the access.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        let Some((offset, entry)) = self.find_access(address, data.len()) else {
            return false;
        };
        lock(&entry.device).write(offset, data);
        true
    }

    fn find(&self, address: u64) -> Option<(u64, &Entry)> {
        let (base, entry) = self.entries.range(..=address).next_back()?;
        let offset = address - base;
        (offset < entry.len_bytes).then_some((offset, entry))
    }

    // An access that leaves its range at the end belongs to nobody.
    fn find_access(&self, address: u64, len_bytes: usize) -> Option<(u64, &Entry)> {
        let (offset, entry) = self.find(address)?;
        let fits = u64::try_from(len_bytes).is_ok_and(|len| len <= entry.len_bytes - offset);
        fits.then_some((offset, entry))
    }
}

// A device that panicked once has already failed the VM's thread that ran it; the others may still
// look at its state to shut down in order.
fn lock(device: &SharedDevice) -> MutexGuard<'_, dyn BusDevice + 'static> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers its last write and reads back offsets.
    struct Probe {
        last: Option<(u64, Vec<u8>)>,
    }

    impl BusDevice for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset & 0x7f).expect("masked"));
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.last = Some((offset, data.to_vec()));
        }
        fn name(&self) -> &str {
            "probe"
        }
    }

    fn probe() -> Arc<Mutex<Probe>> {
        Arc::new(Mutex::new(Probe { last: None }))
    }

    #[test]
    fn overlapping_empty_and_overflowing_ranges_are_refused() {
        let mut bus = Bus::new();
        bus.insert(0x10, 0x10, probe()).unwrap();
        for (base, len) in [
            (0x10, 1),
            (0x1f, 1),
            (0x8, 9),
            (0x1f, 0x100),
            (0, 0x1000),
            (0x14, 4),
        ] {
            let error = bus.insert(base, len, probe()).unwrap_err();
            assert!(
                matches!(
                    error,
                    BusError::Overlap {
                        other_base: 0x10,
                        ..
                    }
                ),
                "{error}"
            );
        }
        assert!(matches!(
            bus.insert(0x40, 0, probe()),
            Err(BusError::Empty { .. })
        ));
        assert!(matches!(
            bus.insert(u64::MAX, 2, probe()),
            Err(BusError::Overflow { .. })
        ));
        bus.insert(0x20, 1, probe()).unwrap();
        bus.insert(0, 0x10, probe()).unwrap();
        bus.insert(u64::MAX, 1, probe()).unwrap();
    }

    #[test]
    fn access_inside_a_range_reaches_its_device_with_the_offset() {
        let mut bus = Bus::new();
        let device = probe();
        bus.insert(0x100, 8, device.clone()).unwrap();
        let mut data = [0; 2];
        assert!(bus.read(0x106, &mut data));
        assert_eq!(data, [6, 6]);
        assert!(bus.write(0x104, &[1, 2, 3, 4]));
        assert_eq!(device.lock().unwrap().last, Some((4, vec![1, 2, 3, 4])));
        let (offset, name, _) = bus.lookup(0x107).unwrap();
        assert_eq!((offset, name), (7, "probe"));
    }

    #[test]
    fn unclaimed_and_straddling_reads_give_all_ones() {
        let mut bus = Bus::new();
        bus.insert(0x100, 8, probe()).unwrap();
        bus.insert(u64::MAX - 1, 2, probe()).unwrap();
        for address in [0, 0xff, 0x108, 0x105, u64::MAX - 2] {
            let mut data = [0; 4];
            assert!(!bus.read(address, &mut data), "{address:#x}");
            assert_eq!(data, [0xff; 4]);
            assert!(!bus.write(address, &data));
        }
        assert!(!bus.read(u64::MAX, &mut [0; 2]));
        assert!(bus.read(u64::MAX, &mut [0; 1]));
        assert!(bus.lookup(0x108).is_none());
    }
}
