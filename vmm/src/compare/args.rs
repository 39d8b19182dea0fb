//! The command line of `coopvirt compare`: types that clap fills, and their checks.
//!
//! Called by `main` (as a subcommand) and by [`super::session`]. It never touches a VM.

use std::path::PathBuf;

use anyhow::{bail, ensure, Context, Result};
use clap::{Args as ClapArgs, ValueEnum};
use coopvirt_spec::work::Work;
use serde::{Deserialize, Serialize};

use super::arm::{self, Arm, Vmm};
use super::traced::Level;

/// What `coopvirt compare` can be told.
#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Guest kernel, a bzImage [default: $COOPVIRT_KERNEL, or the host's own under /boot]
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
    /// Guest initramfs whose init does the works [default: $COOPVIRT_INITRD]
    #[arg(long, value_name = "PATH")]
    pub initrd: Option<PathBuf>,
    /// Arms to compare, and groups of them: stock, coop, ablation ("=coop" is the one arm)
    /// [default: qemu-pci,qemu-mmio,hvm,kvm,kvm+haltpoll,kvm+haltpoll+nohlt]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub arms: Vec<String>,
    /// The arm that ratios refer to [default: the first one]
    #[arg(long, value_name = "ARM")]
    pub reference: Option<String>,
    /// The peer VMM to run beside ours
    #[arg(long, value_enum, default_value_t = Peer::Qemu)]
    pub peer: Peer,
    /// The peer's program
    #[arg(long, value_name = "PATH", default_value = "qemu-system-x86_64")]
    pub qemu: PathBuf,
    /// Works to do [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub works: Vec<String>,
    /// Repetitions
    #[arg(
        short = 'n',
        long = "repetitions",
        value_name = "N",
        default_value_t = 5
    )]
    pub repetitions: u32,
    /// vCPUs of each guest
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub cpus: u32,
    /// Memory of each guest
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = parse_size)]
    pub memory: u64,
    /// Disk image, attached read-only [default: a temporary one of 16 MiB, each block numbered]
    #[arg(long, value_name = "PATH")]
    pub disk: Option<PathBuf>,
    /// The guest's console; boots are also measured with the kernel's log on either one
    #[arg(long, value_enum, default_value_t = Console::Virtio)]
    pub console: Console,
    /// Multiplies the number of operations of each work (three decimals)
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    pub scale: f64,
    /// Seconds that `idle` and `busy` last [default: 2, times the scale]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: Option<u32>,
    /// Seconds of quiet before the first work: what boot and a module that was just loaded leave
    /// behind ends in it (Linux reports its free memory in steps of two seconds)
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub warm_up: u32,
    /// What memory `refill` touches again
    #[arg(long, value_enum, default_value_t = Refill::Kept)]
    pub refill: Refill,
    /// How much is counted of each run; more of it costs more (scripts/overhead says how much)
    #[arg(long, value_enum, default_value_t = Level::Causes)]
    pub detail: Level,
    /// The guest kernel's System.map: names in the page for the guest's instructions that exit
    #[arg(long, value_name = "FILE")]
    pub symbols: Option<PathBuf>,
    /// Check the figures against the limits that the cooperative arms are to keep
    #[arg(long)]
    pub bars: bool,
    /// Where to write everything as JSON, rewritten after each repetition
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where to write every sample as a table, one line for each count
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Where to write a page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Whether to pin vCPU i to host CPU i+1, the polling thread to the next CPU if there is one,
    /// and everything else to CPU 0
    #[arg(long, value_enum, default_value_t = Pin::Auto)]
    pub pin: Pin,
    /// Seconds that a guest may need to reach its init
    #[arg(long, value_name = "S", default_value_t = 180)]
    pub boot_timeout: u64,
    /// Seconds that a guest may go without a new record once it has booted
    #[arg(long, value_name = "S", default_value_t = 180)]
    pub work_timeout: u64,
    /// Seed of the arms' order and of the bootstrap
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Continue the comparison that --json FILE holds, if it is there
    #[arg(long, requires = "json")]
    pub resume: bool,
}

/// What `refill` touches again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Refill {
    /// Memory that the guest has freed and the host has kept.
    #[default]
    Kept,
    /// 256 MiB that the host has taken back and gives again in 4 KiB pages; a boot of its own.
    Returned,
}

/// A VMM that we did not write, run beside ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// QEMU's `microvm` machine.
    Qemu,
    /// No peer: arms of QEMU are left out.
    None,
}

/// The guest's console device.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Console {
    /// virtio-console: one exit for many bytes.
    Virtio,
    /// A 16550: at least one exit per byte.
    Serial,
}

impl Console {
    /// The name used on command lines and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Console::Virtio => "virtio",
            Console::Serial => "serial",
        }
    }

    /// The device that the guest's kernel calls it.
    pub const fn device(self) -> &'static str {
        match self {
            Console::Virtio => "hvc0",
            Console::Serial => "ttyS0",
        }
    }
}

/// What to do about host CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pin {
    /// Pin where the host has more CPUs than the guest.
    Auto,
    /// Leave it to the host's scheduler.
    None,
}

/// The checked choice of arms and works.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Arms in the order of the list.
    pub arms: Vec<&'static Arm>,
    /// Name of the reference arm.
    pub reference: &'static str,
    /// Works in the order of [`Work::ALL`].
    pub works: Vec<Work>,
    /// What memory `refill` touches again.
    pub refill: Refill,
}

impl Args {
    /// Checks what clap cannot, and resolves names.
    pub fn choose(&self) -> Result<Choice> {
        ensure!(self.repetitions > 0, "-n must be at least 1");
        ensure!(
            (1..=64).contains(&self.cpus),
            "--cpus must be 1 to 64, not {}",
            self.cpus
        );
        ensure!(
            (0.001..=1000.0).contains(&self.scale),
            "--scale must be 0.001 to 1000, not {}",
            self.scale
        );
        ensure!(
            self.memory >= 64 << 20 && self.memory.is_multiple_of(1 << 20),
            "--memory must be a whole number of MiB, at least 64M"
        );
        let arms = self.choose_arms()?;
        let works = self.choose_works()?;
        ensure!(
            self.detail != Level::None
                || !arms.iter().any(|arm| matches!(arm.vmm, Vmm::Qemu(_))),
            "--detail none has only what our VMM reads of KVM's statistics; leave the peer out with \
             --peer none"
        );
        let Some(first) = arms.first() else {
            bail!("no arm is left to run")
        };
        let reference = match &self.reference {
            None => &first.name,
            Some(name) => match arms.iter().find(|arm| arm.name == *name) {
                Some(arm) => &arm.name,
                None => bail!("the reference arm '{name}' is not among the arms"),
            },
        };
        Ok(Choice {
            arms,
            reference,
            works,
            refill: self.refill,
        })
    }

    fn choose_arms(&self) -> Result<Vec<&'static Arm>> {
        let mut arms: Vec<&'static Arm> = Vec::new();
        if self.arms.is_empty() {
            arms.extend(arm::ARMS.iter().filter(|arm| arm.is_default));
        }
        for word in self.arms.iter().map(|name| name.trim()) {
            let chosen = arm::chosen(word).with_context(|| {
                let known: Vec<_> = arm::ARMS.iter().map(|arm| arm.name.as_str()).collect();
                format!(
                    "unknown arm '{word}'; known groups: stock, coop, ablation; arms: {}",
                    known.join(", ")
                )
            })?;
            for arm in chosen {
                if !arms.iter().any(|known| known.name == arm.name) {
                    arms.push(arm);
                }
            }
        }
        if self.peer == Peer::None {
            arms.retain(|arm| !matches!(arm.vmm, Vmm::Qemu(_)));
        }
        Ok(arms)
    }

    fn choose_works(&self) -> Result<Vec<Work>> {
        if self.works.is_empty() {
            return Ok(Work::ALL.to_vec());
        }
        let mut works = Vec::new();
        for name in self.works.iter().map(|name| name.trim()) {
            let work = Work::from_name(name).with_context(|| {
                let known: Vec<_> = Work::ALL.iter().map(|work| work.name()).collect();
                format!("unknown work '{name}'; known: {}", known.join(", "))
            })?;
            works.push(work);
        }
        works.sort_unstable();
        works.dedup();
        Ok(works)
    }
}

/// Parses "512M", "1G", "64K" or bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        unit => return Err(format!("unknown unit '{unit}', use K, M or G")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("'{text}' is not a size"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("'{text}' is too large"))
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    /// Arguments as `coopvirt compare LINE` gives them.
    pub(in super::super) fn parse(line: &str) -> Args {
        let words = std::iter::once("compare").chain(line.split_whitespace());
        Cli::parse_from(words).args
    }

    #[test]
    fn sizes_have_units_and_limits() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        assert_eq!(parse_size("4096"), Ok(4096));
        for bad in ["", "M", "-1M", "1T", "99999999999999999G", "1.5G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_default_is_all_works_and_the_first_arm_as_reference() {
        let choice = parse("").choose().unwrap();
        let names: Vec<_> = choice.arms.iter().map(|arm| arm.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "qemu-pci",
                "qemu-mmio",
                "hvm",
                "kvm",
                "kvm+haltpoll",
                "kvm+haltpoll+nohlt"
            ]
        );
        assert_eq!(choice.reference, "qemu-pci");
        assert_eq!(choice.works, Work::ALL);
    }

    #[test]
    fn lists_are_resolved_in_order_without_duplicates() {
        let choice = parse("--arms kvm,hvm,kvm --works read1,boot,read1")
            .choose()
            .unwrap();
        assert_eq!(
            choice
                .arms
                .iter()
                .map(|arm| arm.name.as_str())
                .collect::<Vec<_>>(),
            ["kvm", "hvm"]
        );
        assert_eq!(choice.works, [Work::Boot, Work::Read1]);
        let choice = parse("--arms kvm,coop,coop+sidecore").choose().unwrap();
        assert_eq!(choice.arms.len(), 4);
        let choice = parse("--peer none --reference kvm").choose().unwrap();
        assert_eq!(choice.reference, "kvm");
        assert_eq!(choice.arms[0].name, "hvm");
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "--arms xen",
            "--arms =stock",
            "--works dance",
            "-n 0",
            "--cpus 0",
            "--scale 0",
            "--scale nan",
            "--memory 1M",
            "--reference hvm --arms kvm",
            "--peer none --arms qemu-pci",
        ] {
            assert!(parse(line).choose().is_err(), "{line}");
        }
    }
}
