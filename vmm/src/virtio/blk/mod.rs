//! virtio-blk over a raw file.
//!
//! Requests are served one after the other on the I/O thread, straight between file and guest
//! memory. Every request that has room for a status byte gets an answer; the guest's sectors are
//! checked against the capacity before the file is touched, so the file never grows.

mod open;

use std::fs::File;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

pub use open::{BlkAccess, BlkError};

use super::chain::{Chain, Segments};
use super::device::{read_config, Progress, QueueError, VirtioDevice, QUEUE_SIZE_MAX};
use super::queue::DeviceQueue;
use super::sys;

pub(super) const SECTOR_BYTES: u64 = 512;

const TYPE_BLOCK: u16 = 2;
const CLASS_STORAGE_OTHER: u32 = 0x01_80_00;

const FEATURE_SIZE_MAX: u64 = 1 << 1;
const FEATURE_SEG_MAX: u64 = 1 << 2;
const FEATURE_RO: u64 = 1 << 5;
const FEATURE_BLK_SIZE: u64 = 1 << 6;
const FEATURE_FLUSH: u64 = 1 << 9;
const FEATURE_MQ: u64 = 1 << 12;

const REQUEST_IN: u32 = 0;
const REQUEST_OUT: u32 = 1;
const REQUEST_FLUSH: u32 = 4;
const REQUEST_GET_ID: u32 = 8;

const STATUS_OK: u8 = 0;
const STATUS_IOERR: u8 = 1;
const STATUS_UNSUPP: u8 = 2;

const HEADER_BYTES: usize = 16;
const ID_BYTES: usize = 20;

/// Buffers per request, as told to the guest: a queue's size less header and status.
const SEG_MAX: u32 = 126;
/// Bytes per buffer, as told to the guest.
const SIZE_MAX: u32 = 128 << 10;
/// Bytes per request. A driver that keeps to the two limits above never comes here.
const MAX_REQUEST_BYTES: u64 = 16 << 20;
const _: () = assert!(SEG_MAX as u64 * SIZE_MAX as u64 <= MAX_REQUEST_BYTES);

/// Told when a request is taken and when it is answered.
pub trait InFlight: Send + Sync {
    /// One more.
    fn begins(&self);
    /// One less.
    fn ends(&self);
}

/// The block device.
pub struct Blk {
    in_flight: Option<Arc<dyn InFlight>>,
    file: File,
    access: BlkAccess,
    nr_sectors: u64,
    nr_queues: u16,
    serial: [u8; ID_BYTES],
}

impl Blk {
    fn new(file: File, access: BlkAccess, nr_sectors: u64, nr_queues: u16) -> Self {
        let mut blk = Self {
            in_flight: None,
            file,
            access,
            nr_sectors,
            nr_queues,
            serial: [0; ID_BYTES],
        };
        blk.set_serial("coopvirt");
        blk
    }

    /// Sets the serial number that the guest sees; what is past 20 bytes is cut off.
    pub fn set_serial(&mut self, serial: &str) {
        let len = serial.len().min(ID_BYTES);
        self.serial = [0; ID_BYTES];
        self.serial[..len].copy_from_slice(&serial.as_bytes()[..len]);
    }

    /// Says who is told of its requests.
    pub fn tell(&mut self, in_flight: Arc<dyn InFlight>) {
        self.in_flight = Some(in_flight);
    }

    /// Size of the disk in sectors of 512 bytes.
    pub fn nr_sectors(&self) -> u64 {
        self.nr_sectors
    }

    /// Serves a request. Returns how many bytes of the chain were written.
    fn serve(&self, mut chain: Chain) -> Result<u32, QueueError> {
        let Some(mut status_byte) = chain.writable.take_last_byte() else {
            return Err(chain.malformed("no byte for the status"));
        };
        let (status, written) = match self.execute(&mut chain) {
            Ok(written) => (STATUS_OK, written),
            Err(status) => (status, 0),
        };
        status_byte.write(&[status]);
        // The length counts from the front of the writable part, so it says nothing good about a
        // failed request but that its status is there.
        Ok(written.saturating_add(1))
    }

    /// Does what a request asks. Returns how many bytes were written before the status, or the
    /// status of a failure.
    fn execute(&self, chain: &mut Chain) -> Result<u32, u8> {
        let mut header = [0; HEADER_BYTES];
        if chain.readable.read(&mut header) != HEADER_BYTES {
            return Err(STATUS_IOERR);
        }
        let [k0, k1, k2, k3, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = header;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        match u32::from_le_bytes([k0, k1, k2, k3]) {
            REQUEST_IN => {
                let offset = self.check_range(sector, &chain.writable)?;
                sys::read_at(&self.file, &chain.writable, offset).map_err(|_| STATUS_IOERR)?;
                u32::try_from(chain.writable.len_bytes()).map_err(|_| STATUS_IOERR)
            }
            REQUEST_OUT => {
                let offset = self.check_range(sector, &chain.readable)?;
                if self.access == BlkAccess::ReadOnly {
                    return Err(STATUS_IOERR);
                }
                sys::write_at(&self.file, &chain.readable, offset).map_err(|_| STATUS_IOERR)?;
                Ok(0)
            }
            REQUEST_FLUSH => match self.access {
                BlkAccess::ReadOnly => Ok(0),
                BlkAccess::ReadWrite => self.file.sync_data().map(|()| 0).map_err(|_| STATUS_IOERR),
            },
            REQUEST_GET_ID => {
                let written = chain.writable.write(&self.serial);
                u32::try_from(written).map_err(|_| STATUS_IOERR)
            }
            _ => Err(STATUS_UNSUPP),
        }
    }

    /// The offset in the file of whole sectors that are all on the disk.
    fn check_range(&self, sector: u64, data: &Segments) -> Result<u64, u8> {
        let len_bytes = data.len_bytes();
        let end = sector
            .checked_add(len_bytes / SECTOR_BYTES)
            .ok_or(STATUS_IOERR)?;
        let is_whole = len_bytes.is_multiple_of(SECTOR_BYTES);
        if !is_whole || len_bytes > MAX_REQUEST_BYTES || end > self.nr_sectors {
            return Err(STATUS_IOERR);
        }
        sector.checked_mul(SECTOR_BYTES).ok_or(STATUS_IOERR)
    }
}

impl VirtioDevice for Blk {
    fn device_type(&self) -> u16 {
        TYPE_BLOCK
    }
    fn name(&self) -> &str {
        "virtio-blk"
    }
    fn pci_class(&self) -> u32 {
        CLASS_STORAGE_OTHER
    }

    fn features(&self) -> u64 {
        let read_only = match self.access {
            BlkAccess::ReadOnly => FEATURE_RO,
            BlkAccess::ReadWrite => 0,
        };
        let mq = if self.nr_queues > 1 { FEATURE_MQ } else { 0 };
        FEATURE_SIZE_MAX | FEATURE_SEG_MAX | FEATURE_BLK_SIZE | FEATURE_FLUSH | read_only | mq
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE_MAX; usize::from(self.nr_queues)]
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 36];
        config[0..8].copy_from_slice(&self.nr_sectors.to_le_bytes());
        config[8..12].copy_from_slice(&SIZE_MAX.to_le_bytes());
        config[12..16].copy_from_slice(&SEG_MAX.to_le_bytes());
        config[20..24].copy_from_slice(&512u32.to_le_bytes());
        config[34..36].copy_from_slice(&self.nr_queues.to_le_bytes());
        read_config(&config, offset, data);
    }

    fn process(
        &mut self,
        _queue_index: usize,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        while let Some(chain) = queue.pop(ram)? {
            let head = chain.head();
            if let Some(in_flight) = &self.in_flight {
                in_flight.begins();
            }
            let written = self.serve(chain);
            if let Some(in_flight) = &self.in_flight {
                in_flight.ends();
            }
            queue.add_used(ram, head, written?)?;
        }
        Ok(Progress::Drained)
    }
}
