//! What a chain asks of the disk: parsed once, checked against the disk, nothing done yet.
//!
//! [`parse`] is called for each chain that a queue gives. What it returns can be carried out as it
//! is; everything that must not be is an [`Answer`] already. It must never look at the guest's header
//! or range list twice.

use super::super::chain::{Chain, Segments};
use super::super::device::QueueError;
use super::disk::Disk;
use super::open::BlkAccess;
use super::{ID_BYTES, SECTOR_BYTES};

pub(super) const STATUS_OK: u8 = 0;
pub(super) const STATUS_IOERR: u8 = 1;
pub(super) const STATUS_UNSUPP: u8 = 2;

const REQUEST_IN: u32 = 0;
const REQUEST_OUT: u32 = 1;
const REQUEST_FLUSH: u32 = 4;
const REQUEST_GET_ID: u32 = 8;
const REQUEST_DISCARD: u32 = 11;
const REQUEST_WRITE_ZEROES: u32 = 13;

const HEADER_BYTES: usize = 16;
const RANGE_BYTES: usize = 16;
const RANGE_UNMAP: u32 = 1;

/// Buffers per request, as told to the guest: a queue's size less header and status.
pub(super) const SEG_MAX: u32 = 126;
/// Bytes per buffer, as told to the guest.
pub(super) const SIZE_MAX: u32 = 128 << 10;
/// Bytes per request. A driver that keeps to the two limits above never comes here.
const MAX_REQUEST_BYTES: u64 = 16 << 20;
const _: () = assert!(SEG_MAX as u64 * SIZE_MAX as u64 <= MAX_REQUEST_BYTES);

/// Sectors per range of a discard request: 1 GiB.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// Ranges per discard request.
pub(super) const MAX_DISCARD_RANGES: u32 = 32;
/// Sectors of a write-zeroes request: 64 MiB, because they may have to be written.
pub(super) const MAX_ZERO_SECTORS: u32 = 1 << 17;
/// Ranges per write-zeroes request. Others rely on there being one.
pub(super) const MAX_ZERO_RANGES: u32 = 1;

/// A request that may be carried out.
pub(super) struct Request<'r> {
    pub(super) reply: Reply<'r>,
    /// What is read to or written from.
    pub(super) data: Segments<'r>,
    pub(super) action: Action,
}

/// Where the result of a request goes.
pub(super) struct Reply<'r> {
    pub(super) head: u16,
    /// One byte.
    pub(super) status: Segments<'r>,
    /// How many bytes before it are written if it goes well.
    pub(super) written: u32,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Read {
        offset: u64,
    },
    Write {
        offset: u64,
    },
    Flush,
    /// Any number of ranges, none of them empty.
    Discard(Vec<Range>),
    /// A range that is not empty.
    Zero {
        range: Range,
        may_unmap: bool,
    },
}

/// Bytes of the disk, all of them on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) len_bytes: u64,
}

/// What a chain turned out to be.
pub(super) enum Parsed<'r> {
    Request(Request<'r>),
    /// Nothing is left to do but to say this status.
    Answer(Reply<'r>, u8),
}

impl Reply<'_> {
    /// Tells the status. Returns the chain's head and how many bytes of it were written.
    pub(super) fn give(mut self, status: u8) -> (u16, u32) {
        self.status.write(&[status]);
        (self.head, len_written(self.written, status))
    }
}

/// What the used ring says. It counts from the front of the writable part, so it says nothing good
/// about a failed request but that its status is there.
pub(super) fn len_written(written: u32, status: u8) -> u32 {
    match status {
        STATUS_OK => written.saturating_add(1),
        _ => 1,
    }
}

/// Reads and checks a chain. An error breaks the queue.
pub(super) fn parse<'r>(
    mut chain: Chain<'r>,
    disk: &Disk,
    serial: &[u8; ID_BYTES],
) -> Result<Parsed<'r>, QueueError> {
    let Some(status) = chain.writable.take_last_byte() else {
        return Err(chain.malformed("no byte for the status"));
    };
    let mut reply = Reply {
        head: chain.head(),
        status,
        written: 0,
    };
    let mut header = [0; HEADER_BYTES];
    if chain.readable.read(&mut header) != HEADER_BYTES {
        return Ok(Parsed::Answer(reply, STATUS_IOERR));
    }
    let [k0, k1, k2, k3, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = header;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let kind = u32::from_le_bytes([k0, k1, k2, k3]);
    if kind == REQUEST_GET_ID {
        let written = chain.writable.write(serial);
        reply.written = u32::try_from(written).unwrap_or(0);
        return Ok(Parsed::Answer(reply, STATUS_OK));
    }
    let (data, action) = match kind {
        REQUEST_IN => {
            let range = data_range(disk, sector, &chain.writable);
            // Bounded by MAX_REQUEST_BYTES once it is a range.
            reply.written = u32::try_from(chain.writable.len_bytes()).unwrap_or(0);
            let action = range.map(|Range { offset, .. }| Action::Read { offset });
            (chain.writable, action)
        }
        REQUEST_OUT => {
            let range = data_range(disk, sector, &chain.readable);
            let action = writable(disk)
                .and(range)
                .map(|Range { offset, .. }| Action::Write { offset });
            (chain.readable, action)
        }
        // Nothing was ever written to a read-only disk.
        REQUEST_FLUSH if disk.access() == BlkAccess::ReadOnly => {
            return Ok(Parsed::Answer(reply, STATUS_OK));
        }
        REQUEST_FLUSH => (Segments::default(), Ok(Action::Flush)),
        REQUEST_DISCARD => (Segments::default(), discard(disk, &mut chain.readable)),
        REQUEST_WRITE_ZEROES => (Segments::default(), zero(disk, &mut chain.readable)),
        _ => (Segments::default(), Err(STATUS_UNSUPP)),
    };
    Ok(match action {
        Ok(action) => Parsed::Request(Request {
            reply,
            data,
            action,
        }),
        Err(status) => Parsed::Answer(reply, status),
    })
}

fn writable(disk: &Disk) -> Result<(), u8> {
    match disk.access() {
        BlkAccess::ReadOnly => Err(STATUS_IOERR),
        BlkAccess::ReadWrite => Ok(()),
    }
}

/// Where data of whole sectors belongs.
fn data_range(disk: &Disk, sector: u64, data: &Segments) -> Result<Range, u8> {
    let len_bytes = data.len_bytes();
    if !len_bytes.is_multiple_of(SECTOR_BYTES) || len_bytes > MAX_REQUEST_BYTES {
        return Err(STATUS_IOERR);
    }
    range(disk, sector, len_bytes / SECTOR_BYTES)
}

/// Sectors that are all on the disk.
fn range(disk: &Disk, sector: u64, nr_sectors: u64) -> Result<Range, u8> {
    let end = sector.checked_add(nr_sectors).ok_or(STATUS_IOERR)?;
    if end > disk.nr_sectors() {
        return Err(STATUS_IOERR);
    }
    // Neither overflows: the disk's size in bytes fits.
    Ok(Range {
        offset: sector * SECTOR_BYTES,
        len_bytes: nr_sectors * SECTOR_BYTES,
    })
}

fn discard(disk: &Disk, list: &mut Segments) -> Result<Action, u8> {
    writable(disk)?;
    if !disk.can_discard() {
        return Err(STATUS_UNSUPP);
    }
    let ranges = read_ranges(disk, list, MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS)?;
    // The unmap flag means nothing here and is to be refused, as unknown flags are.
    if ranges.iter().any(|&(_, flags)| flags != 0) {
        return Err(STATUS_UNSUPP);
    }
    let ranges = ranges.into_iter().map(|(range, _)| range);
    Ok(Action::Discard(
        ranges.filter(|range| range.len_bytes > 0).collect(),
    ))
}

fn zero(disk: &Disk, list: &mut Segments) -> Result<Action, u8> {
    writable(disk)?;
    let ranges = read_ranges(disk, list, MAX_ZERO_RANGES, MAX_ZERO_SECTORS)?;
    let &[(range, flags)] = &*ranges else {
        return Err(STATUS_IOERR);
    };
    if flags & !RANGE_UNMAP != 0 {
        return Err(STATUS_UNSUPP);
    }
    if range.len_bytes == 0 {
        return Ok(Action::Discard(Vec::new()));
    }
    let may_unmap = flags & RANGE_UNMAP != 0;
    Ok(Action::Zero { range, may_unmap })
}

/// Reads a list of ranges with their flags.
fn read_ranges(
    disk: &Disk,
    list: &mut Segments,
    max_ranges: u32,
    max_sectors: u32,
) -> Result<Vec<(Range, u32)>, u8> {
    let len_bytes = list.len_bytes();
    let is_whole = len_bytes.is_multiple_of(RANGE_BYTES as u64);
    if !is_whole || len_bytes == 0 || len_bytes > u64::from(max_ranges) * RANGE_BYTES as u64 {
        return Err(STATUS_IOERR);
    }
    let mut ranges = Vec::new();
    let mut entry = [0; RANGE_BYTES];
    while list.read(&mut entry) == RANGE_BYTES {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = entry;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let nr_sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        if nr_sectors > max_sectors {
            return Err(STATUS_IOERR);
        }
        ranges.push((range(disk, sector, nr_sectors.into())?, flags));
    }
    Ok(ranges)
}
