//! Type-0 configuration space: 256 bytes, each bit with its write mask.
//!
//! A device builds one, adds BARs and capabilities, and then forwards the guest's accesses to it.
//! Bytes past 256 (the extended space that ECAM can reach) read as zero, which means "no extended
//! capability".

/// BARs of a type-0 header.
pub const BAR_COUNT: usize = 6;

const CONFIG_BYTES: usize = 256;
const VENDOR_ID: usize = 0x00;
const DEVICE_ID: usize = 0x02;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const CLASS: usize = 0x09;
const CACHE_LINE: usize = 0x0c;
const LATENCY: usize = 0x0d;
const BAR0: usize = 0x10;
const SUBSYSTEM_VENDOR: usize = 0x2c;
const SUBSYSTEM: usize = 0x2e;
const CAP_POINTER: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const FIRST_CAP: usize = 0x40;

const COMMAND_MEMORY: u8 = 1 << 1;
const COMMAND_MASTER: u8 = 1 << 2;
// Memory decoding, bus mastering, and (without effect, but some systems check it) INTx disable.
const COMMAND_WRITABLE: u16 = 1 << 1 | 1 << 2 | 1 << 10;
const STATUS_CAP_LIST: u8 = 1 << 4;

/// What identifies a function.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConfigHeader {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Base class, subclass and programming interface, as in 0x0106_01.
    pub class: u32,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// A 32-bit memory BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Which of the six.
    pub index: usize,
    /// Its size: a power of two, at least 16.
    pub size_bytes: u32,
}

/// The registers of one function.
pub struct ConfigSpace {
    bytes: [u8; CONFIG_BYTES],
    writable: [u8; CONFIG_BYTES],
    bar_sizes: [u32; BAR_COUNT],
    // End of the capabilities so far, and where the pointer to the next one goes.
    next_cap: usize,
    cap_link: usize,
}

impl ConfigSpace {
    /// Creates the space of a function without BARs and capabilities.
    pub fn new(header: &ConfigHeader) -> Self {
        let mut space = Self {
            bytes: [0; CONFIG_BYTES],
            writable: [0; CONFIG_BYTES],
            bar_sizes: [0; BAR_COUNT],
            next_cap: FIRST_CAP,
            cap_link: CAP_POINTER,
        };
        space.set(VENDOR_ID, &header.vendor.to_le_bytes());
        space.set(DEVICE_ID, &header.device.to_le_bytes());
        space.set(REVISION, &[header.revision]);
        space.set(CLASS, &header.class.to_le_bytes()[..3]);
        space.set(SUBSYSTEM_VENDOR, &header.subsystem_vendor.to_le_bytes());
        space.set(SUBSYSTEM, &header.subsystem.to_le_bytes());
        space.allow(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        space.allow(CACHE_LINE, &[0xff]);
        space.allow(LATENCY, &[0xff]);
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Adds a BAR. It gets its address by [`ConfigSpace::place_bar`].
    pub fn add_bar(&mut self, bar: Bar) {
        assert!(
            bar.size_bytes.is_power_of_two() && bar.size_bytes >= 16,
            "bad size of {bar:?}"
        );
        self.bar_sizes[bar.index] = bar.size_bytes;
        // The bits below the size are hard-wired to zero; that is how a guest learns the size.
        self.allow(BAR0 + bar.index * 4, &(!(bar.size_bytes - 1)).to_le_bytes());
    }

    /// Appends a capability and returns the offset of its first byte (the ID). `body` follows the ID
    /// and the link, and `writable` has the bits of the body that a guest can write.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let offset = self.next_cap;
        let end = (offset + 2 + body.len()).next_multiple_of(4);
        assert!(
            end <= CONFIG_BYTES,
            "capabilities do not fit in configuration space"
        );
        self.set(offset, &[id, 0]);
        self.set(offset + 2, body);
        self.allow(offset + 2, writable);
        let link = u8::try_from(offset).expect("below 256, checked above");
        self.set(self.cap_link, &[link]);
        self.bytes[STATUS] |= STATUS_CAP_LIST;
        self.cap_link = offset + 1;
        self.next_cap = end;
        offset
    }

    /// Sets a BAR's address and enables memory decoding, as firmware would.
    pub fn place_bar(&mut self, bar: usize, base: u32) {
        self.set(BAR0 + bar * 4, &base.to_le_bytes());
        self.bytes[COMMAND] |= COMMAND_MEMORY;
    }

    /// The BARs' sizes, 0 where there is none.
    pub fn bar_sizes(&self) -> [u32; BAR_COUNT] {
        self.bar_sizes
    }

    /// Whether the function may touch memory.
    pub fn is_master(&self) -> bool {
        self.bytes[COMMAND] & COMMAND_MASTER != 0
    }

    /// Where the guest wants the BAR, if it is decoded.
    pub fn bar_address(&self, bar: usize) -> Option<u64> {
        let size = *self.bar_sizes.get(bar)?;
        let decoded = size != 0 && self.bytes[COMMAND] & COMMAND_MEMORY != 0;
        let [b0, b1, b2, b3] = self.get4(BAR0 + bar * 4);
        decoded.then_some(u64::from(u32::from_le_bytes([b0, b1, b2, b3])))
    }

    /// Reads bytes at an offset; what is past the 256th is zero.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = self
                .bytes
                .get(usize::from(offset) + index)
                .copied()
                .unwrap_or(0);
        }
    }

    /// Writes bytes at an offset, as far as their bits are writable.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        for (index, &byte) in data.iter().enumerate() {
            let at = usize::from(offset) + index;
            let (Some(target), Some(&mask)) = (self.bytes.get_mut(at), self.writable.get(at))
            else {
                return;
            };
            *target = *target & !mask | byte & mask;
        }
    }

    /// Four bytes of the space, for a device's own capability registers. `offset` is the device's
    /// choice, never the guest's.
    pub fn get4(&self, offset: usize) -> [u8; 4] {
        let bytes = &self.bytes[offset..offset + 4];
        bytes.try_into().expect("four bytes were taken")
    }

    /// Sets four bytes, as [`ConfigSpace::get4`] reads them.
    pub fn set4(&mut self, offset: usize, bytes: [u8; 4]) {
        self.set(offset, &bytes);
    }

    fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(&ConfigHeader {
            vendor: 0x1af4,
            device: 0x1042,
            class: 0x01_80_00,
            ..Default::default()
        });
        space.add_bar(Bar {
            index: 1,
            size_bytes: 0x8000,
        });
        space
    }

    fn read4(space: &ConfigSpace, offset: u16) -> u32 {
        let mut data = [0; 4];
        space.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn bar_of_all_ones_reads_back_its_size() {
        let mut space = space();
        space.write(0x14, &[0xff; 4]);
        assert_eq!(read4(&space, 0x14), 0xffff_8000);
        space.write(0x10, &[0xff; 4]);
        assert_eq!(read4(&space, 0x10), 0, "an absent BAR reads as zero");
    }

    #[test]
    fn bar_is_decoded_only_with_the_memory_bit() {
        let mut space = space();
        assert_eq!(space.bar_address(1), None);
        space.place_bar(1, 0xc000_0000);
        assert_eq!(space.bar_address(1), Some(0xc000_0000));
        space.write(0x04, &[0, 0]);
        assert_eq!(space.bar_address(1), None);
        assert_eq!(space.bar_address(0), None);
        assert_eq!(space.bar_address(7), None);
    }

    #[test]
    fn identity_and_capability_headers_cannot_be_written() {
        let mut space = space();
        let offset = space.add_capability(0x11, &[1, 2, 3, 4], &[0, 0xff, 0, 0]);
        let second = space.add_capability(0x09, &[5, 6], &[]);
        for at in (0..256).filter(|at| !(0x10..0x28).contains(at)) {
            space.write(at, &[0xff]);
        }
        assert_eq!(read4(&space, 0), 0x1042_1af4);
        assert_eq!(read4(&space, 8) >> 8, 0x01_80_00);
        assert_eq!(usize::from(space.bytes[0x34]), offset);
        assert_eq!(
            space.bytes[offset..offset + 6],
            [0x11, u8::try_from(second).unwrap(), 1, 0xff, 3, 4]
        );
        assert_eq!(space.bytes[second..second + 4], [0x09, 0, 5, 6]);
        assert_eq!(space.bytes[0x3d], 0, "no interrupt pin");
    }

    #[test]
    fn accesses_past_the_space_are_harmless() {
        let mut space = space();
        let mut data = [0xaa; 8];
        space.read(0xfe, &mut data);
        assert_eq!(data, [0; 8]);
        space.write(0xfe, &[0xff; 8]);
        space.write(4095, &[1]);
    }
}
