//! A machine without KVM, and a driver that finds and drives the one device in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::fake_host::{FakeDoorbells, FakeInterrupts};
use crate::notifies::Notifies;
use crate::pci::{PciLayout, PciRoot};
use crate::virtio::{attach, DeviceCounters, Host, Lingerer, PolledDevice, VirtioDevice, Wanted};

pub(super) const RAM_BYTES: u64 = 4 << 20;
pub(super) const MMIO_BASE: u64 = 0xc000_0000;
pub(super) const MMIO_LEN: u64 = 0x10_0000;
/// Free memory for a test's buffers.
pub(super) const BUFFERS: u64 = 0x10_0000;

pub(super) const F_VERSION_1: u64 = 1 << 32;
pub(super) const F_EVENT_IDX: u64 = 1 << 29;
/// VIRTQ_USED_F_NO_NOTIFY.
const NO_NOTIFY: u16 = 1;
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// Generous: debug builds on a busy machine.
const ANSWERED: Duration = Duration::from_secs(60);

/// A machine with one device in slot 1, and the driver of that device.
pub(super) struct Rig {
    pub(super) ram: Arc<GuestMemoryMmap<()>>,
    pub(super) root: Arc<PciRoot>,
    pub(super) interrupts: Arc<FakeInterrupts>,
    pub(super) doorbells: Arc<FakeDoorbells>,
    pub(super) notifies: Arc<Notifies>,
    events: EventManager<Box<dyn MutEventSubscriber + Send>>,
    pub(super) bar: u64,
    /// Offsets in the BAR by capability type: common, notify, isr, device.
    pub(super) structures: BTreeMap<u8, u32>,
    pub(super) access_cap: u16,
    pub(super) msix_cap: u16,
    pub(super) msix_table: u64,
    pub(super) msix_pending: u64,
    pub(super) queues: Vec<Ring>,
    pub(super) counters: Arc<DeviceCounters>,
    pub(super) polled: Option<PolledDevice>,
    pub(super) lingerer: Option<Lingerer>,
}

/// The driver's view of one queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    pub(super) size: u16,
    pub(super) descriptors: u64,
    pub(super) avail: u64,
    pub(super) used: u64,
    pub(super) avail_index: u16,
    pub(super) used_index: u16,
    pub(super) next_descriptor: u16,
}

/// A buffer of a chain: address, length, whether the device writes it.
pub(super) type Buffer = (u64, u32, bool);

impl Rig {
    pub(super) fn new(device: impl VirtioDevice + 'static) -> Self {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES as usize)]);
        let ram = Arc::new(ram.expect("anonymous memory"));
        let layout = PciLayout {
            ecam_base: 0xe000_0000,
            ecam_len_bytes: 256 << 20,
            mmio_base: MMIO_BASE,
            mmio_len_bytes: MMIO_LEN,
        };
        let root = Arc::new(PciRoot::new(layout).unwrap());
        let interrupts = Arc::new(FakeInterrupts::default());
        let doorbells = Arc::new(FakeDoorbells::default());
        let notifies = Arc::new(Notifies::new());
        let host = Host {
            ram: ram.clone(),
            interrupts: interrupts.clone(),
            doorbells: doorbells.clone(),
            notifies: notifies.clone(),
        };
        let mut events = EventManager::<Box<dyn MutEventSubscriber + Send>>::new().unwrap();
        let worker = attach(&root, Box::new(device), &host).unwrap();
        let counters = worker.counters();
        let polled = worker.polled();
        let lingerer = worker.lingerer();
        events.add_subscriber(Box::new(worker));
        let mut rig = Self {
            ram,
            root,
            interrupts,
            doorbells,
            notifies,
            events,
            bar: 0,
            structures: BTreeMap::new(),
            access_cap: 0,
            msix_cap: 0,
            msix_table: 0,
            msix_pending: 0,
            queues: Vec::new(),
            counters,
            polled,
            lingerer,
        };
        rig.find_capabilities();
        rig
    }

    pub(super) fn config<const N: usize>(&self, offset: u16) -> [u8; N] {
        let mut data = [0; N];
        self.root.config_read(0, 1, 0, offset, &mut data);
        data
    }
    pub(super) fn config4(&self, offset: u16) -> u32 {
        u32::from_le_bytes(self.config(offset))
    }
    pub(super) fn set_config(&self, offset: u16, data: &[u8]) {
        self.root.config_write(0, 1, 0, offset, data);
    }

    fn find_capabilities(&mut self) {
        self.bar = u64::from(self.config4(0x10));
        let [mut cap] = self.config(0x34);
        while cap != 0 {
            let at = u16::from(cap);
            let [id, next, _, kind] = self.config(at);
            match (id, kind) {
                (0x09, 5) => self.access_cap = at,
                (0x09, _) => {
                    self.structures.insert(kind, self.config4(at + 8));
                }
                (0x11, _) => {
                    self.msix_cap = at;
                    self.msix_table = self.bar + u64::from(self.config4(at + 4));
                    self.msix_pending = self.bar + u64::from(self.config4(at + 8));
                }
                other => panic!("unknown capability {other:?}"),
            }
            cap = next;
        }
        assert_eq!(self.structures.len(), 4);
    }

    pub(super) fn common(&self, register: u64) -> u64 {
        self.bar + u64::from(self.structures[&1]) + register
    }
    pub(super) fn device(&self, register: u64) -> u64 {
        self.bar + u64::from(self.structures[&4]) + register
    }
    pub(super) fn read<const N: usize>(&self, gpa: u64) -> [u8; N] {
        let mut data = [0; N];
        assert!(self.root.mmio_read(gpa, &mut data));
        data
    }
    pub(super) fn write(&self, gpa: u64, data: &[u8]) {
        assert!(self.root.mmio_write(gpa, data));
    }
    pub(super) fn read2(&self, gpa: u64) -> u16 {
        u16::from_le_bytes(self.read(gpa))
    }
    pub(super) fn read4(&self, gpa: u64) -> u32 {
        u32::from_le_bytes(self.read(gpa))
    }
    pub(super) fn status(&self) -> u8 {
        let [status] = self.read(self.common(0x14));
        status
    }
    pub(super) fn set_status(&self, status: u8) {
        self.write(self.common(0x14), &[status]);
    }

    pub(super) fn offered_features(&self) -> u64 {
        let half = |select: u32| {
            self.write(self.common(0), &select.to_le_bytes());
            u64::from(self.read4(self.common(4)))
        };
        half(1) << 32 | half(0)
    }

    pub(super) fn set_features(&self, features: u64) {
        for (select, half) in [(0u32, features as u32), (1, (features >> 32) as u32)] {
            self.write(self.common(8), &select.to_le_bytes());
            self.write(self.common(12), &half.to_le_bytes());
        }
    }

    /// Resets and negotiates up to FEATURES_OK.
    pub(super) fn negotiate(&mut self, features: u64) {
        self.set_status(0);
        self.set_status(1);
        self.set_status(3);
        self.set_features(features);
        self.set_status(11);
        assert_eq!(self.status(), 11);
    }

    /// Enables MSI-X with vector n for message 0xfee00000/n, for all vectors.
    pub(super) fn enable_msix(&self) {
        let nr = u16::from_le_bytes(self.config(self.msix_cap + 2)) & 0x7ff;
        self.set_config(self.msix_cap + 2, &0xc000u16.to_le_bytes());
        for vector in 0..=u64::from(nr) {
            let entry = self.msix_table + vector * 16;
            self.write(entry, &0xfee0_0000u64.to_le_bytes());
            self.write(entry + 8, &(vector as u32).to_le_bytes());
            self.write(entry + 12, &0u32.to_le_bytes());
        }
        self.set_config(self.msix_cap + 2, &0x8000u16.to_le_bytes());
    }

    /// Writes one queue's registers; vector n + 1 for queue n.
    pub(super) fn set_up_queue(&self, index: u16, ring: &Ring) {
        self.write(self.common(0x16), &index.to_le_bytes());
        self.write(self.common(0x18), &ring.size.to_le_bytes());
        self.write(self.common(0x1a), &index.wrapping_add(1).to_le_bytes());
        for (register, address) in [
            (0x20, ring.descriptors),
            (0x28, ring.avail),
            (0x30, ring.used),
        ] {
            let [low, high] = [address as u32, (address >> 32) as u32];
            self.write(self.common(register), &low.to_le_bytes());
            self.write(self.common(register + 4), &high.to_le_bytes());
        }
        self.write(self.common(0x1c), &1u16.to_le_bytes());
    }

    /// The largest size of a queue, which it has before a driver chooses one.
    fn max_size(&self, queue: u16) -> u16 {
        self.write(self.common(0x16), &queue.to_le_bytes());
        self.read2(self.common(0x18))
    }

    /// The whole way of a driver, with fresh rings of `size` for all queues, or of the size that they
    /// can have at most.
    pub(super) fn start(&mut self, features: u64, size: u16) {
        self.negotiate(features | F_VERSION_1);
        self.enable_msix();
        self.write(self.common(0x10), &0u16.to_le_bytes());
        let nr_queues = self.read2(self.common(0x12));
        let ring = |index| Ring::new(index, size.min(self.max_size(index)));
        self.queues = (0..nr_queues).map(ring).collect();
        self.ram
            .write_slice(&vec![0; BUFFERS as usize], GuestAddress(0))
            .unwrap();
        for (index, ring) in (0..).zip(&self.queues) {
            self.set_up_queue(index, ring);
        }
        self.set_status(15);
        assert_eq!(self.status(), 15);
        self.run();
        for index in 0..=u32::from(nr_queues) {
            self.interrupts.take(index);
        }
    }

    pub(super) fn notify_gpa(&self, queue: u16) -> u64 {
        self.write(self.common(0x16), &queue.to_le_bytes());
        let offset = self.read2(self.common(0x1e));
        self.bar + u64::from(self.structures[&2]) + u64::from(offset) * 4
    }

    /// Notifies of a queue and lets the I/O thread run until nothing is left to do.
    pub(super) fn notify(&mut self, queue: u16) {
        self.notify_only(queue);
        self.run();
    }

    /// Plays KVM and the vCPU thread. Returns whether the write exited.
    pub(super) fn notify_only(&self, queue: u16) -> bool {
        let gpa = self.notify_gpa(queue);
        if self.doorbells.ring(gpa) {
            return false;
        }
        if !self.notifies.hear(gpa) {
            self.write(gpa, &queue.to_le_bytes());
        }
        true
    }

    /// Plays a turn of the polling thread, which owns all queues that it may. Returns whether it found
    /// anything.
    pub(super) fn look(&self) -> bool {
        let polled = self.polled.as_ref();
        polled.is_some_and(|polled| polled.look(Wanted::All))
    }

    /// Plays its end. Returns whether something was left.
    pub(super) fn hand_back(&self) -> bool {
        self.polled.as_ref().is_some_and(PolledDevice::hand_back)
    }

    /// Whether the driver would notify for the buffer that it published last in this queue.
    pub(super) fn would_notify(&self, queue: usize, features: u64) -> bool {
        let ring = self.queues[queue];
        if features & F_EVENT_IDX == 0 {
            return u16::from_le_bytes(self.get(ring.used)) & NO_NOTIFY == 0;
        }
        let event = u16::from_le_bytes(self.get(ring.used + 4 + 8 * u64::from(ring.size)));
        // vring_need_event of one new buffer (virtio 1.2, 2.7.10).
        ring.avail_index.wrapping_sub(event).wrapping_sub(1) < 1
    }

    /// Plays a turn of an I/O thread that lingers. Returns whether it goes on.
    pub(super) fn linger(&mut self) -> bool {
        self.run();
        self.lingerer.as_ref().is_some_and(Lingerer::look)
    }

    /// Plays the end of that.
    pub(super) fn end_lingering(&mut self) {
        self.run();
        let lingerer = self.lingerer.as_ref().expect("a device for it");
        lingerer.expire();
        assert!(!lingerer.look(), "over");
        self.run();
    }

    /// Plays the I/O thread.
    pub(super) fn run(&mut self) {
        for _ in 0..10_000 {
            if self.events.run_with_timeout(0).unwrap() == 0 {
                return;
            }
        }
        panic!("the I/O thread never gets idle");
    }

    /// Lets the I/O thread handle what there is now.
    pub(super) fn run_once(&mut self) {
        self.events.run_with_timeout(0).unwrap();
    }

    /// Waits for one event and what follows.
    pub(super) fn run_blocking(&mut self) {
        assert!(
            self.events.run_with_timeout(5_000).unwrap() > 0,
            "no event within 5 s"
        );
        self.run();
    }

    /// Puts a chain in a queue, without notifying.
    pub(super) fn add(&mut self, queue: usize, buffers: &[Buffer]) -> u16 {
        let ring = &mut self.queues[queue];
        let head = ring.next_descriptor;
        for (index, &(address, len, is_written)) in buffers.iter().enumerate() {
            let more = if index + 1 < buffers.len() { NEXT } else { 0 };
            let flags = more | if is_written { WRITE } else { 0 };
            let at = ring.next_descriptor;
            ring.next_descriptor = (at + 1) % ring.size;
            ring.describe(&self.ram, at, (address, len, flags, ring.next_descriptor));
        }
        ring.offer(&self.ram, head);
        head
    }

    /// Takes the next used entry: head and length.
    pub(super) fn take_used(&mut self, queue: usize) -> Option<(u32, u32)> {
        let ring = &mut self.queues[queue];
        let index: u16 = self.ram.read_obj(GuestAddress(ring.used + 2)).unwrap();
        if index == ring.used_index {
            return None;
        }
        let entry = ring.used + 4 + u64::from(ring.used_index % ring.size) * 8;
        ring.used_index = ring.used_index.wrapping_add(1);
        let [id, len]: [u32; 2] = self.ram.read_obj(GuestAddress(entry)).unwrap();
        Some((id, len))
    }

    /// Takes the next used entry, which may still have to come.
    pub(super) fn wait_used(&mut self, queue: usize) -> (u32, u32) {
        let started = Instant::now();
        loop {
            if let Some(used) = self.take_used(queue) {
                return used;
            }
            assert!(started.elapsed() < ANSWERED, "not answered");
            self.events.run_with_timeout(10).unwrap();
        }
    }

    pub(super) fn put(&self, gpa: u64, data: &[u8]) {
        self.ram.write_slice(data, GuestAddress(gpa)).unwrap();
    }
    pub(super) fn get<const N: usize>(&self, gpa: u64) -> [u8; N] {
        let mut data = [0; N];
        self.ram.read_slice(&mut data, GuestAddress(gpa)).unwrap();
        data
    }
}

impl Ring {
    pub(super) fn new(index: u16, size: u16) -> Self {
        let base = u64::from(index) * 0x8000 + 0x1000;
        let avail = base + (u64::from(size) * 16).max(0x1000);
        Self {
            size,
            descriptors: base,
            avail,
            used: avail + 0x1000,
            avail_index: 0,
            used_index: 0,
            next_descriptor: 0,
        }
    }

    /// Writes a descriptor: address, length, flags, next.
    pub(super) fn describe(
        &self,
        ram: &GuestMemoryMmap<()>,
        index: u16,
        (address, len, flags, next): (u64, u32, u16, u16),
    ) {
        put_descriptor(
            ram,
            self.descriptors + u64::from(index) * 16,
            (address, len, flags, next),
        );
    }

    /// Makes a chain available.
    pub(super) fn offer(&mut self, ram: &GuestMemoryMmap<()>, head: u16) {
        let entry = self.avail + 4 + u64::from(self.avail_index % self.size) * 2;
        ram.write_obj(head, GuestAddress(entry)).unwrap();
        self.avail_index = self.avail_index.wrapping_add(1);
        ram.write_obj(self.avail_index, GuestAddress(self.avail + 2))
            .unwrap();
    }
}

pub(super) fn put_descriptor(
    ram: &GuestMemoryMmap<()>,
    gpa: u64,
    (address, len, flags, next): (u64, u32, u16, u16),
) {
    ram.write_obj(address, GuestAddress(gpa)).unwrap();
    ram.write_obj(len, GuestAddress(gpa + 8)).unwrap();
    ram.write_obj([flags, next], GuestAddress(gpa + 12))
        .unwrap();
}

/// Reproducible numbers (SplitMix64).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }
    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
