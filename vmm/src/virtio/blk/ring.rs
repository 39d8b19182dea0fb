//! The io_uring of one queue: many of its requests on their way at once.
//!
//! [`Ring::start`] takes a checked request, [`Ring::submit`] hands everything that was started to
//! the kernel in one call, [`Ring::finish`] says what has come back. The kernel signals an event of the
//! ring's own when something has ([`Ring::event`]): on the queue's doorbell nobody could tell it from a
//! notification of the guest's. Short transfers go on where they stopped; what the kernel wants
//! tried again is tried again, but not for ever.
//!
//! The kernel reads and writes guest memory while a request is on its way. So the ring keeps a handle
//! on that memory, [`Ring::quiesce`] waits until nothing is on its way any more, and dropping the
//! ring does so too.
#![expect(unsafe_code)]
// UNSAFETY: submitting hands addresses to the kernel that it uses later; a flight holds them, and
// the status byte's, without a lifetime.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use io_uring::{opcode, squeue, types, IoUring, Probe};
use vm_memory::{GuestMemoryMmap, VolatileSlice};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::super::backend;
use super::super::device::QUEUE_SIZE_MAX;
use super::super::sys::{iovecs_of, MAX_IOVECS, ZEROS};
use super::allocate::PUNCH;
use super::disk::{failure, is_unsupported, Disk};
use super::faults::Faults;
use super::request::{len_written, Action, Range, Request, MAX_ZERO_SECTORS, STATUS_OK};
use super::SECTOR_BYTES;

/// One for each chain that a queue can have.
const CAPACITY: u32 = QUEUE_SIZE_MAX as u32;
/// How often a request is tried again that the kernel could not take.
const MAX_RETRIES: u32 = 64;
const _: () = assert!(MAX_ZERO_SECTORS as u64 * SECTOR_BYTES <= (MAX_IOVECS * ZEROS.len()) as u64);

/// The ring of one queue.
///
/// # Invariants
/// Each `Some` in `flights` has exactly one entry in the kernel or in the submission queue, whose user
/// data is its index, except while `start` or `finish` work on it; so neither queue can overflow.
/// While there is one, `ram` keeps mapped whatever it points to.
pub(super) struct Ring {
    uring: IoUring,
    file: Arc<File>,
    faults: Arc<Faults>,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    ram: Option<GuestMemoryMmap<()>>,
    has_unsubmitted: bool,
    event: Arc<EventFd>,
}

/// A request on its way.
struct Flight {
    head: u16,
    written: u32,
    status_at: *mut u8,
    /// What is left of the data: guest memory, or zeros to write.
    iovecs: Vec<libc::iovec>,
    action: Action,
    zero_mode: i32,
    is_write_through: bool,
    retries_left: u32,
}

// SAFETY: the pointers are to guest memory, which any thread may touch, or to constant zeros. The
// flight is used by one thread at a time, as it is not Sync.
unsafe impl Send for Flight {}

enum Next {
    /// The flight has another entry to be submitted.
    Again,
    Done(u8),
}

impl Ring {
    /// Makes a ring, if this kernel has one and it can do what is needed.
    pub(super) fn new(file: Arc<File>, faults: Arc<Faults>) -> io::Result<Self> {
        let uring = IoUring::builder()
            .dontfork()
            .setup_coop_taskrun()
            .build(CAPACITY)
            // Before Linux 5.19 there is no such flag; it saves interrupts on the host only.
            .or_else(|_| IoUring::builder().dontfork().build(CAPACITY))?;
        let mut probe = Probe::new();
        uring.submitter().register_probe(&mut probe)?;
        let can_all = [
            opcode::Readv::CODE,
            opcode::Writev::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
        ]
        .into_iter()
        .all(|code| probe.is_supported(code));
        if !can_all || !uring.params().is_feature_submit_stable() {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let event = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        uring.submitter().register_eventfd(event.as_raw_fd())?;
        Ok(Self {
            uring,
            file,
            faults,
            flights: (0..CAPACITY).map(|_| None).collect(),
            free: (0..CAPACITY as usize).collect(),
            ram: None,
            has_unsubmitted: false,
            event,
        })
    }

    /// What is signalled when something has come back.
    pub(super) fn event(&self) -> Arc<EventFd> {
        Arc::clone(&self.event)
    }

    /// Has the queue processed again.
    pub(super) fn ask_again(&self) {
        backend::ring(&self.event);
    }

    /// Whether no request can be started before another one has come back.
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// How many requests are on their way.
    pub(super) fn nr_in_flight(&self) -> usize {
        self.flights.len() - self.free.len()
    }

    /// Starts a request on `ram`. There is room for it.
    pub(super) fn start(
        &mut self,
        request: &Request,
        disk: &Disk,
        is_write_through: bool,
        ram: &GuestMemoryMmap<()>,
    ) {
        let index = self.free.pop().expect("the caller asks is_full first");
        self.ram.get_or_insert_with(|| ram.clone());
        let status_at = request
            .reply
            .status
            .slices()
            .find(|slice| !slice.is_empty());
        let zero_mode = match request.action {
            Action::Zero { may_unmap, .. } => disk.zero_mode(may_unmap),
            _ => PUNCH,
        };
        self.flights[index] = Some(Flight {
            head: request.reply.head,
            written: request.reply.written,
            status_at: status_at
                .expect("a reply has a byte for the status")
                .ptr_guard_mut()
                .as_ptr(),
            iovecs: iovecs_of(request.data.slices(), 0),
            action: request.action.clone(),
            zero_mode,
            is_write_through,
            retries_left: MAX_RETRIES,
        });
        self.push(index);
    }

    /// Hands what was started to the kernel. Returns false if it has to be tried again later.
    pub(super) fn submit(&mut self) -> bool {
        while self.has_unsubmitted {
            match self.uring.submit() {
                Ok(_) => self.has_unsubmitted = !self.uring.submission().is_empty(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Whether something has come back that `finish` would say. The signal for it is taken back: whoever
    /// asks calls `finish` then. What comes back later is signalled again, so none is lost.
    pub(super) fn take_finished(&mut self) -> bool {
        let has_finished = !self.uring.completion().is_empty();
        if has_finished {
            // Nobody signalled yet: then the event comes for nothing.
            let _ = self.event.read();
        }
        has_finished
    }

    /// Calls `done` with head and length of each request that is finished, its status written. What
    /// has to go on is started again, but not submitted.
    pub(super) fn finish(&mut self, mut done: impl FnMut(u16, u32)) {
        let results: Vec<(u64, i32)> = self
            .uring
            .completion()
            .map(|entry| (entry.user_data(), entry.result()))
            .collect();
        for (user_data, result) in results {
            let index = usize::try_from(user_data).unwrap_or(usize::MAX);
            let Some(flight) = self.flights.get_mut(index).and_then(Option::as_mut) else {
                debug_assert!(false, "the kernel answers what it was asked");
                continue;
            };
            match flight.advance(result, &self.faults) {
                Next::Again => self.push(index),
                Next::Done(status) => {
                    flight.write_status(status);
                    done(flight.head, len_written(flight.written, status));
                    self.flights[index] = None;
                    self.free.push(index);
                }
            }
        }
    }

    /// Waits until nothing is on its way, and forgets it all without an answer. Returns how many
    /// requests that were.
    pub(super) fn quiesce(&mut self) -> usize {
        let nr = self.nr_in_flight();
        while self.nr_in_flight() > 0 {
            let waited = self.uring.submit_and_wait(1);
            self.has_unsubmitted = false;
            let results: Vec<u64> = self
                .uring
                .completion()
                .map(|entry| entry.user_data())
                .collect();
            if let (Err(error), true) = (waited, results.is_empty()) {
                // It was interrupted, or is short of memory just now: both pass.
                if error.kind() != io::ErrorKind::Interrupted {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
            for index in results
                .into_iter()
                .filter_map(|data| usize::try_from(data).ok())
            {
                if self.flights.get_mut(index).and_then(Option::take).is_some() {
                    self.free.push(index);
                }
            }
        }
        self.ram = None;
        nr
    }

    /// Puts the next entry of a flight in the submission queue.
    fn push(&mut self, index: usize) {
        let Some(flight) = &self.flights[index] else {
            return;
        };
        let entry = flight.entry(self.file.as_raw_fd()).user_data(index as u64);
        // SAFETY: what the entry points to (iovecs, and through them guest memory or constant zeros)
        // lives until its completion was seen: the flight holds the iovecs until then and does not
        // change them, `ram` keeps guest memory mapped, and both go only in `finish` and `quiesce`.
        let pushed = unsafe { self.uring.submission().push(&entry) };
        // Each flight has one entry, and there is room for one of each.
        pushed.expect("the submission queue has room for every flight");
        self.has_unsubmitted = true;
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.quiesce();
    }
}

impl Flight {
    fn entry(&self, fd: RawFd) -> squeue::Entry {
        let fd = types::Fd(fd);
        let iovecs = self.iovecs.as_ptr();
        let nr = u32::try_from(self.iovecs.len()).expect("bounded by MAX_IOVECS");
        let flags = if self.is_write_through {
            libc::RWF_DSYNC
        } else {
            0
        };
        match &self.action {
            Action::Read { offset } => opcode::Readv::new(fd, iovecs, nr).offset(*offset).build(),
            Action::Write { offset } => opcode::Writev::new(fd, iovecs, nr)
                .offset(*offset)
                .rw_flags(flags)
                .build(),
            Action::Flush => opcode::Fsync::new(fd)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            Action::Discard(ranges) => match ranges.last() {
                Some(range) => fallocate(fd, PUNCH, *range),
                None => opcode::Nop::new().build(),
            },
            Action::Zero { range, .. } => fallocate(fd, self.zero_mode, *range),
        }
    }

    /// Takes the result of an entry.
    fn advance(&mut self, result: i32, faults: &Faults) -> Next {
        let moved = match u64::try_from(result) {
            Ok(moved) => moved,
            Err(_) => {
                let error = io::Error::from_raw_os_error(result.saturating_neg());
                return self.fail(&error, faults);
            }
        };
        match &mut self.action {
            Action::Read { offset } | Action::Write { offset } => {
                *offset = offset.saturating_add(moved);
                skip(&mut self.iovecs, moved);
                match (self.iovecs.is_empty(), moved) {
                    (true, _) => Next::Done(STATUS_OK),
                    // The file ends before the disk does.
                    (false, 0) => self.fail(&io::ErrorKind::UnexpectedEof.into(), faults),
                    (false, _) => Next::Again,
                }
            }
            Action::Flush => Next::Done(STATUS_OK),
            Action::Discard(ranges) => {
                ranges.pop();
                if ranges.is_empty() {
                    self.settle()
                } else {
                    Next::Again
                }
            }
            Action::Zero { .. } => self.settle(),
        }
    }

    /// Ends a request that changed the file's allocation.
    fn settle(&mut self) -> Next {
        if self.is_write_through {
            self.action = Action::Flush;
            return Next::Again;
        }
        Next::Done(STATUS_OK)
    }

    fn fail(&mut self, error: &io::Error, faults: &Faults) -> Next {
        let is_passing = matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN));
        if is_passing && self.retries_left > 0 {
            self.retries_left -= 1;
            return Next::Again;
        }
        if let (Action::Zero { range, .. }, true) = (&self.action, is_unsupported(error)) {
            self.iovecs = zeros(range.len_bytes);
            self.action = Action::Write {
                offset: range.offset,
            };
            return Next::Again;
        }
        Next::Done(failure(faults, &self.action, error))
    }

    fn write_status(&self, status: u8) {
        // SAFETY: the byte is in guest memory, which the ring keeps mapped while the flight is in it;
        // others touch it as volatile memory too.
        let byte = unsafe { VolatileSlice::new(self.status_at, 1) };
        byte.copy_from(&[status]);
    }
}

fn fallocate(fd: types::Fd, mode: i32, range: Range) -> squeue::Entry {
    opcode::Fallocate::new(fd, range.len_bytes)
        .offset(range.offset)
        .mode(mode)
        .build()
}

/// Drops the first `len_bytes` of what the iovecs describe.
fn skip(iovecs: &mut Vec<libc::iovec>, mut len_bytes: u64) {
    let mut whole = 0;
    for iovec in iovecs.iter_mut() {
        let part = usize::try_from(len_bytes)
            .unwrap_or(usize::MAX)
            .min(iovec.iov_len);
        len_bytes -= part as u64;
        if part < iovec.iov_len {
            // Within the iovec, so the result is still in what it described.
            iovec.iov_base = iovec.iov_base.cast::<u8>().wrapping_add(part).cast();
            iovec.iov_len -= part;
            break;
        }
        whole += 1;
    }
    iovecs.drain(..whole);
}

/// That many zeros, to be written.
fn zeros(len_bytes: u64) -> Vec<libc::iovec> {
    let mut left = usize::try_from(len_bytes).unwrap_or(0);
    let mut iovecs = Vec::new();
    while left > 0 {
        let iov_len = left.min(ZEROS.len());
        // The kernel only reads it.
        let iov_base = ZEROS.as_ptr().cast_mut().cast();
        iovecs.push(libc::iovec { iov_base, iov_len });
        left -= iov_len;
    }
    iovecs
}
