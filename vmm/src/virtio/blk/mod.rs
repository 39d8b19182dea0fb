//! virtio-blk over a raw file or a block device.
//!
//! A request goes from its chain (`request`, all checks) to one of two back ends: carried out on the
//! I/O thread one at a time (`disk`), or handed to the kernel with many others (`ring`, io_uring).
//! A read that would be alone in its ring is served at once if the host has the data in memory.
//! What comes back in one turn is told with one interrupt. Every request that has room for a status
//! byte gets an answer; the guest's sectors are checked against the capacity before the file is
//! touched, so the file never grows. Where the storage fails, the guest is told by the status and the
//! user by a line (`faults`).
//!
//! A driver that does not take FLUSH believes that what is written is durable, so then it is.

mod allocate;
mod disk;
mod faults;
mod lock;
mod open;
mod request;
mod ring;

use std::io;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

pub use open::{BlkAccess, BlkError};

use self::disk::Disk;
use self::request::{
    Parsed, Request, MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, MAX_ZERO_RANGES, MAX_ZERO_SECTORS,
    SEG_MAX, SIZE_MAX, STATUS_OK,
};
use self::ring::Ring;
use super::device::{read_config, Polled, Progress, QueueError, VirtioDevice, QUEUE_SIZE_MAX};
use super::queue::DeviceQueue;
use super::receiver::NotifyPolicy;

pub(super) const SECTOR_BYTES: u64 = 512;

const TYPE_BLOCK: u16 = 2;
const CLASS_STORAGE_OTHER: u32 = 0x01_80_00;

const FEATURE_SIZE_MAX: u64 = 1 << 1;
const FEATURE_SEG_MAX: u64 = 1 << 2;
const FEATURE_RO: u64 = 1 << 5;
const FEATURE_BLK_SIZE: u64 = 1 << 6;
const FEATURE_FLUSH: u64 = 1 << 9;
const FEATURE_TOPOLOGY: u64 = 1 << 10;
const FEATURE_MQ: u64 = 1 << 12;
const FEATURE_DISCARD: u64 = 1 << 13;
const FEATURE_WRITE_ZEROES: u64 = 1 << 14;

const ID_BYTES: usize = 20;
const CONFIG_BYTES: usize = 60;

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
    disk: Disk,
    /// One per queue, or none: then requests are carried out one at a time.
    rings: Vec<Ring>,
    nr_queues: u16,
    serial: [u8; ID_BYTES],
    is_write_through: bool,
    notify: NotifyPolicy,
}

impl Blk {
    fn new(disk: Disk, nr_queues: u16) -> Self {
        let mut serial = [0; ID_BYTES];
        serial[..8].copy_from_slice(b"coopvirt");
        Self {
            in_flight: None,
            disk,
            rings: Vec::new(),
            nr_queues,
            serial,
            is_write_through: true,
            notify: NotifyPolicy::Auto,
        }
    }

    /// Says who receives its notifications, before the device is attached.
    pub fn receive_by(&mut self, notify: NotifyPolicy) {
        self.notify = notify;
    }

    /// Sets the serial number that the guest sees.
    pub fn set_serial(&mut self, serial: &str) -> Result<(), BlkError> {
        let is_printable = serial.bytes().all(|byte| byte.is_ascii_graphic());
        if serial.is_empty() || serial.len() > ID_BYTES || !is_printable {
            return Err(BlkError::Serial(serial.to_owned()));
        }
        self.serial = [0; ID_BYTES];
        self.serial[..serial.len()].copy_from_slice(serial.as_bytes());
        Ok(())
    }

    /// Serves requests through io_uring from now on, before the device is attached. If this kernel
    /// has none, or refuses it, the device stays as it was.
    pub fn use_uring(&mut self) -> io::Result<()> {
        self.rings = (0..self.nr_queues)
            .map(|_| Ring::new(self.disk.file.clone(), self.disk.faults.clone()))
            .collect::<io::Result<_>>()?;
        Ok(())
    }

    /// Whether the image is in the host's memory (tmpfs). Then no request ever waits, and a ring only
    /// costs: the kernel hands each of its requests to a worker thread, as such files cannot be asked
    /// not to wait.
    pub fn is_in_memory(&self) -> bool {
        self.disk.is_in_memory
    }

    /// Says who is told of its requests.
    pub fn tell(&mut self, in_flight: Arc<dyn InFlight>) {
        self.in_flight = Some(in_flight);
    }

    /// Size of the disk in sectors of 512 bytes.
    pub fn nr_sectors(&self) -> u64 {
        self.disk.nr_sectors()
    }

    /// Takes chains until there is none, the batch's budget is spent or the ring is full.
    fn take(
        &mut self,
        queue_index: usize,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<(), QueueError> {
        let mut lone = None;
        let taken = self.take_but_one(queue_index, queue, ram, &mut lone);
        let (Some(request), Some(ring)) = (lone, self.rings.get_mut(queue_index)) else {
            return taken;
        };
        // A ring has nothing to gain for it if its data is there already.
        if !self.disk.read_now(&request) {
            ring.start(&request, &self.disk, self.is_write_through, ram);
            return taken;
        }
        self.in_flight.iter().for_each(|told| told.ends());
        queue.note_copy(request.data.len_bytes());
        let (head, len) = request.reply.give(STATUS_OK);
        queue.add_used(ram, head, len)?;
        taken
    }

    /// The same, but leaves a request in `lone` that would be the only one of the ring.
    fn take_but_one<'r>(
        &mut self,
        queue_index: usize,
        queue: &mut DeviceQueue,
        ram: &'r GuestMemoryMmap<()>,
        lone: &mut Option<Request<'r>>,
    ) -> Result<(), QueueError> {
        let is_durable = self.is_write_through;
        let mut ring = self.rings.get_mut(queue_index);
        while !ring.as_ref().is_some_and(|ring| ring.is_full()) {
            let Some(chain) = queue.pop(ram)? else {
                break;
            };
            let (head, len) = match request::parse(chain, &self.disk, &self.serial)? {
                Parsed::Answer(reply, status) => reply.give(status),
                Parsed::Request(request) => {
                    self.in_flight.iter().for_each(|told| told.begins());
                    // A block device's ioctls have no counterpart in all kernels' rings.
                    let is_ioctl = self.disk.is_device && request.action.changes_allocation();
                    match &mut ring {
                        Some(ring) if !is_ioctl => {
                            match lone.take() {
                                Some(first) => ring.start(&first, &self.disk, is_durable, ram),
                                None if ring.nr_in_flight() == 0 => {
                                    *lone = Some(request);
                                    continue;
                                }
                                None => {}
                            }
                            ring.start(&request, &self.disk, is_durable, ram);
                            continue;
                        }
                        _ => {
                            let copied = match self.notify {
                                NotifyPolicy::Auto => self.disk.copy_now(&request),
                                NotifyPolicy::Thread | NotifyPolicy::Vcpu => None,
                            };
                            if copied.is_some() {
                                queue.note_copy(request.data.len_bytes());
                            }
                            let status =
                                copied.unwrap_or_else(|| self.disk.execute(&request, is_durable));
                            self.in_flight.iter().for_each(|told| told.ends());
                            request.reply.give(status)
                        }
                    }
                }
            };
            queue.add_used(ram, head, len)?;
        }
        Ok(())
    }

    /// Gives back what the ring has finished.
    fn give_back(
        &mut self,
        queue_index: usize,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<(), QueueError> {
        let Some(ring) = self.rings.get_mut(queue_index) else {
            return Ok(());
        };
        let in_flight = &self.in_flight;
        let mut result = Ok(());
        ring.finish(|head, len| {
            in_flight.iter().for_each(|told| told.ends());
            let added = queue.add_used(ram, head, len);
            if result.is_ok() {
                result = added;
            }
        });
        result
    }

    /// Keeps a queue's ring busy until nothing is to be started or given back.
    fn turn(
        &mut self,
        queue_index: usize,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        self.give_back(queue_index, queue, ram)?;
        loop {
            let taken = self.take(queue_index, queue, ram);
            let ring = &mut self.rings[queue_index];
            // Also if the queue is broken now: what was taken before has to come to its end.
            let is_submitted = ring.submit();
            taken?;
            if !is_submitted {
                // The kernel is short of something; the queue's next turn tries again.
                ring.ask_again();
            } else if ring.take_finished() {
                // Much is finished as soon as it is submitted (it was in the page cache).
                self.give_back(queue_index, queue, ram)?;
                continue;
            }
            let is_full = self.rings[queue_index].is_full();
            return Ok(if is_full {
                Progress::Waiting
            } else {
                Progress::Drained
            });
        }
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
        let access = match self.disk.access() {
            BlkAccess::ReadOnly => FEATURE_RO,
            BlkAccess::ReadWrite => FEATURE_WRITE_ZEROES,
        };
        let mq = if self.nr_queues > 1 { FEATURE_MQ } else { 0 };
        let discard = if self.disk.can_discard() {
            FEATURE_DISCARD
        } else {
            0
        };
        let always = FEATURE_SIZE_MAX | FEATURE_SEG_MAX | FEATURE_BLK_SIZE | FEATURE_TOPOLOGY;
        always | FEATURE_FLUSH | access | mq | discard
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE_MAX; usize::from(self.nr_queues)]
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        let physical_sectors = self.disk.physical_sectors;
        let mut config = [0; CONFIG_BYTES];
        config[0..8].copy_from_slice(&self.disk.nr_sectors().to_le_bytes());
        config[8..12].copy_from_slice(&SIZE_MAX.to_le_bytes());
        config[12..16].copy_from_slice(&SEG_MAX.to_le_bytes());
        config[20..24].copy_from_slice(&512u32.to_le_bytes());
        // Logical blocks per physical one as a power of two, and the smallest sensible request.
        config[24] = u8::try_from(physical_sectors.trailing_zeros()).unwrap_or(0);
        let min_io = u16::try_from(physical_sectors).unwrap_or(1);
        config[26..28].copy_from_slice(&min_io.to_le_bytes());
        config[34..36].copy_from_slice(&self.nr_queues.to_le_bytes());
        if self.disk.can_discard() {
            config[36..40].copy_from_slice(&MAX_DISCARD_SECTORS.to_le_bytes());
            config[40..44].copy_from_slice(&MAX_DISCARD_RANGES.to_le_bytes());
            config[44..48].copy_from_slice(&physical_sectors.to_le_bytes());
        }
        if self.disk.access() == BlkAccess::ReadWrite {
            config[48..52].copy_from_slice(&MAX_ZERO_SECTORS.to_le_bytes());
            config[52..56].copy_from_slice(&MAX_ZERO_RANGES.to_le_bytes());
            config[56] = u8::from(self.disk.can_discard());
        }
        read_config(&config, offset, data);
    }

    fn queue_event(&self, queue_index: usize) -> Option<Arc<EventFd>> {
        self.rings.get(queue_index).map(Ring::event)
    }

    fn is_timed(&self, _queue_index: usize) -> bool {
        true
    }

    fn activate(&mut self, features: u64) {
        self.is_write_through = features & FEATURE_FLUSH == 0;
    }

    fn process(
        &mut self,
        queue_index: usize,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        if queue_index < self.rings.len() {
            return self.turn(queue_index, queue, ram);
        }
        self.take(queue_index, queue, ram)?;
        Ok(Progress::Drained)
    }

    fn can_be_polled(&self, _queue_index: usize) -> bool {
        true
    }

    fn notify_policy(&self, _queue_index: usize) -> NotifyPolicy {
        self.notify
    }

    /// Reads that are a copy of memory are served here; everything else is left, also what goes into
    /// the ring: the kernel finishes a request in the thread that has submitted it, and this one may be
    /// kept from running (`[LEASE-6]`) while the I/O thread is not.
    fn process_now(
        &mut self,
        _queue_index: usize,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Polled, QueueError> {
        let mut copied_bytes = 0;
        while let Some(chain) = queue.pop(ram)? {
            let (head, len) = match request::parse(chain, &self.disk, &self.serial)? {
                Parsed::Answer(reply, status) => reply.give(status),
                Parsed::Request(request) => {
                    copied_bytes += request.data.len_bytes();
                    // Told also of these: a vCPU that idles meanwhile is about to be woken.
                    self.in_flight.iter().for_each(|told| told.begins());
                    let status = match copied_bytes <= queue.copy_bytes() {
                        true => self.disk.copy_now(&request),
                        false => None,
                    };
                    self.in_flight.iter().for_each(|told| told.ends());
                    let Some(status) = status else {
                        queue.unpop();
                        return Ok(Polled::Left);
                    };
                    request.reply.give(status)
                }
            };
            queue.add_used(ram, head, len)?;
        }
        Ok(Polled::Drained)
    }

    /// Waits for what is in flight: the storage has it, and cannot be asked to give it back.
    fn reset(&mut self) {
        for ring in &mut self.rings {
            for _ in 0..ring.quiesce() {
                self.in_flight.iter().for_each(|told| told.ends());
            }
        }
        self.is_write_through = true;
    }
}
