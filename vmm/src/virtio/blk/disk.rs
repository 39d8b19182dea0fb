//! The host's side of a disk: a file or block device, and requests carried out on it one at a time.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::super::sys;
use super::allocate;
use super::faults::Faults;
use super::open::BlkAccess;
use super::request::{Action, Range, Request, STATUS_IOERR, STATUS_OK, STATUS_UNSUPP};

/// An opened image.
pub(super) struct Disk {
    pub(super) file: Arc<File>,
    pub(super) faults: Arc<Faults>,
    pub(super) access: BlkAccess,
    pub(super) nr_sectors: u64,
    pub(super) is_device: bool,
    /// Whether its content is in the host's memory only.
    pub(super) is_in_memory: bool,
    pub(super) can_discard: bool,
    /// Sectors of a physical block: a power of two.
    pub(super) physical_sectors: u32,
}

impl Disk {
    pub(super) fn access(&self) -> BlkAccess {
        self.access
    }
    /// Size in sectors of 512 bytes; in bytes it fits an i64.
    pub(super) fn nr_sectors(&self) -> u64 {
        self.nr_sectors
    }
    /// Whether discarding is worth offering.
    pub(super) fn can_discard(&self) -> bool {
        self.can_discard
    }

    /// Carries out a request and waits for it. Returns its status.
    pub(super) fn execute(&self, request: &Request, is_write_through: bool) -> u8 {
        let result = match &request.action {
            Action::Read { offset } => sys::read_at(&self.file, &request.data, *offset),
            Action::Write { offset } => {
                sys::write_at(&self.file, &request.data, *offset, is_write_through)
            }
            Action::Flush => self.file.sync_data(),
            Action::Discard(ranges) => self.discard(ranges),
            Action::Zero { range, may_unmap } => self.zero(*range, *may_unmap),
        };
        let result = match result {
            Ok(()) if is_write_through && request.action.changes_allocation() => {
                self.file.sync_data()
            }
            result => result,
        };
        match result {
            Ok(()) => STATUS_OK,
            Err(error) => failure(&self.faults, &request.action, &error),
        }
    }

    /// Carries out a read whose data is in the host's page cache. Returns whether it was one.
    pub(super) fn read_now(&self, request: &Request) -> bool {
        match &request.action {
            Action::Read { offset } => sys::read_now(&self.file, &request.data, *offset),
            _ => false,
        }
    }

    /// Carries out a read that needs nothing but a copy: from the page cache, or from a file that is
    /// memory. Such a file cannot be asked not to wait, and has nothing to wait for but memory that the
    /// host has swapped out, which guest memory may be as well. Returns its status.
    pub(super) fn copy_now(&self, request: &Request) -> Option<u8> {
        if self.is_in_memory && matches!(request.action, Action::Read { .. }) {
            return Some(self.execute(request, false));
        }
        self.read_now(request).then_some(STATUS_OK)
    }

    fn discard(&self, ranges: &[Range]) -> io::Result<()> {
        for &range in ranges {
            if self.is_device {
                allocate::discard_device(&self.file, range)?;
            } else {
                allocate::allocate(&self.file, allocate::PUNCH, range)?;
            }
        }
        Ok(())
    }

    fn zero(&self, range: Range, may_unmap: bool) -> io::Result<()> {
        if self.is_device {
            return allocate::zero_device(&self.file, range);
        }
        match allocate::allocate(&self.file, self.zero_mode(may_unmap), range) {
            Err(error) if is_unsupported(&error) => {
                sys::write_zeros(&self.file, range.offset, range.len_bytes)
            }
            result => result,
        }
    }

    /// How fallocate zeroes a range of a file.
    pub(super) fn zero_mode(&self, may_unmap: bool) -> i32 {
        if may_unmap && self.can_discard {
            allocate::PUNCH
        } else {
            allocate::ZERO
        }
    }
}

impl Action {
    /// Whether it changes the disk in another way than by writing to it.
    pub(super) fn changes_allocation(&self) -> bool {
        matches!(self, Action::Discard(_) | Action::Zero { .. })
    }
}

pub(super) fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EOPNOTSUPP)
}

/// What the guest is told of an error; the user is told too, unless the guest asked for what this disk does not have.
pub(super) fn failure(faults: &Faults, action: &Action, error: &io::Error) -> u8 {
    if is_unsupported(error) {
        return STATUS_UNSUPP;
    }
    faults.tell(action, error);
    STATUS_IOERR
}
