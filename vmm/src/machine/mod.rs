//! Builds a machine from its configuration, runs it, and says why it stopped.
//!
//! Order of building: memory, VM, devices, kernel, vCPUs. Order of stopping: vCPUs, then the polling
//! thread and the I/O thread, then what the guest wrote last goes out. `coopvirt run`, validation and tests use it.

mod coop;
mod devices;
mod remote;
mod vcpus;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_ioctls::VmFd;

use self::devices::Devices;
pub use self::remote::{Remote, RemoteError, RunState};
use crate::account::stats_fd::StatsFd;
use crate::accounting::chain;
use crate::boot::{self, registers, BootError};
use crate::bus::BusError;
use crate::config::{ConfigError, Kernel, MachineConfig};
use crate::console::writer::ConsoleOutput;
use crate::coop::sidecore::Sidecore;
use crate::coop::Coop;
use crate::event::MachineEvent;
use crate::io_thread::IoThread;
use crate::kvm::cpuid::address_bits;
use crate::kvm::{irqchip, open, setup};
use crate::mem::{ram, GuestRam, RamError};
use crate::pci::PciRoot;
use crate::stop::StopReason;
use crate::vcpu::dispatch::Buses;
use crate::vcpu::tally::Tally;
use crate::vcpu::thread::{VcpuParts, END_LIMIT};
use crate::vcpu::{VcpuEvent, VcpuHandle};
use crate::virtio::{BalloonControl, DeviceCounters, DeviceCounts, VsockGauges};

/// How often somebody who waits for the console's reader looks whether he still should.
const LOOK_EVERY: Duration = Duration::from_millis(50);

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
    #[error(transparent)]
    Net(#[from] crate::virtio::NetError),
    #[error(transparent)]
    Vsock(#[from] crate::virtio::VsockError),
    #[error(transparent)]
    UnixVsock(#[from] crate::virtio::UnixVsockError),
    #[error(transparent)]
    VhostUser(#[from] crate::virtio::VhostUserError),
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
    /// KVM's own statistics, per vCPU; empty where they cannot be had.
    pub stats: Arc<Vec<StatsFd>>,
    /// Why they cannot be had, if so.
    pub no_stats: Option<Arc<str>>,
    /// Names of devices by address.
    pub buses: Arc<Buses>,
    /// Names of PCI BARs.
    pub pci: Arc<PciRoot>,
    /// Virtio devices by name, with what they have done.
    pub devices: Arc<Vec<(String, Arc<DeviceCounters>)>>,
    /// The balloon, if there is one.
    pub balloon: Option<Arc<BalloonControl>>,
    /// The sockets that this process serves, if it does.
    pub vsock: Option<Arc<VsockGauges>>,
}

impl Gauges {
    /// What each virtio device has done, by kind and number: "virtio-blk 0".
    pub fn device_counts(&self) -> BTreeMap<String, DeviceCounts> {
        let mut nr_of_kind = BTreeMap::<&str, usize>::new();
        let devices = self.devices.iter().map(|(kind, counters)| {
            let next = nr_of_kind.entry(kind).or_default();
            let name = format!("{kind} {next}");
            *next += 1;
            (name, counters.counts())
        });
        devices.collect()
    }
}

/// A machine, built and paused at its first instruction.
pub struct Machine {
    vcpus: Arc<Vec<VcpuHandle>>,
    remote: Remote,
    io: Option<IoThread>,
    coop: Option<Arc<Coop>>,
    sidecore: Option<Sidecore>,
    console_output: Option<ConsoleOutput>,
    vm: Arc<VmFd>,
    acpi_in_use: Arc<AtomicBool>,
    inbox: Receiver<MachineEvent>,
    events: Sender<MachineEvent>,
    gauges: Gauges,
    // Last: KVM reads guest memory until the VM is gone.
    ram: GuestRam,
}

impl Machine {
    /// Builds a machine that boots `config.kernel`. `observer` is told of marks.
    pub fn build(
        config: &MachineConfig,
        console: ConsoleEnds,
        observer: impl FnOnce(&Gauges) -> Arc<dyn VcpuEvent>,
    ) -> Result<Self, BuildError> {
        let nr_vcpus = config.vcpus.get();
        config.check()?;
        // Bad files are reported before anything is built, also where there is no KVM.
        if let Kernel::File(path) = &config.kernel {
            boot::image::open(path).map_err(BootError::from)?;
        }
        let mut disks = devices::open_disks(config)?;
        let ram = ram::allocate(config.memory_bytes, config.backing, config.sharing())?;
        let served = devices::open_served(config, &ram)?;
        let nets = devices::open_nets(config, &ram)?;
        let vsock = devices::open_vsock(config, &ram)?;
        let loaded = boot::load(&ram, config)?;
        let kvm = open::open()?;
        let max = kvm.get_max_vcpus();
        if usize::from(nr_vcpus) > max {
            return Err(BuildError::TooManyVcpus {
                wanted: nr_vcpus,
                max,
            });
        }
        let cpuid = kvm
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(|source| BuildError::Kvm {
                what: "ask KVM for its CPUID",
                source,
            })?;
        ram::check_reach(config.memory_bytes, address_bits(&cpuid))?;
        let (vm, _facts) = setup::create(&kvm, config)?;
        ram::register(&vm, &ram)?;

        let (events, inbox) = channel();
        let acpi_in_use = Arc::new(AtomicBool::new(false));
        let mut parts = Devices::new(config, &vm, &ram, &events, &acpi_in_use, console)?;
        let disk_hints = Arc::new(coop::DiskHints::default());
        for disk in &mut disks {
            disk.tell(disk_hints.clone());
        }
        parts.add_disks(disks)?;
        parts.add_served(served)?;
        parts.add_nets(nets)?;
        parts.add_vsock(vsock)?;
        let Devices {
            buses,
            pci,
            subscribers,
            console_output,
            counters,
            polled,
            lingerers,
            balloon,
            vsock: vsock_gauges,
            power,
            router,
            ..
        } = parts;
        let buses = Arc::new(buses);

        let (fds, tsc_khz) = vcpus::create(&cpuid, &vm, config)?;
        let cmdline = vcpus::full_cmdline(config, tsc_khz);
        boot::write_cmdline(&ram, &cmdline, loaded.cmdline_max_bytes)?;
        for fd in &fds {
            registers::set_msrs(fd)?;
        }
        registers::set_entry(&fds[0], &ram, loaded.entry)?;

        let stats: Result<Vec<StatsFd>, _> = fds.iter().map(StatsFd::new).collect();
        let no_stats = stats.as_ref().err().map(|error| chain(error).into());
        let gauges = Gauges {
            tallies: Arc::new(fds.iter().map(|_| Arc::default()).collect()),
            stats: Arc::new(stats.unwrap_or_default()),
            no_stats,
            buses: Arc::clone(&buses),
            pci,
            devices: Arc::new(counters),
            balloon,
            vsock: vsock_gauges,
        };
        let observer = observer(&gauges);
        let coop = coop::create(config, &vm, &ram, &observer)?;
        if let Some(coop) = &coop {
            disk_hints.connect(coop);
            let poster = Arc::downgrade(coop);
            router.post_by(poster);
        }
        let others: Vec<usize> = config
            .pin
            .get(usize::from(nr_vcpus)..)
            .unwrap_or_default()
            .to_vec();
        let sidecore = coop
            .as_ref()
            .map(|coop| coop::start(coop, tsc_khz, others.clone(), &polled))
            .transpose()?;
        let io =
            IoThread::spawn(subscribers, lingerers, others, events.clone()).map_err(|source| {
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
                coop: coop.clone(),
                events: events.clone(),
                host_cpu: config.pin.get(usize::from(id)).copied(),
                ram: GuestRam::clone(&ram),
            };
            let vcpu = VcpuHandle::spawn(parts).map_err(|source| BuildError::Io {
                what: "start a vCPU thread",
                source,
            })?;
            vcpus.push(vcpu);
        }
        let vcpus = Arc::new(vcpus);
        Ok(Self {
            remote: Remote::new(&vcpus, power, events.clone()),
            vcpus,
            io: Some(io),
            coop,
            sidecore,
            console_output,
            vm,
            acpi_in_use,
            inbox,
            events,
            gauges,
            ram,
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

    /// The host half of the cooperative interface, if the machine has it.
    pub fn coop(&self) -> Option<Arc<Coop>> {
        self.coop.clone()
    }

    /// Guest memory, for reading what a guest of ours wrote down.
    pub fn ram(&self) -> GuestRam {
        GuestRam::clone(&self.ram)
    }

    /// The way to this machine from other threads.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// The vCPUs, for pausing, kicking and looking into them.
    pub fn vcpus(&self) -> &[VcpuHandle] {
        &self.vcpus
    }

    /// Lets all vCPUs run (again).
    pub fn resume(&self) {
        // Refused only when the machine is ending.
        let _ = self.remote.resume();
    }

    /// Stops all vCPUs outside the guest, each with its last exit completed.
    pub fn pause(&self) {
        for vcpu in self.vcpus.iter() {
            vcpu.pause();
        }
        self.remote.has_paused();
    }

    /// Pauses for good: nobody can resume it. A vCPU that does not come out in time is left where it is.
    pub fn end(&self) {
        // First: a vCPU that waits for its console's reader goes on, and so does who waits for the vCPU.
        if let Some(output) = &self.console_output {
            output.end();
        }
        self.remote.end();
        let deadline = Instant::now() + END_LIMIT;
        let asked: Vec<_> = self.vcpus.iter().map(VcpuHandle::begin_pause).collect();
        for (id, (vcpu, paused)) in self.vcpus.iter().zip(asked).enumerate() {
            if paused.is_some_and(|paused| !vcpu.await_pause(&paused, deadline)) {
                complain!("coopvirt: vCPU {id} does not come to an end; ending without it");
            }
        }
    }

    /// Waits until the console's reader has got everything, for a machine that has [ended](Self::end). What
    /// a guest printed before it ended by itself is owed to its reader, however slow. A machine that was told
    /// to end owes nothing more; if that comes while this waits, it is the reason from then on.
    pub fn finish_output(&self, reason: StopReason) -> StopReason {
        let Some(output) = &self.console_output else {
            return reason;
        };
        let mut reason = reason;
        while !matches!(reason, StopReason::UserQuit | StopReason::Signal(_))
            && !output.finish(LOOK_EVERY)
        {
            for event in self.inbox.try_iter() {
                match event {
                    MachineEvent::UserQuit => reason = StopReason::UserQuit,
                    MachineEvent::Signal(signal) => reason = StopReason::Signal(signal),
                    // It cannot end more than once.
                    _ => {}
                }
            }
        }
        reason
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
                MachineEvent::IoFailed(what) => StopReason::IoFailure(what),
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
    /// Linux then masks every line: those of the I/O APIC in `native_machine_shutdown`
    /// (arch/x86/kernel/reboot.c), those of the PICs in `i8259A_shutdown` (arch/x86/kernel/i8259.c). On its
    /// way from a panic to a reset it does neither, and the ACPI interrupt has an open line, at the PICs
    /// with `noapic`, from the time ACPI is set up. So "ACPI was in use and all lines are masked" is orderly.
    fn has_shut_down(&self) -> bool {
        self.end();
        if !self.acpi_in_use.load(Ordering::Relaxed) {
            return false;
        }
        irqchip::are_masked(&self.vm).unwrap_or(false)
    }

    /// Stops everything and lets the guest's last output out.
    pub fn shut_down(mut self) {
        self.remote.end();
        // A remote that is in the middle of something has ended that by now: this is the last one.
        self.vcpus = Arc::default();
        if let Some(coop) = &self.coop {
            coop.reset();
        }
        self.sidecore = None;
        self.io = None;
        if let Some(output) = self.console_output.take() {
            output.finish(Duration::from_secs(1));
        }
    }
}
