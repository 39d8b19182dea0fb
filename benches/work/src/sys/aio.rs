//! Linux asynchronous I/O by raw system calls: page-sized reads, several in flight.
//!
//! Only `works::read32` uses it. The context owns the file and the buffers, so that the kernel
//! never writes to memory that is somebody else's by then.
#![expect(unsafe_code)]
// UNSAFETY: io_setup, io_submit and io_getevents hand addresses to the kernel.

use super::check;
use super::memory::{Pages, PAGE_BYTES};
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

/// One finished request, as the kernel reports it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Event {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

/// A queue of reads with one page of buffer per slot.
///
/// # Invariants
/// `context` is a live AIO context. While `in_flight` is not zero, `buffers`, `file` and
/// `requests` exist and do not move; `drop` leaks them rather than break this.
pub(crate) struct Reader {
    context: u64,
    file: ManuallyDrop<File>,
    buffers: ManuallyDrop<Pages>,
    requests: ManuallyDrop<Vec<libc::iocb>>,
    /// The slots that the next submission takes, as addresses of their requests.
    batch: Vec<u64>,
    events: Vec<Event>,
    in_flight: usize,
}

impl Reader {
    /// Makes a queue of `slots` reads on `file`; all memory is touched here.
    pub(crate) fn new(file: File, slots: usize) -> io::Result<Reader> {
        let buffers = Pages::map_touched(slots)?;
        let mut context = 0u64;
        let nr_events = libc::c_long::try_from(slots).unwrap_or(libc::c_long::MAX);
        // SAFETY: `context` is a valid, zero word that the kernel fills.
        check(unsafe { libc::syscall(libc::SYS_io_setup, nr_events, &raw mut context) })?;
        // SAFETY: a request is made of integers only, for which zero is valid.
        let empty = || unsafe { std::mem::zeroed::<libc::iocb>() };
        Ok(Reader {
            context,
            file: ManuallyDrop::new(file),
            buffers: ManuallyDrop::new(buffers),
            requests: ManuallyDrop::new((0..slots).map(|_| empty()).collect()),
            batch: Vec::with_capacity(slots),
            events: vec![Event::default(); slots],
            in_flight: 0,
        })
    }

    /// The number of reads that the kernel has.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Puts a read of the page-sized block `block` into the next submission; `first_word` is
    /// what the buffer holds until the read has overwritten it.
    pub(crate) fn queue(&mut self, slot: usize, block: u64, first_word: u64) -> io::Result<()> {
        let offset = block
            .checked_mul(PAGE_BYTES as u64)
            .and_then(|offset| i64::try_from(offset).ok())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        self.buffers.word(slot).store(first_word, Ordering::Relaxed);
        let address = self.buffers.address(slot);
        let fd = self.file.as_raw_fd();
        let Some(request) = self.requests.get_mut(slot) else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        request.aio_data = slot as u64;
        request.aio_lio_opcode = 0; // IOCB_CMD_PREAD
        request.aio_fildes = u32::try_from(fd).unwrap_or(u32::MAX);
        request.aio_buf = address;
        request.aio_nbytes = PAGE_BYTES as u64;
        request.aio_offset = offset;
        self.batch.push(std::ptr::from_mut(request) as u64);
        Ok(())
    }

    /// Hands all queued reads to the kernel in as few calls as it allows.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        let mut from = 0;
        while let Some(rest) = self.batch.get(from..).filter(|rest| !rest.is_empty()) {
            let count = libc::c_long::try_from(rest.len()).unwrap_or(libc::c_long::MAX);
            // SAFETY: `rest` holds addresses of our requests, each of which names one page of
            // our buffers; by the invariants all stay in place until the kernel is done.
            let taken = check(unsafe {
                libc::syscall(libc::SYS_io_submit, self.context, count, rest.as_ptr())
            })?;
            let taken = usize::try_from(taken).unwrap_or(0);
            if taken == 0 {
                return Err(io::Error::from_raw_os_error(libc::EAGAIN));
            }
            from += taken;
            self.in_flight += taken;
        }
        self.batch.clear();
        Ok(())
    }

    /// Waits for at least one read, then calls `done(slot, bytes or -errno, first word)` for
    /// each that has ended. Fails with `Interrupted` when an alarm fires.
    pub(crate) fn wait(&mut self, mut done: impl FnMut(usize, i64, u64)) -> io::Result<()> {
        let room = libc::c_long::try_from(self.events.len()).unwrap_or(libc::c_long::MAX);
        // SAFETY: `events` is valid for `room` events; a null time-out waits without a timer.
        let got = check(unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                1 as libc::c_long,
                room,
                self.events.as_mut_ptr(),
                std::ptr::null_mut::<libc::timespec>(),
            )
        })?;
        let got = usize::try_from(got).unwrap_or(0);
        self.in_flight = self.in_flight.saturating_sub(got);
        for event in self.events.iter().take(got) {
            let slot = usize::try_from(event.data).unwrap_or(usize::MAX);
            done(
                slot,
                event.result,
                self.buffers.word(slot).load(Ordering::Acquire),
            );
        }
        Ok(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.in_flight != 0 {
            // The kernel may still write to the buffers, and io_destroy would wait for it without
            // a time-out. This happens only after an error: leak.
            return;
        }
        // SAFETY: the context is live and has nothing in flight, so the kernel has no use for the
        // fields any more; each is dropped once, here.
        unsafe {
            libc::syscall(libc::SYS_io_destroy, self.context);
            ManuallyDrop::drop(&mut self.requests);
            ManuallyDrop::drop(&mut self.buffers);
            ManuallyDrop::drop(&mut self.file);
        }
    }
}
