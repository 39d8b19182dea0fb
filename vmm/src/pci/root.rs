//! The root complex: bus 0, its functions, and which of their BARs answers at which address.
//!
//! A configuration write that changes a function's decoding recomputes the decode table: BARs are
//! taken in the order of their slots, and one that leaves the MMIO window or overlaps a BAR taken
//! before is not decoded (reads there give all ones, writes vanish) until the guest moves it. So
//! whatever a guest writes, an address belongs to at most one BAR and never to RAM.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::config::BAR_COUNT;
use super::function::PciFunction;
use super::host_bridge::HostBridge;

/// Functions on the bus, the host bridge included.
pub const NR_SLOTS: usize = 32;

/// All functions here are conventional PCI: beyond 256 bytes there is nothing, which reads as all
/// ones, so a guest does not look for extended capabilities.
const CONFIG_BYTES: usize = 256;

/// Where the root complex lives in guest-physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciLayout {
    /// Base of the ECAM window.
    pub ecam_base: u64,
    /// Size of the ECAM window: 1 MiB per bus, 256 MiB for all.
    pub ecam_len_bytes: u64,
    /// Base of the window for 32-bit memory BARs.
    pub mmio_base: u64,
    /// Size of that window.
    pub mmio_len_bytes: u64,
}

/// Why a root complex or a function on it could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PciError {
    /// The window for BARs is empty or not below 4 GiB.
    #[error("pci mmio window {base:#x}+{len_bytes:#x} is not below 4 GiB")]
    Window {
        /// Its base.
        base: u64,
        /// Its size.
        len_bytes: u64,
    },
    /// All slots are taken.
    #[error(
        "no pci slot left for {0}: the bus has {NR_SLOTS}; give fewer devices (--disk, --net)"
    )]
    Full(String),
    /// The window has no room for a BAR.
    #[error(
        "no room for a bar of {size_bytes:#x} bytes of {name} in the pci mmio window; give fewer devices \
         (--disk, --net)"
    )]
    NoRoom {
        /// The function.
        name: String,
        /// Size of its BAR.
        size_bytes: u32,
    },
}

type SharedFunction = Arc<Mutex<dyn PciFunction>>;

/// A BAR that answers at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decoded {
    base: u64,
    len_bytes: u64,
    slot: usize,
    bar: usize,
}

impl Decoded {
    fn overlaps(&self, other: &Decoded) -> bool {
        self.base < other.base + other.len_bytes && other.base < self.base + self.len_bytes
    }
}

/// What configuration accesses need: the functions, and the next address for a new one's BARs.
struct Topology {
    functions: Vec<SharedFunction>,
    next_base: u64,
}

/// The PCI root complex of one VM. Shared by all vCPU threads.
pub struct PciRoot {
    layout: PciLayout,
    topology: Mutex<Topology>,
    // Sorted by base. Written only with the topology lock held.
    decode: RwLock<Vec<(Decoded, SharedFunction)>>,
}

impl PciRoot {
    /// Creates a root with its host bridge.
    pub fn new(layout: PciLayout) -> Result<Self, PciError> {
        let PciLayout {
            mmio_base: base,
            mmio_len_bytes: len_bytes,
            ..
        } = layout;
        let end = base
            .checked_add(len_bytes)
            .filter(|&end| len_bytes > 0 && end <= 1 << 32);
        if end.is_none() {
            return Err(PciError::Window { base, len_bytes });
        }
        let bridge: SharedFunction = Arc::new(Mutex::new(HostBridge::new()));
        let topology = Topology {
            functions: vec![bridge],
            next_base: base,
        };
        Ok(Self {
            layout,
            topology: Mutex::new(topology),
            decode: RwLock::new(Vec::new()),
        })
    }

    /// Where the root lives.
    pub fn layout(&self) -> PciLayout {
        self.layout
    }

    /// Puts a function in the next slot and places its BARs. Returns the slot (its device number).
    pub fn add(&self, function: impl PciFunction + 'static) -> Result<usize, PciError> {
        let mut topology = self.topology();
        let mut function = function;
        let slot = topology.functions.len();
        if slot >= NR_SLOTS {
            return Err(PciError::Full(function.name().to_owned()));
        }
        for (bar, &size_bytes) in function.bar_sizes().iter().enumerate() {
            if size_bytes == 0 {
                continue;
            }
            let no_room = || PciError::NoRoom {
                name: function.name().to_owned(),
                size_bytes,
            };
            let base = topology.next_base.next_multiple_of(u64::from(size_bytes));
            let end = base + u64::from(size_bytes);
            if end > self.layout.mmio_base + self.layout.mmio_len_bytes {
                return Err(no_room());
            }
            let base = u32::try_from(base).map_err(|_| no_room())?;
            topology.next_base = end;
            function.place_bar(bar, base);
        }
        topology.functions.push(Arc::new(Mutex::new(function)));
        self.update_decode(&topology);
        Ok(slot)
    }

    /// Reads configuration space of a function on bus 0. All ones where there is none.
    pub fn config_read(&self, bus: u8, device: u8, function: u8, offset: u16, data: &mut [u8]) {
        let in_space = usize::from(offset) + data.len() <= CONFIG_BYTES;
        let target = self.topology().find(bus, device, function);
        let Some(target) = target.filter(|_| in_space) else {
            data.fill(0xff);
            return;
        };
        lock(&target).config_read(offset, data);
    }

    /// Writes configuration space of a function on bus 0, and honours a BAR that moved.
    pub fn config_write(&self, bus: u8, device: u8, function: u8, offset: u16, data: &[u8]) {
        if usize::from(offset) + data.len() > CONFIG_BYTES {
            return;
        }
        // Held to the end: two vCPUs that move BARs must not recompute the table at the same time.
        let topology = self.topology();
        let Some(target) = topology.find(bus, device, function) else {
            return;
        };
        let moved = {
            let mut target = lock(&target);
            let before: [_; BAR_COUNT] = std::array::from_fn(|bar| target.bar_address(bar));
            target.config_write(offset, data);
            before != std::array::from_fn(|bar| target.bar_address(bar))
        };
        if moved {
            self.update_decode(&topology);
        }
    }

    /// Reads from the BAR at a guest-physical address. Returns whether a BAR claimed the access; if
    /// not, `data` is all ones.
    pub fn mmio_read(&self, gpa: u64, data: &mut [u8]) -> bool {
        let Some((decoded, function)) = self.find_bar(gpa, data.len()) else {
            data.fill(0xff);
            return false;
        };
        lock(&function).bar_read(decoded.bar, gpa - decoded.base, data);
        true
    }

    /// Writes to the BAR at a guest-physical address. Returns whether a BAR claimed the access.
    pub fn mmio_write(&self, gpa: u64, data: &[u8]) -> bool {
        let Some((decoded, function)) = self.find_bar(gpa, data.len()) else {
            return false;
        };
        lock(&function).bar_write(decoded.bar, gpa - decoded.base, data);
        true
    }

    /// Names the function whose BAR is at a guest-physical address, for reports of exits.
    pub fn name_at(&self, gpa: u64) -> Option<String> {
        let (_, function) = self.find_bar(gpa, 1)?;
        let name = lock(&function).name().to_owned();
        Some(name)
    }

    /// All BARs that answer now: first address, last address, name of the function. The parts that
    /// a function names come before its whole BAR.
    pub fn bar_ranges(&self) -> Vec<(u64, u64, String)> {
        let decode = self.decode.read().unwrap_or_else(PoisonError::into_inner);
        let mut ranges = Vec::new();
        for (decoded, function) in decode.iter() {
            let function = lock(function);
            let whole = (0, decoded.len_bytes, function.name().to_owned());
            let parts = function.bar_parts(decoded.bar).into_iter();
            ranges.extend(parts.chain([whole]).map(|(offset, len_bytes, name)| {
                let first = decoded.base + offset;
                (first, first + len_bytes.saturating_sub(1), name)
            }));
        }
        ranges
    }

    fn topology(&self) -> MutexGuard<'_, Topology> {
        self.topology.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find_bar(&self, gpa: u64, len_bytes: usize) -> Option<(Decoded, SharedFunction)> {
        let decode = self.decode.read().unwrap_or_else(PoisonError::into_inner);
        let after = decode.partition_point(|(decoded, _)| decoded.base <= gpa);
        let (decoded, function) = decode.get(after.checked_sub(1)?)?;
        let end = gpa.checked_add(u64::try_from(len_bytes).ok()?)?;
        let inside =
            gpa < decoded.base + decoded.len_bytes && end <= decoded.base + decoded.len_bytes;
        inside.then(|| (*decoded, function.clone()))
    }

    /// Recomputes the decode table and tells each function whose BAR moved.
    fn update_decode(&self, topology: &Topology) {
        let table = self.decodable(topology);
        let former = {
            let mut decode = self.decode.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *decode, table.clone())
        };
        // Everything that goes is told first, so that no two BARs bind the same address.
        let gone = former
            .iter()
            .filter(|(old, _)| !table.iter().any(|(new, _)| new == old));
        for (old, function) in gone {
            lock(function).bar_moved((old.bar, None));
        }
        let come = table
            .iter()
            .filter(|(new, _)| !former.iter().any(|(old, _)| new == old));
        for (new, function) in come {
            lock(function).bar_moved((new.bar, Some(new.base)));
        }
    }

    fn decodable(&self, topology: &Topology) -> Vec<(Decoded, SharedFunction)> {
        let window_end = self.layout.mmio_base + self.layout.mmio_len_bytes;
        let mut table: Vec<(Decoded, SharedFunction)> = Vec::new();
        for (slot, shared) in topology.functions.iter().enumerate() {
            let function = lock(shared);
            for (bar, size_bytes) in function.bar_sizes().into_iter().enumerate() {
                let Some(base) = function.bar_address(bar) else {
                    continue;
                };
                // Both are below 2^32: no overflow in any of the sums.
                let decoded = Decoded {
                    base,
                    len_bytes: u64::from(size_bytes),
                    slot,
                    bar,
                };
                let in_window =
                    base >= self.layout.mmio_base && base + decoded.len_bytes <= window_end;
                if in_window && !table.iter().any(|(other, _)| other.overlaps(&decoded)) {
                    table.push((decoded, shared.clone()));
                }
            }
        }
        table.sort_by_key(|(decoded, _)| decoded.base);
        table
    }
}

impl Topology {
    fn find(&self, bus: u8, device: u8, function: u8) -> Option<SharedFunction> {
        if bus != 0 || function != 0 {
            return None;
        }
        self.functions.get(usize::from(device)).cloned()
    }
}

fn lock(function: &SharedFunction) -> MutexGuard<'_, dyn PciFunction + 'static> {
    function.lock().unwrap_or_else(PoisonError::into_inner)
}
