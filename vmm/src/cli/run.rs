//! `coopvirt run`: from arguments to a machine, and from its end to an exit status.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args as ClapArgs, ValueEnum};
use coopvirt_spec::version::Features;

use super::report_file::ReportFile;
use crate::accounting::Accounting;
use crate::config::{
    self, ConfigError, ConsoleKind, DiskConfig, FsConfig, Kernel, MachineConfig, Mode, NetConfig,
    VhostUserBlkConfig, VsockConfig,
};
use crate::console::output::Stdout;
use crate::console::terminal::RawMode;
use crate::control::registry::Entry;
use crate::control::{ControlServer, ControlSocket, MachineControls};
use crate::coop::{self, CoopOptions, SidecoreOptions};
use crate::kvm::features;
use crate::machine::{ConsoleEnds, Machine};
use crate::mark_log::MarkLog;
use crate::mem::Backing;
use crate::say::{tell, without_waiting};
use crate::signals;

/// Boot a Linux kernel in a virtual machine.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Keys: Ctrl-A X ends the machine, Ctrl-A Ctrl-A sends one Ctrl-A.

Exit status: 0 power-off, restart or Ctrl-A X; 1 an error before the guest ran; 2 wrong arguments;
3 guest panic; 4 triple fault; 5 KVM or the I/O thread failed; 128+N ended by signal N.

Devices that other processes serve (vhost-user): the process first, then this program with its socket. A
qcow2 image, with as many queues as the guest has CPUs:
  qemu-storage-daemon --blockdev driver=file,node-name=file,filename=debian.qcow2 \\
    --blockdev driver=qcow2,node-name=disk,file=file --export \\
    type=vhost-user-blk,id=e,node-name=disk,writable=on,num-queues=2,writethrough=on,addr.type=unix,addr.path=disk.sock
  coopvirt run --vhost-user-blk disk.sock ...
If the process ends, requests wait for another one on the same socket, and those without an answer are made
again. After reconnect=SECONDS without one they fail with I/O errors, until there is one. With writethrough=on
the tables of qcow2 do not die with the process; a raw image needs none of that.
A folder (virtiofsd serves one guest and ends with it; if it ends before, the folder fails with ENOTCONN):
  /usr/lib/qemu/virtiofsd --socket-path=share.sock -o source=/srv/share
  coopvirt run --fs share.sock,tag=share ...

Sockets without vhost_vsock (--vsock cid=42,socket=vm.sock): a program of the host that connects to vm.sock and
writes the line CONNECT 52 is joined to who listens on port 52 in the guest, after the answering line OK with
a number; if nobody does, the socket is closed. A program that listens on the UNIX socket vm.sock_53 gets what
the guest connects to CID 2, port 53:
  socat - UNIX-CONNECT:vm.sock          then CONNECT 52
  socat UNIX-LISTEN:vm.sock_53,fork -   in the guest: socat - VSOCK-CONNECT:2:53

Example: coopvirt run --kernel vmlinuz --initrd initrd.img --cpus 2 --memory 1G")]
pub(super) struct Args {
    /// Kernel image: a bzImage, or an ELF vmlinux with a PVH note
    #[arg(long, value_name = "PATH")]
    kernel: PathBuf,
    /// Initial RAM file system
    #[arg(long, value_name = "PATH")]
    initrd: Option<PathBuf>,
    /// Kernel command line [default: console=... panic=-1]
    #[arg(long, value_name = "STR")]
    cmdline: Option<String>,
    /// Number of vCPUs, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = config::cpus)]
    cpus: u64,
    /// Guest memory, with K, M or G
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = config::memory)]
    memory: u64,
    /// Raw disk image or block device, with ,ro for read-only, ,io=uring or ,io=sync (many at once, the
    /// default but for images on tmpfs, or one by one), ,queues=N, ,serial=S and ,notify=thread or
    /// ,notify=vcpu (who receives the guest's notifies: the I/O thread, or the vCPU that makes one; default
    /// auto: the vCPU while it finds one small cached read at a time). May be repeated: vda, vdb, ...
    #[arg(long = "disk", value_name = "PATH[,ro][,...]", value_parser = config::disk)]
    disks: Vec<DiskConfig>,
    /// Disk that another process serves on this socket (see below), with ",queues=N" and
    /// ",reconnect=SECONDS" (60). For what --disk does not read, such as qcow2. May be repeated: they
    /// come behind those of --disk
    #[arg(long, value_name = "PATH[,queues=N][,...]", value_parser = config::vhost_user_blk)]
    vhost_user_blk: Vec<VhostUserBlkConfig>,
    /// Folder of the host that another process serves on this socket (see below), with ",queues=N"; in
    /// the guest: mount -t virtiofs TAG /mnt. May be repeated
    #[arg(long = "fs", value_name = "PATH,tag=TAG[,queues=N]", value_parser = config::fs)]
    shares: Vec<FsConfig>,
    /// Network interface on a host's tap (scripts/tap makes one): tap=NAME, then ",mac=ADDRESS",
    /// ",queues=N" (pairs; one per vCPU), ",vhost=on|off", ",offloads=on|off", ",busy-poll=USEC|off"
    /// (how long the guest's packets are polled for before it is asked to notify; default with --mode coop:
    /// 50 by vhost, at most 200 in this process, else off). May be repeated
    #[arg(long = "net", value_name = "tap=NAME[,...]", value_parser = config::net)]
    nets: Vec<NetConfig>,
    /// Sockets between guest and host (AF_VSOCK): the guest's CID, 3 and up, no other machine's. The
    /// host's kernel moves the data (vhost_vsock); with cid=N,socket=PATH this program does, to and from
    /// UNIX sockets (see below)
    #[arg(long, value_name = "CID|cid=N[,socket=PATH]", value_parser = config::vsock)]
    vsock: Option<VsockConfig>,
    /// What the guest may know of the hypervisor
    #[arg(long, value_enum, default_value_t = ModeArg::Kvm)]
    mode: ModeArg,
    /// Let the guest use x2APIC also in hvm mode (shows KVM's signature without features)
    #[arg(long)]
    x2apic: bool,
    /// KVM features to show in kvm mode: all, none, NAME,..., or all,-NAME
    #[arg(long, value_name = "LIST", default_value = "all", value_parser = features::parse)]
    kvm_features: u32,
    /// Cooperative features to offer in coop mode: all, none, mmu, NAME,..., or all,-NAME [default: all; with
    /// --balloon all,-mmu, as a guest's free memory is reported to one of them only]
    #[arg(long = "coop", value_name = "LIST", value_parser = coop::features)]
    coop_features: Option<Features>,
    /// The polling thread of coop mode, for cooperative guests and the virtqueues of any guest: off,
    /// adaptive (while there is work) or always; ",cpu=N" pins it
    #[arg(long, value_name = "POLICY", default_value = "adaptive", value_parser = coop::sidecore_option)]
    sidecore: SidecoreOptions,
    /// Longest host polling after HLT, in nanoseconds [default: KVM's halt_poll_ns]
    #[arg(long, value_name = "NS")]
    halt_poll: Option<u32>,
    /// Instructions that the guest executes without exit
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',')]
    disable_exits: Vec<ExitArg>,
    /// Where the guest's console is
    #[arg(long, value_enum, default_value_t = ConsoleArg::Serial)]
    console: ConsoleArg,
    /// Write exit accounting to this file, as JSON
    #[arg(long, value_name = "FILE.json")]
    exits: Option<PathBuf>,
    /// How exits are accounted for: tracepoints and statistics, statistics only, or nothing
    #[arg(long, value_enum, default_value_t = AccountingArg::Full)]
    accounting: AccountingArg,
    /// Host CPUs: one for each vCPU, then those of all other threads; "none" for no pinning
    #[arg(long, value_name = "LIST", default_value = "none", value_parser = config::pin)]
    pin: String,
    /// Do not advise huge pages for guest memory
    #[arg(long)]
    no_huge_pages: bool,
    /// Populate guest memory before the guest starts
    #[arg(long)]
    prefault: bool,
    /// Allow more guest memory than the host has RAM and swap
    #[arg(long)]
    overcommit: bool,
    /// Add a virtio balloon: the guest reports free pages, which the host takes back, and gives up
    /// memory when `coopvirt ctl SOCKET balloon SIZE` asks for it
    #[arg(long)]
    balloon: bool,
    /// Add PCI's configuration ports 0xcf8 and 0xcfc, for kernels without PCI_MMCONFIG; costs exits
    #[arg(long)]
    pci_config_ports: bool,
    /// Let the guest end the machine by a byte written to port 0xf4 (test guests)
    #[arg(long)]
    debug_exit: bool,
    /// Listen on this UNIX socket for `coopvirt ctl` and other HTTP clients of the same user
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Take options from this TOML file, "KEY = VALUE" by long name; those given here win
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Print the file for --config that says the same, and run nothing
    #[arg(long)]
    pub(super) print_config: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    /// Plain hardware-assisted virtualization: no hypervisor leaf, no paravirtual feature
    Hvm,
    /// Everything that stock KVM offers
    Kvm,
    /// That, and the cooperative interface
    Coop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ExitArg {
    /// HLT: idle vCPUs keep their host CPU
    Hlt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ConsoleArg {
    /// COM1; works from the first message on
    Serial,
    /// virtio-console (hvc0)
    Virtio,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum AccountingArg {
    /// Tracepoints where permitted, and KVM's statistics
    Full,
    /// KVM's statistics only
    Stats,
    /// Nothing
    Off,
}

impl Args {
    /// What the arguments say, wherever each of them came from.
    #[cfg(test)]
    pub(super) fn without_file(mut self) -> String {
        self.config = None;
        format!("{self:?}")
    }

    fn config(&self) -> Result<MachineConfig, ConfigError> {
        let mode = match self.mode {
            ModeArg::Hvm => Mode::Hvm,
            ModeArg::Kvm => Mode::Kvm,
            ModeArg::Coop => Mode::Coop,
        };
        let console = match self.console {
            ConsoleArg::Serial => ConsoleKind::Serial,
            ConsoleArg::Virtio => ConsoleKind::Virtio,
        };
        let default_cmdline = match console {
            ConsoleKind::Serial => "console=ttyS0 panic=-1",
            ConsoleKind::Virtio => "console=hvc0 panic=-1",
        };
        Ok(MachineConfig {
            kernel: Kernel::File(self.kernel.clone()),
            initrd: self.initrd.clone(),
            cmdline: self
                .cmdline
                .clone()
                .unwrap_or_else(|| default_cmdline.into()),
            vcpus: config::vcpus(self.cpus)?,
            memory_bytes: self.memory,
            backing: Backing {
                huge_pages: !self.no_huge_pages,
                prefault: self.prefault,
                overcommit: self.overcommit,
            },
            disks: self.disks.clone(),
            vhost_user_disks: self.vhost_user_blk.clone(),
            shares: self.shares.clone(),
            nets: self.nets.clone(),
            vsock: self.vsock.clone(),
            mode,
            coop: CoopOptions {
                features: self
                    .coop_features
                    .unwrap_or_else(|| coop::default_features(self.balloon)),
                sidecore: self.sidecore,
            },
            x2apic: self.x2apic || mode != Mode::Hvm,
            kvm_features: self.kvm_features,
            halt_poll_ns: self.halt_poll,
            disable_hlt_exits: self.disable_exits.contains(&ExitArg::Hlt),
            console,
            pin: config::pinned(&self.pin)?,
            balloon: self.balloon,
            pci_config_ports: self.pci_config_ports,
            debug_exit: self.debug_exit,
        })
    }
}

/// Runs the machine that the arguments describe.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = args.config()?;
    config.check()?;
    without_waiting();
    signals::survive_file_size_limit();
    if args.exits.is_some() && args.accounting == AccountingArg::Off {
        return Err(ConfigError::ReportOfNothing.into());
    }
    // A report that cannot be written must not be found out after the run.
    let mut exits = args.exits.as_deref().map(open_report).transpose()?;
    let accounting = (args.accounting != AccountingArg::Off && exits.is_some())
        .then(|| Accounting::start(args.accounting == AccountingArg::Full));
    // Nor a socket that cannot be made.
    let socket = args.control.as_deref();
    let socket = socket.map(ControlSocket::bind).transpose()?;
    let console = ConsoleEnds {
        output: Box::new(Stdout),
        stdin: true,
    };
    let mut marks = None;
    let machine = Machine::build(&config, console, |gauges| {
        let log = Arc::new(MarkLog::new(gauges));
        marks = Some(Arc::clone(&log));
        log
    })?;
    if let Some(accounting) = &accounting {
        accounting.name_devices(machine.gauges());
    }
    signals::forward(machine.events()).context("could not watch for signals")?;
    let controls = Arc::new(MachineControls::new(
        &machine,
        &config,
        accounting.as_ref().and_then(Accounting::watch),
    ));
    let control = socket
        .map(|socket| ControlServer::start(socket, controls))
        .transpose()?;
    // For as long as somebody answers there.
    let entry = args.control.as_deref().and_then(Entry::new);
    let raw = RawMode::enter().context("could not set the terminal to raw mode")?;
    if let Some(file) = &mut exits {
        file.begin().context("could not empty the exit report")?;
    }
    machine.resume();
    let reason = machine
        .wait(None)
        .context("the machine's event channel closed")?;
    machine.end();
    // Still with signals, keys and the control socket: whoever does not want to wait can say so.
    let reason = machine.finish_output(reason);
    // Nobody must wait for a machine that is gone, or find its socket.
    drop(entry);
    drop(control);
    let gauges = machine.gauges().clone();
    let coop = machine.coop();
    machine.shut_down();
    drop(raw);
    // Always: power-off, restart and Ctrl-A X share a status.
    complain!("coopvirt: {reason}");
    if let (Some(accounting), Some(file)) = (accounting, exits) {
        let mode = config.mode.name();
        let (mut report, _) = accounting.finish(&gauges, mode);
        report.coop = coop.map(|coop| coop.counts());
        report.devices = gauges.device_counts();
        report.marks = marks.map(|log| log.counters()).unwrap_or_default();
        serde_json::to_writer_pretty(file.file(), &report)
            .context("could not write the exit report")?;
        if std::io::stderr().is_terminal() {
            tell(format_args!("{}", report.to_text()));
        } else {
            report
                .identity
                .lines()
                .iter()
                .for_each(|line| complain!("coopvirt: {line}"));
        }
    }
    Ok(ExitCode::from(reason.exit_status()))
}

fn open_report(path: &Path) -> anyhow::Result<ReportFile> {
    ReportFile::open(path).with_context(|| {
        format!("could not create the exit report {path:?}; check the path given to --exits")
    })
}
