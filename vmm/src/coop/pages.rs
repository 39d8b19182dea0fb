//! What the memory operations do to guest RAM: back it, give it back.
#![expect(unsafe_code)]
// UNSAFETY: `madvise` on guest memory; releasing changes contents, which the guest asked for.

use std::io;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::areas::Areas;
use super::ranges::Ground;
use crate::mem::{release_advice, GuestRam};

/// Guest RAM and what must not be touched in it.
#[derive(Clone, Copy)]
pub struct Pages<'a> {
    /// The RAM.
    pub ram: &'a GuestRam,
    /// Registered areas.
    pub areas: &'a Areas,
}

impl Ground for Pages<'_> {
    fn is_ram(&self, gpa: u64, len_bytes: u64) -> bool {
        is_ram(self.ram, gpa, len_bytes)
    }

    fn overlaps_area(&self, gpa: u64, len_bytes: u64) -> bool {
        self.areas.overlaps(gpa, len_bytes)
    }

    fn fetch(&self, gpa: u64) -> Option<[u64; 2]> {
        let mut bytes = [0; 16];
        self.ram.read_slice(&mut bytes, GuestAddress(gpa)).ok()?;
        let (gpa, len_bytes) = bytes.split_at(8);
        Some([
            u64::from_le_bytes(gpa.try_into().ok()?),
            u64::from_le_bytes(len_bytes.try_into().ok()?),
        ])
    }
}

/// Whether all these bytes are ordinary memory, in one piece.
pub fn is_ram(ram: &GuestRam, gpa: u64, len_bytes: u64) -> bool {
    let Ok(len) = usize::try_from(len_bytes) else {
        return false;
    };
    len > 0 && ram.get_slice(GuestAddress(gpa), len).is_ok()
}

/// Makes the host back these pages, for writing. The caller has checked that they are RAM.
pub fn populate(ram: &GuestRam, gpa: u64, len_bytes: u64) -> io::Result<()> {
    advise(ram, gpa, len_bytes, libc::MADV_POPULATE_WRITE)
}

/// Gives these pages back; they read as zero afterwards. The caller has checked that they are RAM.
pub fn release(ram: &GuestRam, gpa: u64, len_bytes: u64) -> io::Result<()> {
    advise(ram, gpa, len_bytes, release_advice(ram))
}

fn advise(ram: &GuestRam, gpa: u64, len_bytes: u64, advice: libc::c_int) -> io::Result<()> {
    let outside = || io::Error::from_raw_os_error(libc::EFAULT);
    let len = usize::try_from(len_bytes).map_err(|_| outside())?;
    if !gpa.is_multiple_of(4096) || !len.is_multiple_of(4096) || len == 0 {
        return Err(outside());
    }
    let slice = ram
        .get_slice(GuestAddress(gpa), len)
        .map_err(|_| outside())?;
    let start = slice.ptr_guard_mut().as_ptr();
    // SAFETY: 1. the range lies in one mapping of guest RAM, by `get_slice`, and is whole pages;
    // 2. RAM is only ever reached by volatile or atomic accesses, to which a change of contents by
    // this is like a write by the guest; no Rust reference into it exists.
    let result = unsafe { libc::madvise(start.cast(), len, advice) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coop::testing::ram;

    #[test]
    fn released_memory_reads_zero_and_its_neighbours_stay() {
        let ram = ram();
        for gpa in [0x10_0ff8, 0x10_1000, 0x10_2ff8, 0x10_3000] {
            ram.write_obj(u64::MAX, GuestAddress(gpa)).unwrap();
        }
        release(&ram, 0x10_1000, 0x2000).unwrap();
        let read = |gpa| ram.read_obj::<u64>(GuestAddress(gpa)).unwrap();
        assert_eq!(
            [0x10_0ff8, 0x10_1000, 0x10_2ff8, 0x10_3000].map(read),
            [u64::MAX, 0, 0, u64::MAX]
        );
        populate(&ram, 0x10_1000, 0x2000).unwrap();
        assert_eq!(read(0x10_1000), 0);
    }

    #[test]
    fn trust_4_nothing_outside_ram_is_touched() {
        let ram = ram();
        for (gpa, len) in [
            (4 << 20, 0x1000),
            ((4 << 20) - 0x1000, 0x2000),
            (0xfee0_0000, 0x1000),
            (0x1800, 0x1000),
            (0x1000, 0),
            (!0xfff, 0x1000),
            (0, !0xfff),
        ] {
            assert!(release(&ram, gpa, len).is_err(), "{gpa:#x}+{len:#x}");
            assert!(!is_ram(&ram, gpa, len) || gpa == 0x1800);
        }
    }
}
