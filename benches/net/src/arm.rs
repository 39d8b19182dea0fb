//! The arms: a VMM and who serves the queues of its network.

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use coopvirt::config::VHOST_BUSY_POLL_US;
use coopvirt_tests::files::Folder;
use coopvirt_tests::guest::{Collector, Running};
use coopvirt_tests::lab::{self, Lab, MODULE_KERNEL};
use coopvirt_tests::tap::Tap;
use coopvirt_tests::tools;

/// vCPUs, and queue pairs.
pub(crate) const CPUS: u32 = 2;
const MEMORY_MIB: u32 = 512;

/// Who moves packets between guest and tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// The kernel.
    Vhost,
    /// The VMM.
    Process,
}

/// Which VMM, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vmm {
    /// Ours with nothing but what stock KVM offers.
    Kvm,
    /// Ours with its polling thread, for a guest that knows nothing of it.
    Coop,
    /// The same, and the guest loads our module.
    Module,
    /// The same, and the thread never sleeps.
    Always,
    /// QEMU's microvm with virtio-pci.
    Qemu,
    /// The same, with what it can be told for fewer exits: receive queues of 1,024 buffers, and vhost-net polls as long as
    /// ours does in `coop` mode.
    Tuned,
}

/// One column of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arm {
    vmm: Vmm,
    server: Server,
}

const fn arm(vmm: Vmm, server: Server) -> Arm {
    Arm { vmm, server }
}

/// In the order of the table.
pub(crate) const ARMS: [Arm; 10] = [
    arm(Vmm::Kvm, Server::Vhost),
    arm(Vmm::Coop, Server::Vhost),
    arm(Vmm::Module, Server::Vhost),
    arm(Vmm::Kvm, Server::Process),
    arm(Vmm::Coop, Server::Process),
    arm(Vmm::Module, Server::Process),
    arm(Vmm::Always, Server::Process),
    arm(Vmm::Qemu, Server::Vhost),
    arm(Vmm::Tuned, Server::Vhost),
    arm(Vmm::Qemu, Server::Process),
];

impl Arm {
    pub(crate) fn name(self) -> &'static str {
        match (self.vmm, self.server) {
            (Vmm::Kvm, Server::Vhost) => "coopvirt kvm, vhost-net",
            (Vmm::Kvm, Server::Process) => "coopvirt kvm, in-process",
            (Vmm::Coop, Server::Vhost) => "coopvirt coop, vhost-net",
            (Vmm::Coop, Server::Process) => "coopvirt coop, in-process",
            (Vmm::Module, Server::Vhost) => "coopvirt coop with module, vhost-net",
            (Vmm::Module, Server::Process) => "coopvirt coop with module, in-process",
            (Vmm::Always, Server::Vhost) => "coopvirt coop always with module, vhost-net",
            (Vmm::Always, Server::Process) => "coopvirt coop always with module, in-process",
            (Vmm::Qemu, Server::Vhost) => "QEMU microvm, vhost-net",
            (Vmm::Qemu, Server::Process) => "QEMU microvm, in-process",
            (Vmm::Tuned, Server::Vhost) => "QEMU microvm tuned, vhost-net",
            (Vmm::Tuned, Server::Process) => "QEMU microvm tuned, in-process",
        }
    }

    /// Starts the guest; its console comes to `Running`.
    pub(crate) fn start(self, tap: &Tap, folder: &Folder, limit: Duration) -> Result<Running> {
        let vhost = match self.server {
            Server::Vhost => "on",
            Server::Process => "off",
        };
        let mut script = format!("iperf {}/24", tap.guest());
        let (mut disks, mut mode) = (Vec::new(), "coop");
        match self.vmm {
            Vmm::Kvm => mode = "kvm",
            Vmm::Coop => {}
            Vmm::Module | Vmm::Always => {
                let disk = folder.disk_of("module", &lab::path_from("COOPVIRT_MODULE"));
                disks = vec!["--disk".to_owned(), format!("{},ro", disk.display())];
                script.push_str(" /dev/vdb");
            }
            Vmm::Qemu | Vmm::Tuned => return self.start_qemu(tap, vhost, &script, limit),
        }
        let guest = tools::guest(&script).cpus(CPUS).limit(limit);
        let guest = guest.memory(&format!("{MEMORY_MIB}M")).arguments(disks);
        let policy = match self.vmm {
            Vmm::Always => &["--sidecore", "always"][..],
            _ => &[],
        };
        let guest = guest.arguments(policy);
        let net = format!("tap={},vhost={vhost},queues={CPUS}", tap.name);
        Ok(guest.arguments(["--mode", mode, "--net", &net]).start())
    }

    fn start_qemu(self, tap: &Tap, vhost: &str, script: &str, limit: Duration) -> Result<Running> {
        let mut netdev = format!(
            "tap,id=net,ifname={},script=no,downscript=no,vhost={vhost},queues={CPUS}",
            tap.name
        );
        let vectors = 2 * CPUS + 2;
        let mut device = format!("virtio-net-pci,netdev=net,mq=on,vectors={vectors}");
        if self.vmm == Vmm::Tuned {
            device.push_str(",rx_queue_size=1024");
            if self.server == Server::Vhost {
                netdev.push_str(&format!(",poll-us={VHOST_BUSY_POLL_US}"));
            }
        }
        qemu(netdev, device, script, limit)
    }
}

/// The same guest under QEMU, as lean as `coopvirt compare` runs it (`vmm/src/compare/qemu.rs`).
fn qemu(netdev: String, device: String, script: &str, limit: Duration) -> Result<Running> {
    let kernel = Lab::find().kernel_file(MODULE_KERNEL, "vmlinux");
    let disk = tools::disk().display().to_string().replace(',', ",,");
    let cmdline = format!("console=hvc0 panic=-1 quiet {} -- {script}", tools::CMDLINE);
    let mut words: Vec<OsString> = Vec::new();
    let machine = "microvm,acpi=on,pcie=on,isa-serial=off,x-option-roms=off,pit=off,pic=off,rtc=on";
    for (name, value) in [
        ("-name", "compared,debug-threads=on".to_owned()),
        ("-M", machine.to_owned()),
        ("-accel", "kvm".to_owned()),
        ("-cpu", "host,migratable=off".to_owned()),
        ("-smp", CPUS.to_string()),
        ("-m", format!("{MEMORY_MIB}M")),
        ("-kernel", kernel.display().to_string()),
        ("-append", cmdline),
        ("-chardev", "file,id=out,path=/dev/stdout".to_owned()),
        (
            "-device",
            "virtio-serial-pci,id=ports,max_ports=1".to_owned(),
        ),
        ("-device", "virtconsole,bus=ports.0,chardev=out".to_owned()),
        (
            "-drive",
            format!("if=none,id=disk,format=raw,readonly=on,file={disk}"),
        ),
        ("-device", "virtio-blk-pci,drive=disk".to_owned()),
        (
            "-object",
            "rng-random,id=random,filename=/dev/urandom".to_owned(),
        ),
        ("-device", "virtio-rng-pci,rng=random".to_owned()),
        ("-netdev", netdev),
        ("-device", device),
        ("-display", "none".to_owned()),
    ] {
        words.extend([name.into(), value.into()]);
    }
    words.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(OsString::from));
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let title = format!("{command:?}");
    let mut child = command.spawn().context("could not start QEMU")?;
    let stdout = Collector::start(child.stdout.take().context("piped above")?);
    let stderr = Collector::start(child.stderr.take().context("piped above")?);
    Ok(Running::new(title, child, stdout, Some(stderr), limit))
}
