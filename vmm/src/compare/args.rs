//! The command line of `coopvirt compare`: types that clap fills, and their checks.
//!
//! Called by `main` (as a subcommand) and by [`super::session`]. It never touches a VM.

use std::path::PathBuf;

use anyhow::{bail, ensure, Context, Result};
use clap::{Args as ClapArgs, ValueEnum};
use coopvirt_spec::work::Work;
use serde::{Deserialize, Serialize};

use super::arm::{self, Arm, OwnArm, Vmm};
use super::traced::Level;

/// What `coopvirt compare` can be told.
#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// An experiment: a TOML file of these options, or the name of a built-in one (see --list);
    /// options given here win over it
    #[arg(value_name = "EXPERIMENT")]
    pub experiment: Option<String>,
    /// List the built-in experiments
    #[arg(long)]
    pub list: bool,
    /// Print all that would be run as an experiment file, and run nothing
    #[arg(long)]
    pub print_experiment: bool,
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
    /// An arm of your own, made from a known one: '{name="x", base="kvm", cpus=4}'; keys: features,
    /// sidecore, options (of run), cmdline, kernel, initrd, cpus, memory, backing ("huge", "small").
    /// In a file: [[arm]]. They come behind those of --arms, or alone
    #[arg(long = "arm", value_name = "TABLE", value_parser = OwnArm::parse)]
    pub own_arms: Vec<OwnArm>,
    /// Run the reference arm twice, under two names: says how much differs when nothing does
    #[arg(long)]
    pub aa: bool,
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
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    pub repetitions: u32,
    /// Boots before the first repetition that do not count: the host has then read its files, and
    /// code and clocks of the host are warm
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(..=100))]
    pub warm_up: u32,
    /// vCPUs of each guest
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
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
    #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = parse_scale)]
    pub scale: f64,
    /// Seconds that `idle` and `busy` last [default: 2, times the scale]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: Option<u32>,
    /// Seconds of quiet before the first work: what boot and a module that was just loaded leave
    /// behind ends in it (Linux reports its free memory in steps of two seconds)
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub settle: u32,
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
    /// Hold the figures against the exit budget in this file, and fail where one is exceeded
    #[arg(long, value_name = "FILE")]
    pub budget: Option<PathBuf>,
    /// Write a new budget from these figures, and say what has changed
    #[arg(long, requires = "budget")]
    pub update_budget: bool,
    /// Where to write everything as JSON; until the end, each run is noted in FILE.journal
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
    /// Continue the comparison that --json FILE or its journal holds, if it is there
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
    /// Whether the reference was named, so that no other arm may take its place.
    pub is_reference_asked_for: bool,
    /// Works in the order of [`Work::ALL`].
    pub works: Vec<Work>,
    /// What memory `refill` touches again.
    pub refill: Refill,
}

impl Args {
    /// Checks what clap cannot, and resolves names.
    pub fn choose(&self) -> Result<Choice> {
        ensure!(
            self.memory >= 64 << 20 && self.memory.is_multiple_of(1 << 20),
            "--memory must be a whole number of MiB, at least 64M"
        );
        let mut arms = self.choose_arms()?;
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
        if self.aa {
            let at = arms.iter().position(|arm| arm.name == *reference);
            let at = at.context("the reference arm is among the arms")?;
            arms.insert(at + 1, forever(arms[at].twin()));
        }
        Ok(Choice {
            arms,
            reference,
            // A twin belongs to its reference.
            is_reference_asked_for: self.reference.is_some() || self.aa,
            works,
            refill: self.refill,
        })
    }

    fn choose_arms(&self) -> Result<Vec<&'static Arm>> {
        let mut own: Vec<&'static Arm> = Vec::new();
        for said in &self.own_arms {
            let arm = said.arm().map_err(anyhow::Error::msg)?;
            ensure!(
                !own.iter().any(|other| other.name == arm.name),
                "two arms are called {}",
                arm.name
            );
            own.push(forever(arm));
        }
        let mut arms: Vec<&'static Arm> = Vec::new();
        if self.arms.is_empty() && own.is_empty() {
            arms.extend(arm::ARMS.iter().filter(|arm| arm.is_default));
        }
        for word in self.arms.iter().map(|name| name.trim()) {
            let of_own = own
                .iter()
                .find(|arm| arm.name == word)
                .map(|arm| vec![*arm]);
            let chosen = of_own.or_else(|| arm::chosen(word)).with_context(|| {
                let groups = ["stock", "coop", "ablation"].into_iter();
                let known = groups.chain(arm::ARMS.iter().map(|arm| arm.name.as_str()));
                let near = nearest(word, known);
                format!(
                    "unknown arm '{word}', the nearest is '{near}'; known are the groups stock, coop, \
                     ablation and their members (vmm/COMPARE.md lists them)"
                )
            })?;
            for arm in chosen {
                if !arms.iter().any(|known| known.name == arm.name) {
                    arms.push(arm);
                }
            }
        }
        for arm in own {
            if !arms.iter().any(|known| known.name == arm.name) {
                arms.push(arm);
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

/// An arm that lives as long as the program, as the known ones do: a comparison makes a few.
fn forever(arm: Arm) -> &'static Arm {
    Box::leak(Box::new(arm))
}

/// The known name that is most like this one; nothing where none is known.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> &'a str {
    let distance = |known: &&str| strsim::damerau_levenshtein(name, known);
    known.into_iter().min_by_key(distance).unwrap_or_default()
}

fn parse_scale(text: &str) -> Result<f64, String> {
    let scale: Option<f64> = text.parse().ok();
    let is_known = |scale: &f64| (0.001..=1000.0).contains(scale);
    let refusal = || format!("the scale must be a number from 0.001 to 1000, not {text:?}");
    scale.filter(is_known).ok_or_else(refusal)
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
pub(super) mod tests;
