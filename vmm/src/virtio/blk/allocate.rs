//! System calls that free or zero parts of a file or block device, or tell what it is.
#![expect(unsafe_code)]
// UNSAFETY: fallocate, fstatfs and the ioctls of block devices have no safe wrapper here. None is handed an
// address but of its own arguments.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::request::Range;

/// Frees the range; it reads as zero afterwards.
pub(super) const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
/// Zeroes the range and keeps its blocks.
pub(super) const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

// Of linux/magic.h.
const RAMFS_MAGIC: i64 = 0x8584_58f6;
// _IO(0x12, 119), _IO(0x12, 127) and _IO(0x12, 123) of linux/fs.h.
const BLKDISCARD: libc::c_ulong = 0x1277;
const BLKZEROOUT: libc::c_ulong = 0x127f;
const BLKPBSZGET: libc::c_ulong = 0x127b;

/// Calls fallocate. The length is not zero.
pub(super) fn allocate(file: &File, mode: i32, range: Range) -> io::Result<()> {
    let bad = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let offset = i64::try_from(range.offset).map_err(bad)?;
    let len = i64::try_from(range.len_bytes).map_err(bad)?;
    loop {
        // SAFETY: takes an open descriptor and integers.
        if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Whether the file can have holes: one is asked for behind its end, which changes nothing.
pub(super) fn can_punch(file: &File, len_bytes: u64) -> bool {
    let range = Range {
        offset: len_bytes,
        len_bytes: 4096,
    };
    allocate(file, PUNCH, range).is_ok()
}

/// Tells a block device that the range is not needed any more.
pub(super) fn discard_device(file: &File, range: Range) -> io::Result<()> {
    device_range(file, BLKDISCARD, range)
}

/// Zeroes a range of a block device.
pub(super) fn zero_device(file: &File, range: Range) -> io::Result<()> {
    device_range(file, BLKZEROOUT, range)
}

fn device_range(file: &File, request: libc::c_ulong, range: Range) -> io::Result<()> {
    let argument = [range.offset, range.len_bytes];
    // SAFETY: both requests read two u64 at the address, which `argument` has.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, argument.as_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The physical block size of a block device.
pub(super) fn device_block_bytes(file: &File) -> io::Result<u32> {
    let mut bytes: libc::c_uint = 0;
    // SAFETY: the request writes one unsigned int at the address, which `bytes` has.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKPBSZGET, &raw mut bytes) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(bytes)
}

/// Whether the file's content is in the host's memory only, so that nothing on it ever waits.
pub(super) fn is_in_memory(file: &File) -> bool {
    // SAFETY: the struct is made of integers, for which zero is valid.
    let mut about = unsafe { std::mem::zeroed::<libc::statfs>() };
    // SAFETY: the descriptor is open, and the struct may be written to.
    let result = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut about) };
    let kinds = [libc::TMPFS_MAGIC, libc::HUGETLBFS_MAGIC, RAMFS_MAGIC];
    result == 0 && kinds.contains(&about.f_type)
}
