//! A machine's configuration, validated: what is here can be built.
//!
//! The command line and library callers fill [`MachineConfig`]; its constructor functions check
//! each value once, and the builder does not check again.

mod host_cpus;
mod net;
mod vhost_user;
mod vsock;

use std::error::Error;
use std::num::NonZeroU8;
use std::path::PathBuf;

use coopvirt_spec::version::Features;

use crate::coop::CoopOptions;
pub use crate::disk_option::{disk, DiskConfig, DiskIo};
use crate::mem::{check_size, Backing, Sharing};

pub use net::{net, BusyPoll, NetConfig, NetServer, MAX_QUEUE_PAIRS, VHOST_BUSY_POLL_US};
pub use vhost_user::{
    fs, vhost_user_blk, FsConfig, VhostUserBlkConfig, DEFAULT_RECONNECT, MAX_TAG_BYTES,
};
pub use vsock::{vsock, VsockConfig};

/// Most vCPUs a machine can have: what the interrupt and ACPI tables here are tested with.
pub const MAX_VCPUS: u8 = 64;

/// How much the guest is told about the hypervisor below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Plain hardware-assisted virtualization: no hypervisor leaf, no paravirtual feature, xAPIC.
    Hvm,
    /// Everything that stock KVM offers a guest.
    Kvm,
    /// That, and the cooperative interface.
    Coop,
}

impl Mode {
    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Hvm => "hvm",
            Mode::Kvm => "kvm",
            Mode::Coop => "coop",
        }
    }
}

/// Where the guest's console is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleKind {
    /// COM1: works from the first message on, and costs an exit per byte.
    Serial,
    /// virtio-console, `hvc0` in the guest. COM1 is there too but unconnected.
    Virtio,
}

/// What the first vCPU runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// An image file: ELF vmlinux with a PVH note, or bzImage.
    File(PathBuf),
    /// Machine code of our own, entered in 64-bit mode with the first 4 GiB mapped one to one.
    Code {
        /// Guest-physical addresses and what to write there; the first one is the entry.
        pieces: Vec<(u64, Vec<u8>)>,
    },
}

/// Everything that decides what a machine is.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// What the first vCPU runs.
    pub kernel: Kernel,
    /// Initial RAM file system.
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
    pub cmdline: String,
    /// Number of vCPUs.
    pub vcpus: NonZeroU8,
    /// Guest memory in bytes.
    pub memory_bytes: u64,
    /// How that memory is backed.
    pub backing: Backing,
    /// Disks, `vda` first.
    pub disks: Vec<DiskConfig>,
    /// Disks that other processes serve; their names follow those of `disks`.
    pub vhost_user_disks: Vec<VhostUserBlkConfig>,
    /// Folders of the host that other processes serve.
    pub shares: Vec<FsConfig>,
    /// Network interfaces, `eth0` first.
    pub nets: Vec<NetConfig>,
    /// Its socket device, if there is one.
    pub vsock: Option<VsockConfig>,
    /// What the guest may know of the hypervisor.
    pub mode: Mode,
    /// What of the cooperative interface is offered in `coop` mode.
    pub coop: CoopOptions,
    /// Whether the guest can use x2APIC.
    pub x2apic: bool,
    /// KVM paravirtual features to show, as bits of CPUID 0x4000_0001 EAX.
    pub kvm_features: u32,
    /// Longest time in nanoseconds that KVM polls for a wake-up after HLT; `None`: KVM's default.
    pub halt_poll_ns: Option<u32>,
    /// Let the guest execute HLT without exit.
    pub disable_hlt_exits: bool,
    /// Where the guest's console is.
    pub console: ConsoleKind,
    /// Host CPUs for the vCPUs, one each, and for all other threads (the last element). Empty: no
    /// pinning.
    pub pin: Vec<usize>,
    /// Whether there is a balloon through which the guest reports free pages.
    pub balloon: bool,
    /// Whether there is PCI configuration mechanism 1 (ports 0xcf8 and 0xcfc) beside the ECAM.
    pub pci_config_ports: bool,
    /// Whether a guest can end the machine through the debug-exit port.
    pub debug_exit: bool,
}

impl MachineConfig {
    /// What of the cooperative interface is offered: a guest whose HLT is no exit is better off with that than with
    /// a doorbell that halts (`[HALT-1]`).
    pub fn coop_offered(&self) -> CoopOptions {
        let features = match self.disable_hlt_exits {
            true => self.coop.features.without(Features::HALT),
            false => self.coop.features,
        };
        CoopOptions {
            features,
            ..self.coop
        }
    }

    /// Refuses values that are good each by itself and do not fit together, or not this host.
    pub fn check(&self) -> Result<(), ConfigError> {
        let (given, needed) = (self.pin.len(), usize::from(self.vcpus.get()));
        if !self.pin.is_empty() && given < needed {
            return Err(ConfigError::PinCount { given, needed });
        }
        host_cpus::check("--pin", &self.pin)?;
        host_cpus::check("--sidecore", self.coop.sidecore.host_cpu.as_slice())
    }

    /// Whether other processes have to map guest memory.
    pub fn sharing(&self) -> Sharing {
        if self.vhost_user_disks.is_empty() && self.shares.is_empty() {
            Sharing::Private
        } else {
            Sharing::Shared
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ConfigError {
    #[error("a machine cannot have {0} vCPUs; give --cpus 1 to {MAX_VCPUS}")]
    Vcpus(u64),
    #[error("{0:?} is not a number of vCPUs; give --cpus 1 to {MAX_VCPUS}")]
    Cpus(String),
    #[error("memory size {0:?} is not a number with an optional K, M or G")]
    Size(String),
    #[error(
        "disk {0:?}: expected PATH, then any of ,ro ,io=uring ,io=sync ,queues=N (1 to 64) ,serial=S \
         ,notify=auto ,notify=thread ,notify=vcpu"
    )]
    Disk(String),
    #[error(
        "CID {0:?}: expected a number from 3 to 4294967294 (0, 1, 2 and 4294967295 are reserved)"
    )]
    Cid(String),
    #[error("sockets {text:?}: {reason}; expected CID or cid=N[,socket=PATH]")]
    Vsock { text: String, reason: String },
    #[error("CPU list {0:?}: expected numbers and ranges such as 1,2 or 1-2")]
    CpuList(String),
    #[error(
        "network {text:?}: {reason}; expected tap=NAME[,mac=ADDRESS][,queues=N][,vhost=on|off][,offloads=on|off][,busy-poll=USEC|off]"
    )]
    Net { text: String, reason: String },
    #[error("vhost-user disk {text:?}: {reason}; expected SOCKET[,queues=N][,reconnect=SECONDS]")]
    VhostUserBlk { text: String, reason: String },
    #[error("shared folder {text:?}: {reason}; expected SOCKET,tag=TAG[,queues=N]")]
    Fs { text: String, reason: String },
    #[error("--pin names {given} CPUs; {needed} vCPUs need {needed}")]
    PinCount { given: usize, needed: usize },
    #[error("{option}: host CPU {cpu} is not usable here; usable: {usable}")]
    HostCpu {
        option: &'static str,
        cpu: usize,
        usable: String,
    },
    #[error("--exits asks for a report and --accounting off for none; leave one out")]
    ReportOfNothing,
}

/// Checks a number of vCPUs.
pub fn vcpus(count: u64) -> Result<NonZeroU8, ConfigError> {
    u8::try_from(count)
        .ok()
        .and_then(NonZeroU8::new)
        .filter(|count| count.get() <= MAX_VCPUS)
        .ok_or(ConfigError::Vcpus(count))
}

/// Reads a number of vCPUs that a machine can have.
pub fn cpus(text: &str) -> Result<u64, ConfigError> {
    let count = text
        .parse()
        .map_err(|_| ConfigError::Cpus(text.to_owned()))?;
    vcpus(count)?;
    Ok(count)
}

/// Reads a size such as `512M`, `2G` or `1048576`; a bare number below 1 MiB counts as MiB, as
/// every other VMM reads it.
pub fn size(text: &str) -> Result<u64, ConfigError> {
    let bad = || ConfigError::Size(text.to_owned());
    let trimmed = text
        .trim()
        .trim_end_matches(['B', 'b'])
        .trim_end_matches('i');
    let (digits, shift) = match trimmed.chars().last().map(|c| c.to_ascii_uppercase()) {
        Some('K') => (&trimmed[..trimmed.len() - 1], 10),
        Some('M') => (&trimmed[..trimmed.len() - 1], 20),
        Some('G') => (&trimmed[..trimmed.len() - 1], 30),
        Some('T') => (&trimmed[..trimmed.len() - 1], 40),
        _ => (trimmed, 0),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let shift = if shift == 0 && number < 1 << 20 {
        20
    } else {
        shift
    };
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// Reads a size of guest memory that a machine can have.
pub fn memory(text: &str) -> Result<u64, Box<dyn Error + Send + Sync>> {
    let bytes = size(text)?;
    check_size(bytes)?;
    Ok(bytes)
}

/// Reads a CPU list such as `1,3-4`.
pub fn cpu_list(text: &str) -> Result<Vec<usize>, ConfigError> {
    let bad = || ConfigError::CpuList(text.to_owned());
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| bad())?;
        let last: usize = last.trim().parse().map_err(|_| bad())?;
        if first > last || last >= 1024 {
            return Err(bad());
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

/// Refuses a word that is said twice: which of them is meant, nobody can tell.
fn once(said: &mut Vec<String>, name: &str) -> Result<(), String> {
    if said.iter().any(|other| other == name) {
        return Err(format!("{name} is said twice"));
    }
    said.push(name.to_owned());
    Ok(())
}

/// Checks a CPU list, or `none`.
pub fn pin(text: &str) -> Result<String, ConfigError> {
    if text != "none" {
        cpu_list(text)?;
    }
    Ok(text.to_owned())
}

/// Reads a CPU list, or `none`, whose CPUs threads here can be pinned to.
pub fn pinned(text: &str) -> Result<Vec<usize>, ConfigError> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let cpus = cpu_list(text)?;
    host_cpus::check("--pin", &cpus)?;
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcpu_counts_outside_the_range_are_refused() {
        assert_eq!(vcpus(1).unwrap().get(), 1);
        assert_eq!(vcpus(0), Err(ConfigError::Vcpus(0)));
        assert_eq!(vcpus(300), Err(ConfigError::Vcpus(300)));
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("2g"), Ok(2 << 30));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("256"), Ok(256 << 20));
        assert_eq!(size("0"), Ok(0));
        for bad in [
            "",
            "M",
            "12Q",
            "-1",
            "99999999999999999999",
            "18446744073709551615G",
        ] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn guest_memory_is_whole_pages_and_enough_of_them() {
        assert_eq!(memory("4M").ok(), Some(4 << 20));
        for bad in ["0", "3M", "67108865", "65537K", "much"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cpu_lists_parse() {
        assert_eq!(cpu_list("1,3-4"), Ok(vec![1, 3, 4]));
        assert!(cpu_list("4-3").is_err());
    }
}
