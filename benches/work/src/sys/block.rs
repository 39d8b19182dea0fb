//! What only block devices can do: discard and zero a range.
#![expect(unsafe_code)]
// UNSAFETY: ioctls that read a range from our memory.

use super::check;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

// _IO(0x12, 119) and _IO(0x12, 127) of linux/fs.h.
const BLKDISCARD: libc::c_ulong = 0x1277;
const BLKZEROOUT: libc::c_ulong = 0x127f;

/// Says that the range is not needed any more.
pub(crate) fn discard(disk: &File, offset: u64, len_bytes: u64) -> io::Result<()> {
    range(disk, BLKDISCARD, [offset, len_bytes])
}

/// Fills the range with zeros.
pub(crate) fn zero(disk: &File, offset: u64, len_bytes: u64) -> io::Result<()> {
    range(disk, BLKZEROOUT, [offset, len_bytes])
}

fn range(disk: &File, request: libc::c_ulong, range: [u64; 2]) -> io::Result<()> {
    // SAFETY: both requests read two u64 at the address, which `range` has.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), request as _, range.as_ptr()) })?;
    Ok(())
}
