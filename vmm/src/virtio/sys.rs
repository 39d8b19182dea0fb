//! System calls that move data straight between the host's files and guest memory, or drop it.
#![expect(unsafe_code)]
// UNSAFETY: vectored I/O and madvise on volatile slices have no safe wrapper; the slices come from
// guest memory that stays mapped while they live.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::fs::FileExt;

use vm_memory::{GuestMemoryMmap, VolatileSlice};
use vmm_sys_util::eventfd::EventFd;

use super::chain::Segments;
use crate::mem::release_advice;

/// The kernel refuses more than IOV_MAX (1024).
pub(super) const MAX_IOVECS: usize = 1024;
/// What is written where a file system cannot zero.
pub(super) static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
const PAGE_BYTES: usize = 4096;

/// Fills all of `target` from the file. An error may leave part of it filled.
pub(super) fn read_at(file: &File, target: &Segments, offset: u64) -> io::Result<()> {
    transfer(target, offset, |iovecs, offset| {
        // SAFETY: the descriptor is open; the iovecs point to guest memory that is mapped and
        // writable for their lengths (`iovecs_of`). The guest may touch that memory at the same
        // time, which the kernel does not mind and which no Rust reference aliases.
        unsafe { libc::preadv(file.as_raw_fd(), iovecs.as_ptr(), nr(iovecs), offset) }
    })
}

/// Writes all of `source` to the file; if `is_durable`, it is on the medium when this returns. An
/// error may leave part of it written.
pub(super) fn write_at(
    file: &File,
    source: &Segments,
    offset: u64,
    is_durable: bool,
) -> io::Result<()> {
    let flags = if is_durable { libc::RWF_DSYNC } else { 0 };
    transfer(source, offset, |iovecs, offset| {
        // SAFETY: as in `read_at`, for reading.
        unsafe { libc::pwritev2(file.as_raw_fd(), iovecs.as_ptr(), nr(iovecs), offset, flags) }
    })
}

/// Sends all of `source` as one packet.
pub(super) fn write_packet(file: &File, source: &Segments) -> io::Result<()> {
    let iovecs = iovecs_of(source.slices(), 0);
    // SAFETY: as in `write_at`.
    let written = unsafe { libc::writev(file.as_raw_fd(), iovecs.as_ptr(), nr(&iovecs)) };
    if written < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Fills `target` from the file if nothing has to be waited for. Returns whether all of it is filled.
pub(super) fn read_now(file: &File, target: &Segments, offset: u64) -> bool {
    let (Ok(offset), iovecs) = (i64::try_from(offset), iovecs_of(target.slices(), 0)) else {
        return false;
    };
    let flags = libc::RWF_NOWAIT;
    // SAFETY: as in `read_at`.
    let read = unsafe {
        libc::preadv2(
            file.as_raw_fd(),
            iovecs.as_ptr(),
            nr(&iovecs),
            offset,
            flags,
        )
    };
    u64::try_from(read).is_ok_and(|read| read == target.len_bytes())
}

/// Writes zeros to the file.
pub(super) fn write_zeros(file: &File, offset: u64, len_bytes: u64) -> io::Result<()> {
    let mut done = 0;
    while done < len_bytes {
        let left = usize::try_from(len_bytes - done).unwrap_or(usize::MAX);
        let zeros = &ZEROS[..left.min(ZEROS.len())];
        file.write_all_at(zeros, offset + done)?;
        done += zeros.len() as u64;
    }
    Ok(())
}

/// Another handle of an eventfd, for those who take files.
pub(super) fn file_of(event: &EventFd) -> io::Result<File> {
    let fd = event.try_clone()?.into_raw_fd();
    // SAFETY: the descriptor has just been made and given up by its only owner.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Fills `target` with random bytes of the kernel's.
pub(super) fn fill_random(target: &Segments) -> io::Result<()> {
    transfer(target, 0, |iovecs, _| match iovecs.first() {
        // SAFETY: the iovec points to writable guest memory for its length (`iovecs_of`).
        Some(iovec) => unsafe { libc::getrandom(iovec.iov_base, iovec.iov_len, 0) },
        None => 0,
    })
}

/// Gives whole pages back to the host's kernel; they read as zero afterwards. Returns their size.
/// Nothing is given back if any piece is not whole pages.
pub(super) fn discard(target: &Segments, ram: &GuestMemoryMmap<()>) -> io::Result<u64> {
    let is_paged = |slice: &VolatileSlice<'_, ()>| {
        let start = slice.ptr_guard().as_ptr() as usize;
        start.is_multiple_of(PAGE_BYTES) && slice.len().is_multiple_of(PAGE_BYTES)
    };
    if !target.slices().all(is_paged) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let advice = release_advice(ram);
    let mut bytes = 0;
    for slice in target.slices() {
        let start = slice.ptr_guard_mut().as_ptr();
        // SAFETY: the slice is mapped guest memory of this length that the guest gave for writing;
        // its contents becoming zero is a write like another, and no Rust reference aliases it.
        let result = unsafe { libc::madvise(start.cast(), slice.len(), advice) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        bytes += slice.len() as u64;
    }
    Ok(bytes)
}

/// Repeats a call that may do less than asked until all of `segments` is done.
fn transfer(
    segments: &Segments,
    offset: u64,
    mut call: impl FnMut(&[libc::iovec], i64) -> isize,
) -> io::Result<()> {
    let total = segments.len_bytes();
    let mut done = 0;
    while done < total {
        let position = offset
            .checked_add(done)
            .and_then(|position| i64::try_from(position).ok());
        let position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let result = call(&iovecs_of(segments.slices(), done), position);
        match u64::try_from(result) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(moved) => done += moved,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

/// The slices without their first `skip` bytes, as the kernel wants them. Valid as long as the
/// slices: guest memory is mapped directly, so a pointer needs no guard to stay valid.
pub(super) fn iovecs_of<'a, 'r: 'a>(
    slices: impl Iterator<Item = &'a VolatileSlice<'r, ()>>,
    mut skip: u64,
) -> Vec<libc::iovec> {
    let mut iovecs = Vec::new();
    for slice in slices {
        let from = usize::try_from(skip).unwrap_or(usize::MAX).min(slice.len());
        skip -= from as u64;
        let Ok(rest) = slice.offset(from) else {
            continue;
        };
        if !rest.is_empty() && iovecs.len() < MAX_IOVECS {
            let iov_base = rest.ptr_guard_mut().as_ptr().cast();
            iovecs.push(libc::iovec {
                iov_base,
                iov_len: rest.len(),
            });
        }
    }
    iovecs
}

fn nr(iovecs: &[libc::iovec]) -> i32 {
    i32::try_from(iovecs.len()).expect("bounded by MAX_IOVECS")
}
