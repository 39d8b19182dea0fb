//! A lock on a disk image, so that two machines do not write to it.
//!
//! It belongs to the open file, not to the process: it ends with the last descriptor, also when the
//! process is killed, and two disks of one machine exclude each other as well.
#![expect(unsafe_code)]
// UNSAFETY: fcntl with a struct has no safe wrapper here.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::open::BlkAccess;

/// How it went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Locked {
    Yes,
    /// Somebody else has it.
    InUse,
    /// The file system has no such locks.
    Unsupported,
}

/// Locks the whole file: for itself to write, shared to read. Never waits.
pub(super) fn lock(file: &File, access: BlkAccess) -> io::Result<Locked> {
    let kind = match access {
        BlkAccess::ReadOnly => libc::F_RDLCK,
        BlkAccess::ReadWrite => libc::F_WRLCK,
    };
    // SAFETY: the struct is made of integers, for which zero is valid; a length of zero is to the end.
    let mut range = unsafe { std::mem::zeroed::<libc::flock>() };
    range.l_type = libc::c_short::try_from(kind).expect("a small constant");
    range.l_whence = libc::c_short::try_from(libc::SEEK_SET).expect("a small constant");
    // SAFETY: the descriptor is open and `range` a complete struct that is only read.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const range) } == 0 {
        return Ok(Locked::Yes);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(Locked::InUse),
        Some(libc::EOPNOTSUPP | libc::ENOLCK | libc::ENOSYS | libc::EINVAL) => {
            Ok(Locked::Unsupported)
        }
        _ => Err(error),
    }
}
