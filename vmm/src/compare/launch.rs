//! The boundary between planning and running: what a boot needs, and what comes back from it.
//!
//! [`super::session`] turns a cell into a [`Job`] and hands it to a [`Launcher`]; the real one is
//! [`super::child`], tests have one that answers at once. A launcher counts with a [`TraceSource`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use super::args::Console;
use super::arm::{Arm, Vmm};
use super::noise::Noise;
use super::pin::{Pinning, Thread};
use super::{ours, qemu};
use crate::account::model::Trace;

/// What one boot is made of, whoever runs it.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's initramfs.
    pub initrd: PathBuf,
    /// Image of the guest's disk.
    pub disk: PathBuf,
    /// The guest kernel's command line.
    pub cmdline: String,
    /// vCPUs.
    pub cpus: u32,
    /// Memory, a whole number of MiB.
    pub memory_bytes: u64,
    /// The console device.
    pub console: Console,
    /// Whether the guest can say which of its memory is free, and gets a balloon for it.
    pub has_balloon: bool,
    /// Where our VMM writes its own counts.
    pub exits_file: PathBuf,
    /// Where threads run.
    pub pinning: Pinning,
}

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

impl VmCommand {
    /// The command as one list, for reports.
    pub fn words(&self) -> Vec<String> {
        let program = self.program.display().to_string();
        std::iter::once(program)
            .chain(self.args.iter().cloned())
            .collect()
    }
}

/// The programs that run arms.
#[derive(Clone, Debug)]
pub struct Programs {
    /// This very program.
    pub ours: PathBuf,
    /// The peer.
    pub qemu: PathBuf,
}

/// Builds the command of one arm.
pub fn command(programs: &Programs, arm: &Arm, boot: &Boot) -> VmCommand {
    match arm.vmm {
        Vmm::Ours(ref options) => ours::command(&programs.ours, options, arm.sidecore, boot),
        Vmm::Qemu(transport) => qemu::command(&programs.qemu, transport, boot),
    }
}

/// One VM to run to its end.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// What to run.
    pub command: &'a VmCommand,
    /// Where its threads run. Ours pins its own; a peer's are pinned from outside.
    pub pinning: Pinning,
    /// Where our VMM writes its own counts; `None` for a peer.
    pub exits_file: Option<&'a Path>,
    /// Whether the kernel may give it huge pages.
    pub has_huge_pages: bool,
    /// Time to the first record.
    pub boot_timeout: Duration,
    /// Time from one record to the next.
    pub work_timeout: Duration,
}

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with success.
    Success,
    /// By itself, with this other status.
    Status(String),
    /// It was killed because of this.
    Timeout(String),
    /// It was killed because the user interrupted the comparison.
    Interrupted,
}

/// What came back from a VM.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Everything that its console printed.
    pub console: Vec<u8>,
    /// Everything that the VMM said on its standard error.
    pub messages: Vec<u8>,
    /// The file that our VMM wrote, if it did.
    pub exits: Option<Vec<u8>>,
    /// What was counted.
    pub trace: Trace,
    /// Which host CPUs its threads may run on, read when the guest had booted.
    pub threads: Vec<Thread>,
    /// How it ended.
    pub end: End,
    /// Wall time from start to end.
    pub seconds: f64,
    /// What else the host did meanwhile.
    pub noise: Option<Noise>,
    /// Why exits could not be traced, if so.
    pub degraded: Option<String>,
}

/// Runs VMs.
pub trait Launcher {
    /// Runs one VM to its end. An error means that it could not be run or counted at all.
    fn launch(&mut self, job: &Job<'_>) -> Result<Finished>;
}

/// Counts the exits of any VMM.
pub trait TraceSource {
    /// Starts counting the process `pid` (which has not run its first instruction of VMM code)
    /// and all threads it will have.
    fn start(&self, pid: u32) -> Result<Box<dyn RunningTrace>>;

    /// Why this source counts nothing, if so: then KVM's statistics have to do.
    fn missing(&self) -> Option<String> {
        None
    }
}

/// Counts one process now.
pub trait RunningTrace {
    /// Ends counting; called when the process has ended. `exits` is the file that our VMM wrote,
    /// which knows what lies where in its machine.
    fn finish(self: Box<Self>, exits: Option<&[u8]>) -> Result<Trace>;
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::compare::arm::by_name;

    /// A boot with short paths.
    pub(in super::super) fn boot() -> Boot {
        Boot {
            kernel: "/k".into(),
            initrd: "/i".into(),
            disk: "/d".into(),
            cmdline: "quiet console=hvc0".into(),
            cpus: 2,
            memory_bytes: 512 << 20,
            console: Console::Virtio,
            exits_file: "/t/exits.json".into(),
            has_balloon: false,
            pinning: Pinning::Pinned {
                cpus: 2,
                sidecore: 3,
            },
        }
    }

    #[test]
    fn each_arm_is_run_by_its_own_program() {
        let programs = Programs {
            ours: "/bin/coopvirt".into(),
            qemu: "/bin/qemu".into(),
        };
        let of = |name| command(&programs, by_name(name).unwrap(), &boot()).words();
        assert_eq!(of("qemu-mmio")[0], "/bin/qemu");
        let ours = of("kvm+haltpoll+nohlt").join(" ");
        assert!(ours.starts_with("/bin/coopvirt run "), "{ours}");
        assert!(ours.ends_with("--mode kvm --disable-exits hlt"), "{ours}");
        for (arm, end) in [
            ("coop", "--mode coop --sidecore off,cpu=3"),
            (
                "coop+sidecore/no-ipi",
                "--mode coop --sidecore adaptive,cpu=3",
            ),
            ("overcommitted", "--mode coop --sidecore adaptive,cpu=2"),
        ] {
            assert!(of(arm).join(" ").ends_with(end), "{arm}");
        }
    }
}
