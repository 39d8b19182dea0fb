//! Puts a machine's devices together: ports, PCI, console, disks.

use std::io::Write;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, Weak};

use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use super::{BuildError, ConsoleEnds};
use crate::bus::Bus;
use crate::config::{BusyPoll, ConsoleKind, DiskConfig, DiskIo, MachineConfig};
use crate::console::input::{Input, InputSink};
use crate::console::writer::ConsoleOutput;
use crate::devices::debug_exit::DebugExit;
use crate::devices::i8042::I8042;
use crate::devices::power::Power;
use crate::devices::pvpanic::PvPanic;
use crate::devices::rtc::Rtc;
use crate::devices::serial::SerialPort;
use crate::event::MachineEvent;
use crate::io_thread::Subscriber;
use crate::irq::MsiRouter;
use crate::mem::{layout, GuestRam};
use crate::notifies::Notifies;
use crate::pci::{
    BarWindow, ConfigPorts, EcamWindow, PciLayout, PciRoot, CONFIG_PORTS_BASE, CONFIG_PORTS_LEN,
};
use crate::vcpu::dispatch::Buses;
use crate::virtio::{
    attach, Balloon, BalloonControl, Blk, BlkAccess, BlkError, Console, DeviceCounters, Host,
    KvmDoorbells, Lingerer, Net, PolledDevice, Rng, UnixVsock, VhostUserBlk, VhostUserFs,
    VirtioDevice, Vsock, VsockGauges,
};

/// The devices while they are being put together.
pub(super) struct Devices {
    pub(super) buses: Buses,
    pub(super) pci: Arc<PciRoot>,
    pub(super) power: Arc<Mutex<Power>>,
    host: Host,
    pub(super) router: Arc<MsiRouter>,
    pub(super) subscribers: Vec<Subscriber>,
    pub(super) console_output: Option<ConsoleOutput>,
    /// Names and counters, in the order of the bus.
    pub(super) counters: Vec<(String, Arc<DeviceCounters>)>,
    /// What a polling thread may look at.
    pub(super) polled: Vec<PolledDevice>,
    /// What the I/O thread may linger for.
    pub(super) lingerers: Vec<Lingerer>,
    pub(super) balloon: Option<Arc<BalloonControl>>,
    pub(super) vsock: Option<Arc<VsockGauges>>,
}

fn device(what: &'static str) -> impl Fn(anyhow::Error) -> BuildError {
    move |source| BuildError::Device { what, source }
}

impl Devices {
    pub(super) fn new(
        config: &MachineConfig,
        vm: &Arc<VmFd>,
        ram: &GuestRam,
        events: &Sender<MachineEvent>,
        acpi_in_use: &Arc<AtomicBool>,
        console: ConsoleEnds,
    ) -> Result<Self, BuildError> {
        let pci = PciRoot::new(PciLayout {
            ecam_base: layout::ECAM,
            ecam_len_bytes: layout::ECAM_BYTES,
            mmio_base: layout::PCI_HOLE,
            mmio_len_bytes: layout::PCI_WINDOW_BYTES,
        })
        .map_err(|error| device("make the PCI root")(error.into()))?;
        let router = Arc::new(MsiRouter::new(Arc::clone(vm)));
        let notifies = Arc::new(Notifies::new());
        let host = Host {
            ram: Arc::clone(ram),
            interrupts: router.clone(),
            doorbells: Arc::new(KvmDoorbells::new(Arc::clone(vm))),
            notifies: Arc::clone(&notifies),
        };
        let buses = Buses {
            ports: Bus::new(),
            mmio: Bus::new(),
            notifies,
            bars: None,
        };
        let line = Arc::clone(vm);
        let sci = Box::new(move |level| {
            // It fails for a VM without interrupt controllers only, and ours has them.
            let _ = line.set_irq_line(layout::IRQ_SCI.into(), level);
        });
        let power = Power::new(Arc::clone(acpi_in_use), events.clone(), sci);
        let mut devices = Self {
            buses,
            power: Arc::new(Mutex::new(power)),
            pci: Arc::new(pci),
            host,
            router,
            subscribers: Vec::new(),
            console_output: None,
            counters: Vec::new(),
            polled: Vec::new(),
            lingerers: Vec::new(),
            balloon: None,
            vsock: None,
        };
        devices.add_ports(config, events)?;
        devices.add_pci_windows(config, events)?;
        let sink = devices.add_console(config, vm, console.output)?;
        devices.add(Box::new(Rng::new()))?;
        if config.balloon {
            let balloon =
                Balloon::new().map_err(|error| device("make the balloon")(error.into()))?;
            devices.balloon = Some(balloon.control());
            devices.add(Box::new(balloon))?;
        }
        if console.stdin && Input::is_pollable() {
            devices
                .subscribers
                .push(Box::new(Input::new(sink, events.clone())));
        }
        Ok(devices)
    }

    fn add_ports(
        &mut self,
        config: &MachineConfig,
        events: &Sender<MachineEvent>,
    ) -> Result<(), BuildError> {
        let ports = &mut self.buses.ports;
        ports.insert(layout::PORT_RTC, 2, Arc::new(Mutex::new(Rtc::default())))?;
        let i8042 = I8042::new(events.clone());
        ports.insert(layout::PORT_I8042, 1, Arc::new(Mutex::new(i8042)))?;
        let pvpanic = PvPanic::new(events.clone());
        ports.insert(layout::PORT_PVPANIC, 1, Arc::new(Mutex::new(pvpanic)))?;
        ports.insert(layout::PORT_PM1A, Power::PORTS, self.power.clone())?;
        if config.debug_exit {
            let debug_exit = DebugExit::new(events.clone());
            ports.insert(layout::PORT_DEBUG_EXIT, 1, Arc::new(Mutex::new(debug_exit)))?;
        }
        Ok(())
    }

    /// Adds ECAM and BARs. Configuration mechanism 1 (ports 0xcf8 and 0xcfc) is only there if asked
    /// for: Linux prefers it where it exists, and an access by it costs two exits instead of one.
    fn add_pci_windows(
        &mut self,
        config: &MachineConfig,
        events: &Sender<MachineEvent>,
    ) -> Result<(), BuildError> {
        if config.pci_config_ports {
            let events = events.clone();
            let ports = ConfigPorts::new(Arc::clone(&self.pci)).on_reset(move || {
                // The receiver only goes away when the machine is stopping already.
                let _ = events.send(MachineEvent::Reset);
            });
            let ports = Arc::new(Mutex::new(ports));
            self.buses
                .ports
                .insert(CONFIG_PORTS_BASE, CONFIG_PORTS_LEN, ports)?;
        }
        let ecam = Arc::new(Mutex::new(EcamWindow::new(Arc::clone(&self.pci))));
        self.buses
            .mmio
            .insert(layout::ECAM, layout::ECAM_BYTES, ecam)?;
        self.buses.bars = Some(Arc::clone(&self.pci));
        let bars = Arc::new(Mutex::new(BarWindow::new(Arc::clone(&self.pci))));
        self.buses
            .mmio
            .insert(layout::PCI_HOLE, layout::PCI_WINDOW_BYTES, bars)?;
        Ok(())
    }

    /// Adds COM1 and, if asked for, virtio-console; returns where typed bytes go.
    fn add_console(
        &mut self,
        config: &MachineConfig,
        vm: &Arc<VmFd>,
        output: Box<dyn Write + Send>,
    ) -> Result<Box<dyn InputSink>, BuildError> {
        let io = |source| BuildError::Io {
            what: "make the serial port",
            source,
        };
        let irq = EventFd::new(libc::EFD_NONBLOCK).map_err(io)?;
        vm.register_irqfd(&irq, layout::IRQ_SERIAL)
            .map_err(|source| BuildError::Kvm {
                what: "connect the serial interrupt",
                source,
            })?;
        let (serial_output, virtio_output) = match config.console {
            ConsoleKind::Serial => (
                Some(ConsoleOutput::new(output, Weak::new()).map_err(io)?),
                None,
            ),
            ConsoleKind::Virtio => (None, Some(output)),
        };
        self.console_output.clone_from(&serial_output);
        let serial = SerialPort::new(irq, serial_output).map_err(io)?;
        self.buses
            .ports
            .insert(layout::PORT_SERIAL, 8, Arc::new(Mutex::new(serial.clone())))?;
        let Some(output) = virtio_output else {
            return Ok(Box::new(serial));
        };
        let (console, input, output) = Console::new(output)
            .map_err(|error| device("make the virtio console")(error.into()))?;
        self.add(Box::new(console))?;
        self.console_output = Some(output);
        Ok(Box::new(input))
    }

    pub(super) fn add_disks(&mut self, disks: Vec<Blk>) -> Result<(), BuildError> {
        disks
            .into_iter()
            .try_for_each(|disk| self.add(Box::new(disk)))
    }

    pub(super) fn add_served(
        &mut self,
        devices: Vec<Box<dyn VirtioDevice>>,
    ) -> Result<(), BuildError> {
        devices.into_iter().try_for_each(|device| self.add(device))
    }

    pub(super) fn add_nets(&mut self, nets: Vec<Net>) -> Result<(), BuildError> {
        nets.into_iter().try_for_each(|net| self.add(Box::new(net)))
    }

    pub(super) fn add_vsock(&mut self, vsock: Option<OpenVsock>) -> Result<(), BuildError> {
        match vsock {
            None => Ok(()),
            Some(OpenVsock::Kernel(vsock)) => self.add(Box::new(vsock)),
            Some(OpenVsock::Unix(vsock)) => {
                self.vsock = Some(vsock.gauges());
                self.add(vsock)
            }
        }
    }

    fn add(&mut self, virtio: Box<dyn VirtioDevice>) -> Result<(), BuildError> {
        let name = virtio.name().to_owned();
        let worker = attach(&self.pci, virtio, &self.host)
            .map_err(|error| device("attach a virtio device")(error.into()))?;
        self.counters.push((name, worker.counters()));
        self.polled.extend(worker.polled());
        self.lingerers.extend(worker.lingerer());
        self.subscribers.push(Box::new(worker));
        Ok(())
    }
}

pub(super) fn open_disks(config: &MachineConfig) -> Result<Vec<Blk>, BuildError> {
    let nr_vcpus = u16::from(config.vcpus.get());
    config
        .disks
        .iter()
        .map(|disk| Ok(open_disk(disk, nr_vcpus)?))
        .collect()
}

/// The devices of other processes: disks, then folders.
pub(super) fn open_served(
    config: &MachineConfig,
    ram: &GuestRam,
) -> Result<Vec<Box<dyn VirtioDevice>>, BuildError> {
    let vcpus = u16::from(config.vcpus.get());
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    for disk in &config.vhost_user_disks {
        devices.push(Box::new(VhostUserBlk::open(disk, vcpus, ram)?));
    }
    for share in &config.shares {
        devices.push(Box::new(VhostUserFs::open(share, vcpus, ram)?));
    }
    Ok(devices)
}

pub(super) fn open_nets(config: &MachineConfig, ram: &GuestRam) -> Result<Vec<Net>, BuildError> {
    let vcpus = u16::from(config.vcpus.get());
    let busy_poll = BusyPoll::usual(config.mode, config.coop.sidecore.policy);
    let nets = config.nets.iter();
    nets.map(|net| Ok(Net::open(net, busy_poll, vcpus, ram)?))
        .collect()
}

fn open_disk(disk: &DiskConfig, nr_vcpus: u16) -> Result<Blk, BlkError> {
    let access = if disk.read_only {
        BlkAccess::ReadOnly
    } else {
        BlkAccess::ReadWrite
    };
    let nr_queues = disk.queues.map_or(nr_vcpus, |queues| queues.min(nr_vcpus));
    let mut blk = Blk::open(&disk.path, access, nr_queues)?;
    if let Some(serial) = &disk.serial {
        blk.set_serial(serial)?;
    }
    blk.receive_by(disk.notify);
    let is_sync = match disk.io {
        Some(io) => io == DiskIo::Sync,
        None => blk.is_in_memory(),
    };
    if is_sync {
        return Ok(blk);
    }
    match blk.use_uring() {
        Err(source) if disk.io == Some(DiskIo::Uring) => {
            let path = disk.path.clone();
            return Err(BlkError::NoUring { path, source });
        }
        Err(error) => complain!(
            "coopvirt: no io_uring here ({error}): disk {} serves one request at a time; say io=sync \
             to want that",
            disk.path.display()
        ),
        Ok(()) => {}
    }
    Ok(blk)
}

/// A socket device, and who moves its data.
pub(super) enum OpenVsock {
    Kernel(Vsock),
    Unix(Box<UnixVsock>),
}

pub(super) fn open_vsock(
    config: &MachineConfig,
    ram: &GuestRam,
) -> Result<Option<OpenVsock>, BuildError> {
    let Some(vsock) = &config.vsock else {
        return Ok(None);
    };
    Ok(Some(match &vsock.socket {
        None => OpenVsock::Kernel(Vsock::open(vsock.cid, ram)?),
        Some(path) => OpenVsock::Unix(Box::new(UnixVsock::open(vsock.cid, path)?)),
    }))
}
