//! Reads whose completion the kernel polls the disk for: io_uring with `IORING_SETUP_IOPOLL`.
//!
//! Only `works::readpoll` uses it. The ring owns the file and the buffer, so that the kernel never
//! writes to memory that is somebody else's by then.
#![expect(unsafe_code)]
// UNSAFETY: a submission hands the address of a buffer to the kernel.

use super::memory::{Pages, PAGE_BYTES};
use io_uring::{opcode, types, IoUring};
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

/// A ring for one read at a time, with a page of buffer.
///
/// # Invariants
/// While `is_in_flight`, `ring`, `file` and `buffer` exist and do not move; `drop` leaks them rather
/// than break this.
pub(crate) struct PolledReader {
    ring: ManuallyDrop<IoUring>,
    file: ManuallyDrop<File>,
    buffer: ManuallyDrop<Pages>,
    is_in_flight: bool,
}

impl PolledReader {
    /// Makes a ring for reads of `file`, which was opened with `O_DIRECT`; the buffer is touched here.
    pub(crate) fn new(file: File) -> io::Result<PolledReader> {
        let buffer = Pages::map_touched(1)?;
        let ring = IoUring::builder().setup_iopoll().build(1)?;
        Ok(PolledReader {
            ring: ManuallyDrop::new(ring),
            file: ManuallyDrop::new(file),
            buffer: ManuallyDrop::new(buffer),
            is_in_flight: false,
        })
    }

    /// Reads the page-sized block `block`; `first_word` is what the buffer holds until the read has
    /// overwritten it. Returns how many bytes came and the buffer's first word. Fails with
    /// `Interrupted` when an alarm fires, and then for good.
    pub(crate) fn read(&mut self, block: u64, first_word: u64) -> io::Result<(usize, u64)> {
        if self.is_in_flight {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        let offset = block
            .checked_mul(PAGE_BYTES as u64)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        self.buffer.word(0).store(first_word, Ordering::Relaxed);
        let buffer = self.buffer.bytes_mut(0);
        let len = u32::try_from(buffer.len()).unwrap_or(0);
        let file = types::Fd(self.file.as_raw_fd());
        let read = opcode::Read::new(file, buffer.as_mut_ptr(), len);
        let read = read.offset(offset).build();
        // SAFETY: the buffer is `len` bytes of ours and the file is open; by the invariants both stay
        // until the kernel is done.
        unsafe { self.ring.submission().push(&read) }
            .map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))?;
        self.is_in_flight = true;
        let got = loop {
            // Comes back without anything where the scheduler wants this CPU.
            self.ring.submit_and_wait(1)?;
            if let Some(done) = self.ring.completion().next() {
                break done.result();
            }
        };
        self.is_in_flight = false;
        let got = usize::try_from(got).map_err(|_| io::Error::from_raw_os_error(-got))?;
        Ok((got, self.buffer.word(0).load(Ordering::Acquire)))
    }
}

impl Drop for PolledReader {
    fn drop(&mut self) {
        if self.is_in_flight {
            // The kernel may still write to the buffer. This happens only after an error: leak.
            return;
        }
        // SAFETY: nothing is in flight, so the kernel has no use for the fields any more; each is
        // dropped once, here.
        unsafe {
            ManuallyDrop::drop(&mut self.ring);
            ManuallyDrop::drop(&mut self.buffer);
            ManuallyDrop::drop(&mut self.file);
        }
    }
}
