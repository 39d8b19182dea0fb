//! A virtio device as a PCI function: capabilities, one BAR, doorbells.
//!
//! Called by the root complex with the function's lock held, on vCPU threads. It sets up and
//! forwards; only a change of status and the device's own configuration take the backend's lock.

use std::io;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::backend::{lock, ring, Backend, SharedBackend};
use super::bindings::Bindings;
use super::device::VirtioDevice;
use super::doorbell::DoorbellSink;
use super::interrupt::Interrupts;
use super::pci_layout::{
    config_space, ACCESS_BAR, ACCESS_DATA, ACCESS_LENGTH, ACCESS_OFFSET, BAR_BYTES, BAR_INDEX,
    NOTIFY_STRIDE_BYTES, PAGE_BYTES, PAGE_COMMON, PAGE_DEVICE, PAGE_ISR, PAGE_MSIX_PENDING,
    PAGE_MSIX_TABLE, PAGE_NOTIFY,
};
use super::receiver::NotifyPolicy;
use super::refusal::Refusal;
use super::transport::{Action, Transport};
use super::vcpu_notify::VcpuNotify;
use super::worker::QueueWorker;
use super::GuestRam;
use crate::irq::{InterruptSink, IrqError};
use crate::notifies::{Notified, Notifies};
use crate::pci::{BarBase, ConfigSpace, Msix, PciError, PciFunction, PciRoot, BAR_COUNT};

const MAX_QUEUES: usize = 64;

/// What devices need of the host.
#[derive(Clone)]
pub struct Host {
    /// The guest's memory.
    pub ram: GuestRam,
    /// Where interrupts go.
    pub interrupts: Arc<dyn InterruptSink>,
    /// Who turns notify writes into eventfds.
    pub doorbells: Arc<dyn DoorbellSink>,
    /// Where vCPU threads look for who hears a notify write that has exited.
    pub notifies: Arc<Notifies>,
}

/// Why a device could not be put on the bus.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// More queues than a function has doorbells.
    #[error("{name} has {nr_queues} queues, more than {MAX_QUEUES}")]
    Queues {
        /// The device.
        name: String,
        /// Its queues.
        nr_queues: usize,
    },
    /// The host gave no eventfd.
    #[error("could not create a doorbell for {name}")]
    Doorbell {
        /// The device.
        name: String,
        /// The reason.
        source: io::Error,
    },
    /// No interrupt lines.
    #[error(transparent)]
    Interrupt(#[from] IrqError),
    /// No place on the bus.
    #[error(transparent)]
    Pci(#[from] PciError),
}

/// Puts a device on the bus. The worker belongs to the I/O thread's event manager.
pub fn attach(
    root: &PciRoot,
    device: Box<dyn VirtioDevice>,
    host: &Host,
) -> Result<QueueWorker, AttachError> {
    let (function, worker) = VirtioPci::new(device, host)?;
    root.add(function)?;
    Ok(worker)
}

struct VirtioPci {
    name: String,
    config: ConfigSpace,
    msix_cap: usize,
    access_cap: usize,
    transport: Transport,
    backend: SharedBackend,
    interrupts: Arc<Interrupts>,
    msix: Arc<Msix>,
    doorbells: Arc<[EventFd]>,
    bindings: Arc<Bindings>,
    // Where the BAR is decoded.
    bar_base: Option<u64>,
    refusal: Refusal,
}

impl VirtioPci {
    fn new(device: Box<dyn VirtioDevice>, host: &Host) -> Result<(Self, QueueWorker), AttachError> {
        let name = device.name().to_owned();
        let queue_sizes = device.queue_sizes();
        let nr_queues = queue_sizes.len();
        if nr_queues > MAX_QUEUES {
            return Err(AttachError::Queues { name, nr_queues });
        }
        let nr_vectors = u16::try_from(nr_queues + 1).expect("bounded by MAX_QUEUES");
        let msix = Arc::new(Msix::new(host.interrupts.clone(), nr_vectors)?);
        let interrupts = Arc::new(Interrupts::new(msix.clone(), nr_queues));
        let no_doorbell = |source| AttachError::Doorbell {
            name: name.clone(),
            source,
        };
        let doorbells: Arc<[EventFd]> = (0..nr_queues)
            .map(|_| EventFd::new(EFD_NONBLOCK))
            .collect::<io::Result<_>>()
            .map_err(no_doorbell)?;
        let (config, msix_cap, access_cap) = config_space(&*device, nr_vectors);
        let transport = Transport::new(device.features(), &queue_sizes, interrupts.clone());
        let host_event = device.host_event();
        let policies = (0..nr_queues).map(|index| device.notify_policy(index));
        let policies: Vec<NotifyPolicy> = policies.collect();
        let backend = Backend::new(device, nr_queues, host.ram.clone(), interrupts.clone());
        let backend = Arc::new(Mutex::new(backend));
        let queues = policies.iter().enumerate().map(|(index, policy)| {
            let locked = lock(&backend);
            let notified = (*policy != NotifyPolicy::Thread).then(|| {
                Arc::new(VcpuNotify::new(&backend, &locked, &doorbells, index)) as Arc<dyn Notified>
            });
            (notified, locked.receiver(index))
        });
        let bindings = Bindings::new(
            doorbells.clone(),
            host.doorbells.clone(),
            host.notifies.clone(),
            queues,
        );
        let bindings = Arc::new(bindings);
        let worker = QueueWorker::new(
            backend.clone(),
            doorbells.clone(),
            host_event,
            bindings.clone(),
        );
        let function = Self {
            name,
            config,
            msix_cap,
            access_cap,
            transport,
            backend,
            interrupts,
            msix,
            doorbells,
            bindings,
            bar_base: None,
            refusal: Refusal::default(),
        };
        Ok((function, worker))
    }

    fn write_common(&mut self, offset: usize, data: &[u8]) {
        match self.transport.write(offset, data) {
            Action::None => {}
            Action::GiveUp => {
                if let Some(line) = self.refusal.line(&self.name) {
                    complain!("{line}");
                }
            }
            Action::Activate => {
                let (features, event_idx) =
                    (self.transport.features(), self.transport.uses_event_idx());
                let setups = self.transport.queues();
                {
                    let mut backend = lock(&self.backend);
                    backend.activate(features, event_idx, setups, &self.doorbells);
                    backend.count_first_rings();
                }
                self.bind_doorbells();
                // What either side had ready before now needs no notification.
                self.doorbells.iter().for_each(ring);
            }
            Action::Reset => {
                // The backend first: when it is done, no interrupt comes from the old life.
                lock(&self.backend).reset();
                self.transport.reset();
                self.bind_doorbells();
            }
        }
    }

    /// Places each live queue's notify address where the BAR is now.
    fn bind_doorbells(&self) {
        let base = self.bar_base.filter(|_| self.transport.is_live());
        let queues = (0..).zip(self.transport.queues());
        let places = queues.map(|(index, setup)| {
            let offset = PAGE_NOTIFY * PAGE_BYTES + index * NOTIFY_STRIDE_BYTES;
            let base = base.filter(|_| setup.is_enabled);
            base.map(|base| base + u64::from(offset))
        });
        self.bindings.place(places);
    }

    /// The BAR access that the access capability describes, if it describes a possible one.
    fn indirect_access(&self) -> Option<(u64, usize)> {
        let [bar, ..] = self.config.get4(self.access_cap + ACCESS_BAR);
        let offset = u32::from_le_bytes(self.config.get4(self.access_cap + ACCESS_OFFSET));
        let length = u32::from_le_bytes(self.config.get4(self.access_cap + ACCESS_LENGTH));
        let is_possible = usize::from(bar) == BAR_INDEX
            && matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(length)
            && offset < BAR_BYTES;
        is_possible.then_some((u64::from(offset), length as usize))
    }

    fn touches(&self, field: usize, offset: u16, len: usize) -> bool {
        let start = usize::from(offset);
        start < field + 4 && field < start + len
    }
}

impl PciFunction for VirtioPci {
    fn name(&self) -> &str {
        &self.name
    }
    fn bar_sizes(&self) -> [u32; BAR_COUNT] {
        self.config.bar_sizes()
    }
    fn bar_parts(&self, _bar: usize) -> Vec<(u64, u64, String)> {
        let page = |number: u32, what: &str| {
            let offset = u64::from(number * PAGE_BYTES);
            (
                offset,
                u64::from(PAGE_BYTES),
                format!("{} {what}", self.name),
            )
        };
        let doorbells = (0..self.doorbells.len() as u64).map(|queue| {
            let stride = u64::from(NOTIFY_STRIDE_BYTES);
            let offset = u64::from(PAGE_NOTIFY * PAGE_BYTES) + queue * stride;
            (
                offset,
                stride,
                format!("{} doorbell of queue {queue}", self.name),
            )
        });
        let pages = [
            page(PAGE_COMMON, "common configuration"),
            page(PAGE_ISR, "interrupt status"),
            page(PAGE_DEVICE, "device configuration"),
            page(PAGE_MSIX_TABLE, "interrupt table"),
        ];
        doorbells.chain(pages).collect()
    }
    fn place_bar(&mut self, bar: usize, base: u32) {
        self.config.place_bar(bar, base);
    }
    fn bar_address(&self, bar: usize) -> Option<u64> {
        self.config.bar_address(bar)
    }

    fn bar_moved(&mut self, (_, base): BarBase) {
        self.bar_base = base;
        self.bind_doorbells();
    }

    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        let field = self.access_cap + ACCESS_DATA;
        if self.touches(field, offset, data.len()) {
            if let Some((bar_offset, len)) = self.indirect_access() {
                let mut value = [0; 4];
                self.bar_read(BAR_INDEX, bar_offset, &mut value[..len]);
                self.config.set4(field, value);
            }
        }
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        let was_master = self.config.is_master();
        self.config.write(offset, data);
        // Only the change counts: a driver that never sets the bit is served as well.
        if was_master && !self.config.is_master() && self.transport.is_live() {
            lock(&self.backend).cease();
        }
        if self.touches(self.msix_cap, offset, data.len()) {
            let [_, _, _, control] = self.config.get4(self.msix_cap);
            let (is_enabled, is_masked) = (control & 0x80 != 0, control & 0x40 != 0);
            self.msix.set_control(is_enabled, is_masked);
            self.refusal.had_interrupts |= is_enabled;
        }
        let field = self.access_cap + ACCESS_DATA;
        if self.touches(field, offset, data.len()) {
            if let Some((bar_offset, len)) = self.indirect_access() {
                let value = self.config.get4(field);
                self.bar_write(BAR_INDEX, bar_offset, &value[..len]);
            }
        }
    }

    fn bar_read(&mut self, _bar: usize, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let (page, within) = split(offset);
        match page {
            PAGE_COMMON => self.transport.read(within, data),
            PAGE_ISR if within == 0 => {
                if let Some(byte) = data.first_mut() {
                    *byte = self.interrupts.take_isr();
                }
            }
            PAGE_DEVICE => lock(&self.backend)
                .device()
                .config_read(within as u64, data),
            PAGE_MSIX_TABLE => self.msix.table_read(within, data),
            PAGE_MSIX_PENDING => self.msix.pending_read(within, data),
            _ => {}
        }
    }

    fn bar_write(&mut self, _bar: usize, offset: u64, data: &[u8]) {
        let (page, within) = split(offset);
        match page {
            PAGE_COMMON => self.write_common(within, data),
            PAGE_DEVICE => lock(&self.backend)
                .device()
                .config_write(within as u64, data),
            PAGE_NOTIFY => {
                if let Some(doorbell) = self.doorbells.get(within / NOTIFY_STRIDE_BYTES as usize) {
                    ring(doorbell);
                }
            }
            PAGE_MSIX_TABLE => self.msix.table_write(within, data),
            _ => {}
        }
    }
}

impl Drop for VirtioPci {
    fn drop(&mut self) {
        self.bar_base = None;
        self.bind_doorbells();
    }
}

/// Page and offset in it. Offsets in the BAR are below 2^15, so nothing is cut off.
fn split(offset: u64) -> (u32, usize) {
    let offset = u32::try_from(offset).unwrap_or(u32::MAX);
    (offset / PAGE_BYTES, (offset % PAGE_BYTES) as usize)
}
