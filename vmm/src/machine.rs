//! Builds a machine from its configuration, runs it, and says why it stopped.
//!
//! Order of building: memory, VM, devices, kernel, vCPUs. Order of stopping: vCPUs, then the I/O
//! thread, then what the guest wrote last goes out. `coopvirt run`, validation and tests use it.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvm_bindings::{kvm_irqchip, CpuId, KVM_IRQCHIP_IOAPIC};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::account::stats_fd::StatsFd;
use crate::boot::{self, registers, BootError};
use crate::bus::{Bus, BusError};
use crate::config::{ConfigError, ConsoleKind, Kernel, MachineConfig, Mode};
use crate::console::input::{Input, InputSink};
use crate::devices::debug_exit::DebugExit;
use crate::devices::i8042::I8042;
use crate::devices::power::Power;
use crate::devices::pvpanic::PvPanic;
use crate::devices::rtc::Rtc;
use crate::devices::serial::SerialPort;
use crate::event::MachineEvent;
use crate::io_thread::{IoThread, Subscriber};
use crate::irq::MsiRouter;
use crate::kvm::cpuid::{self, CpuidConfig};
use crate::kvm::{mce, open, setup};
use crate::mem::{layout, ram, GuestRam, RamError};
use crate::pci::{
    BarWindow, ConfigPorts, EcamWindow, PciLayout, PciRoot, CONFIG_PORTS_BASE, CONFIG_PORTS_LEN,
};
use crate::stop::StopReason;
use crate::vcpu::dispatch::Buses;
use crate::vcpu::tally::Tally;
use crate::vcpu::thread::VcpuParts;
use crate::vcpu::{VcpuEvent, VcpuHandle};
use crate::virtio::{
    attach, Blk, BlkAccess, Console, ConsoleOutput, Host, KvmDoorbells, Rng, VirtioDevice,
};

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BuildError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Open(#[from] open::OpenError),
    #[error(transparent)]
    Setup(#[from] setup::SetupError),
    #[error(transparent)]
    Ram(#[from] RamError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Registers(#[from] registers::RegistersError),
    #[error(transparent)]
    Disk(#[from] crate::virtio::BlkError),
    #[error("could not {what}")]
    Kvm {
        what: &'static str,
        source: kvm_ioctls::Error,
    },
    #[error("could not place a device on its bus")]
    Bus(#[from] BusError),
    #[error("could not {what}")]
    Device {
        what: &'static str,
        source: anyhow::Error,
    },
    #[error("could not {what}")]
    Io {
        what: &'static str,
        source: std::io::Error,
    },
    #[error("this KVM runs at most {max} vCPUs in one VM, not {wanted}")]
    TooManyVcpus { wanted: u8, max: usize },
}

/// Where the guest's console ends.
pub struct ConsoleEnds {
    /// Takes what the guest writes.
    pub output: Box<dyn Write + Send>,
    /// Whether standard input is the guest's keyboard.
    pub stdin: bool,
}

/// What the accounting of a machine can look at while it runs and after.
#[derive(Clone)]
pub struct Gauges {
    /// Returns to userspace, per vCPU.
    pub tallies: Arc<Vec<Arc<Tally>>>,
    /// KVM's own statistics, per vCPU; empty where KVM has no statistics descriptor.
    pub stats: Arc<Vec<StatsFd>>,
    /// Names of devices by address.
    pub buses: Arc<Buses>,
    /// Names of PCI BARs.
    pub pci: Arc<PciRoot>,
}

/// A machine, built and paused at its first instruction.
pub struct Machine {
    vcpus: Vec<VcpuHandle>,
    io: Option<IoThread>,
    console_output: Option<ConsoleOutput>,
    vm: Arc<VmFd>,
    acpi_in_use: Arc<AtomicBool>,
    inbox: Receiver<MachineEvent>,
    events: Sender<MachineEvent>,
    gauges: Gauges,
    // Last: KVM reads guest memory until the VM is gone.
    _ram: GuestRam,
}

impl Machine {
    /// Builds a machine that boots `config.kernel`. `observer` is told of marks.
    pub fn build(
        config: &MachineConfig,
        console: ConsoleEnds,
        observer: impl FnOnce(&Gauges) -> Arc<dyn VcpuEvent>,
    ) -> Result<Self, BuildError> {
        let nr_vcpus = config.vcpus.get();
        if !config.pin.is_empty() && config.pin.len() < usize::from(nr_vcpus) {
            let (given, needed) = (config.pin.len(), usize::from(nr_vcpus));
            return Err(ConfigError::PinCount { given, needed }.into());
        }
        // Bad files are reported before anything is built, also where there is no KVM.
        if let Kernel::File(path) = &config.kernel {
            boot::image::open(path).map_err(BootError::from)?;
        }
        let disks = open_disks(config)?;
        let ram = ram::allocate(config.memory_bytes, config.backing)?;
        let entry = boot::load(&ram, config)?;
        let kvm = open::open()?;
        let max = kvm.get_max_vcpus();
        if usize::from(nr_vcpus) > max {
            return Err(BuildError::TooManyVcpus {
                wanted: nr_vcpus,
                max,
            });
        }
        let (vm, _facts) = setup::create(&kvm, config)?;
        ram::register(&vm, &ram)?;

        let (events, inbox) = channel();
        let acpi_in_use = Arc::new(AtomicBool::new(false));
        let mut devices = Devices::new(config, &vm, &ram, &events, &acpi_in_use, console)?;
        devices.add_disks(disks)?;
        let Devices {
            buses,
            pci,
            subscribers,
            console_output,
            ..
        } = devices;
        let buses = Arc::new(buses);

        let (fds, tsc_khz) = create_vcpus(&kvm, &vm, config)?;
        boot::write_cmdline(&ram, &full_cmdline(config, tsc_khz))?;
        for fd in &fds {
            registers::set_msrs(fd)?;
        }
        registers::set_entry(&fds[0], &ram, entry)?;

        let gauges = Gauges {
            tallies: Arc::new(fds.iter().map(|_| Arc::default()).collect()),
            stats: Arc::new(fds.iter().filter_map(|fd| StatsFd::new(fd).ok()).collect()),
            buses: Arc::clone(&buses),
            pci,
        };
        let observer = observer(&gauges);
        let others: Vec<usize> = config
            .pin
            .get(usize::from(nr_vcpus)..)
            .unwrap_or_default()
            .to_vec();
        let io = IoThread::spawn(subscribers, others, events.clone()).map_err(|source| {
            BuildError::Io {
                what: "start the I/O thread",
                source,
            }
        })?;
        let mut vcpus = Vec::new();
        for (id, fd) in (0..).zip(fds) {
            let parts = VcpuParts {
                id,
                fd,
                buses: Arc::clone(&buses),
                tally: Arc::clone(&gauges.tallies[usize::from(id)]),
                observer: Arc::clone(&observer),
                events: events.clone(),
                host_cpu: config.pin.get(usize::from(id)).copied(),
            };
            let vcpu = VcpuHandle::spawn(parts).map_err(|source| BuildError::Io {
                what: "start a vCPU thread",
                source,
            })?;
            vcpus.push(vcpu);
        }
        Ok(Self {
            vcpus,
            io: Some(io),
            console_output,
            vm,
            acpi_in_use,
            inbox,
            events,
            gauges,
            _ram: ram,
        })
    }

    /// Where others send events to this machine.
    pub fn events(&self) -> Sender<MachineEvent> {
        self.events.clone()
    }

    /// What accounting can look at.
    pub fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    /// The vCPUs, for pausing, kicking and looking into them.
    pub fn vcpus(&self) -> &[VcpuHandle] {
        &self.vcpus
    }

    /// Lets all vCPUs run (again).
    pub fn resume(&self) {
        for vcpu in &self.vcpus {
            vcpu.resume();
        }
    }

    /// Stops all vCPUs outside the guest, each with its last exit completed.
    pub fn pause(&self) {
        for vcpu in &self.vcpus {
            vcpu.pause();
        }
    }

    /// Waits until the machine stops, at most `limit` if there is one (then `None`).
    pub fn wait(&self, limit: Option<Duration>) -> Option<StopReason> {
        let mut panicked = false;
        loop {
            let event = match limit {
                Some(limit) => self.inbox.recv_timeout(limit).ok()?,
                // `self.events` keeps the channel open.
                None => self.inbox.recv().ok()?,
            };
            let reason = match event {
                MachineEvent::Panicked => {
                    // The guest still has its last words to say; a guest with `panic=-1` resets
                    // next, one without stays up for its user.
                    panicked = true;
                    continue;
                }
                MachineEvent::PowerOff => StopReason::PowerOff,
                MachineEvent::Exit(code) => StopReason::GuestExit(code),
                MachineEvent::UserQuit => StopReason::UserQuit,
                MachineEvent::Signal(signal) => StopReason::Signal(signal),
                MachineEvent::VcpuFailed { vcpu, what } => {
                    StopReason::KvmFailure(format!("vCPU {vcpu}: {what}"))
                }
                MachineEvent::Reset | MachineEvent::TripleFault if panicked => {
                    StopReason::Panic("it said so through pvpanic and reset the machine".into())
                }
                MachineEvent::Reset | MachineEvent::TripleFault if self.has_shut_down() => {
                    StopReason::Reboot
                }
                MachineEvent::Reset => StopReason::Panic(
                    "it reset the machine without shutting down (panic=-1, or a forced reset)"
                        .into(),
                ),
                MachineEvent::TripleFault => StopReason::TripleFault,
            };
            return Some(reason);
        }
    }

    /// Whether the guest's kernel has been through its orderly shutdown.
    ///
    /// Linux masks every I/O APIC entry in `native_machine_shutdown` (arch/x86/kernel/reboot.c),
    /// and nowhere on its way from a panic to a reset; the ACPI interrupt has an unmasked entry
    /// from the time ACPI is set up. So "ACPI was in use and all entries are masked" is orderly.
    fn has_shut_down(&self) -> bool {
        self.pause();
        if !self.acpi_in_use.load(Ordering::Relaxed) {
            return false;
        }
        let mut chip = kvm_irqchip {
            chip_id: KVM_IRQCHIP_IOAPIC,
            ..Default::default()
        };
        self.vm.get_irqchip(&mut chip).is_ok() && setup::io_apic_is_masked(&chip)
    }

    /// Stops everything and lets the guest's last output out.
    pub fn shut_down(mut self) {
        self.vcpus.clear();
        self.io = None;
        if let Some(output) = self.console_output.take() {
            output.finish(Duration::from_secs(1));
        }
    }
}

/// The devices while they are being put together.
struct Devices {
    buses: Buses,
    pci: Arc<PciRoot>,
    host: Host,
    subscribers: Vec<Subscriber>,
    console_output: Option<ConsoleOutput>,
}

fn device(what: &'static str) -> impl Fn(anyhow::Error) -> BuildError {
    move |source| BuildError::Device { what, source }
}

impl Devices {
    fn new(
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
        let host = Host {
            ram: Arc::clone(ram),
            interrupts: Arc::new(MsiRouter::new(Arc::clone(vm))),
            doorbells: Arc::new(KvmDoorbells::new(Arc::clone(vm))),
        };
        let buses = Buses {
            ports: Bus::new(),
            mmio: Bus::new(),
        };
        let mut devices = Self {
            buses,
            pci: Arc::new(pci),
            host,
            subscribers: Vec::new(),
            console_output: None,
        };
        devices.add_ports(config, events, acpi_in_use)?;
        devices.add_pci_windows(config, events)?;
        let sink = devices.add_console(config, vm, console.output)?;
        devices.add(Box::new(Rng::new()))?;
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
        acpi_in_use: &Arc<AtomicBool>,
    ) -> Result<(), BuildError> {
        let ports = &mut self.buses.ports;
        ports.insert(layout::PORT_RTC, 2, Arc::new(Mutex::new(Rtc::default())))?;
        let i8042 = I8042::new(events.clone());
        ports.insert(layout::PORT_I8042, 1, Arc::new(Mutex::new(i8042)))?;
        let pvpanic = PvPanic::new(events.clone());
        ports.insert(layout::PORT_PVPANIC, 1, Arc::new(Mutex::new(pvpanic)))?;
        let power = Power::new(Arc::clone(acpi_in_use), events.clone());
        ports.insert(layout::PORT_PM1A, Power::PORTS, Arc::new(Mutex::new(power)))?;
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
        let (serial_output, virtio_output): (Box<dyn Write + Send>, _) = match config.console {
            ConsoleKind::Serial => (output, None),
            ConsoleKind::Virtio => (Box::new(std::io::sink()), Some(output)),
        };
        let serial = SerialPort::new(irq, serial_output);
        self.buses
            .ports
            .insert(layout::PORT_SERIAL, 8, Arc::new(Mutex::new(serial.clone())))?;
        let Some(output) = virtio_output else {
            return Ok(Box::new(move |bytes: &[u8]| serial.push(bytes)));
        };
        let (console, input, output) = Console::new(output)
            .map_err(|error| device("make the virtio console")(error.into()))?;
        self.add(Box::new(console))?;
        self.console_output = Some(output);
        Ok(Box::new(move |bytes: &[u8]| input.push(bytes)))
    }

    fn add_disks(&mut self, disks: Vec<Blk>) -> Result<(), BuildError> {
        disks
            .into_iter()
            .try_for_each(|disk| self.add(Box::new(disk)))
    }

    fn add(&mut self, virtio: Box<dyn VirtioDevice>) -> Result<(), BuildError> {
        let worker = attach(&self.pci, virtio, &self.host)
            .map_err(|error| device("attach a virtio device")(error.into()))?;
        self.subscribers.push(Box::new(worker));
        Ok(())
    }
}

fn open_disks(config: &MachineConfig) -> Result<Vec<Blk>, BuildError> {
    let queues = u16::from(config.vcpus.get());
    config
        .disks
        .iter()
        .map(|disk| {
            let access = if disk.read_only {
                BlkAccess::ReadOnly
            } else {
                BlkAccess::ReadWrite
            };
            Ok(Blk::open(&disk.path, access, queues)?)
        })
        .collect()
}

/// Creates the vCPUs with their CPUID; also gives the guest's TSC frequency in kHz (0: unknown).
fn create_vcpus(
    kvm: &Kvm,
    vm: &VmFd,
    config: &MachineConfig,
) -> Result<(Vec<VcpuFd>, u32), BuildError> {
    let failed = |what| move |source| BuildError::Kvm { what, source };
    let supported: CpuId = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(failed("ask KVM for its CPUID"))?;
    let mut fds = Vec::new();
    let mut tsc_khz = 0;
    for id in 0..config.vcpus.get() {
        let fd = vm.create_vcpu(id.into()).map_err(failed("create a vCPU"))?;
        // Not every host can tell; then the guest measures it.
        tsc_khz = fd.get_tsc_khz().unwrap_or(0);
        let cpuid_config = CpuidConfig {
            mode: config.mode,
            x2apic: config.x2apic,
            kvm_features: config.kvm_features,
            vcpus: config.vcpus.get(),
            tsc_khz,
        };
        let entries = cpuid::for_vcpu(&supported, &cpuid_config, id);
        let cpuid = CpuId::from_entries(&entries).map_err(|_| BuildError::Kvm {
            what: "make a CPUID table",
            source: kvm_ioctls::Error::new(libc::E2BIG),
        })?;
        setup::enforce_pv_features(&fd)?;
        mce::set_banks(&fd).map_err(|source| BuildError::Io {
            what: "set up machine-check banks",
            source,
        })?;
        fd.set_cpuid2(&cpuid)
            .map_err(failed("set a vCPU's CPUID"))?;
        fds.push(fd);
    }
    Ok((fds, tsc_khz))
}

/// The command line that the guest gets: in `hvm` mode nothing but the command line can tell an
/// AMD guest its TSC frequency, and measuring it against the PIT takes long and goes wrong under
/// emulation.
fn full_cmdline(config: &MachineConfig, tsc_khz: u32) -> String {
    let mut cmdline = config.cmdline.clone();
    if config.mode == Mode::Hvm && tsc_khz != 0 && !cmdline.contains("tsc_early_khz=") {
        cmdline.push_str(&format!(" tsc_early_khz={tsc_khz}"));
    }
    cmdline
}
