//! Starts a VMM with the measured guest, and ends it.
#![expect(unsafe_code)]
// UNSAFETY: the monotonic clock as the kernel's tracer has it, and a child that dies with us.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use crate::Args;

/// Which VMM.
#[derive(Clone, Copy, Debug)]
pub(crate) enum VmmKind {
    /// Ours.
    Coopvirt,
    /// QEMU's microvm with virtio-mmio, as small as it can be made.
    QemuMicrovm,
}

impl VmmKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            VmmKind::Coopvirt => "coopvirt",
            VmmKind::QemuMicrovm => "QEMU microvm",
        }
    }
}

/// A running VMM; killed when dropped.
pub(crate) struct Vmm {
    child: Child,
    started: Duration,
    lines: Receiver<String>,
}

impl Vmm {
    /// Starts it; its guest does nothing once it has reached init.
    pub(crate) fn start(kind: VmmKind, args: &Args, memory_mib: u64) -> Result<Self> {
        let cmdline =
            "console=hvc0 quiet panic=-1 tsc=reliable no_timer_check coopvirt.works=none \
                       coopvirt.console=hvc0 coopvirt.end=hang";
        let mut command = match kind {
            VmmKind::Coopvirt => {
                let mut command = Command::new(&args.coopvirt);
                command
                    .args(["run", "--console", "virtio", "--kernel"])
                    .arg(&args.kernel);
                command.args(["--cmdline", cmdline, "--memory", &format!("{memory_mib}M")]);
                command.arg("--initrd").arg(&args.initrd);
                command
            }
            VmmKind::QemuMicrovm => {
                let mut command = Command::new("qemu-system-x86_64");
                command.args([
                    "-M",
                    "microvm,x-option-roms=off,pit=off,pic=off,isa-serial=off,rtc=on",
                ]);
                command.args([
                    "-accel",
                    "kvm",
                    "-cpu",
                    "host",
                    "-nodefaults",
                    "-no-user-config",
                ]);
                command.args([
                    "-display",
                    "none",
                    "-m",
                    &format!("{memory_mib}M"),
                    "-kernel",
                ]);
                command.arg(&args.kernel).arg("-initrd").arg(&args.initrd);
                command.args(["-append", cmdline, "-chardev", "stdio,id=out"]);
                command.args([
                    "-device",
                    "virtio-serial-device",
                    "-device",
                    "virtconsole,chardev=out",
                ]);
                command
            }
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        // SAFETY: prctl is async-signal-safe and touches no memory.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let started = monotonic();
        let mut child = command
            .spawn()
            .with_context(|| format!("could not start {}", kind.name()))?;
        let output = child
            .stdout
            .take()
            .context("the child's output is a pipe")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            started,
            lines,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When it was started, on the monotonic clock.
    pub(crate) fn started(&self) -> Duration {
        self.started
    }

    /// Waits until the guest's init has said that it is done, and a second longer.
    pub(crate) fn wait_for_init(&mut self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains("\"done\"") => break,
                Ok(_) => {}
                Err(_) => bail!("the guest did not reach its init within {limit:?}"),
            }
        }
        std::thread::sleep(Duration::from_secs(1));
        Ok(())
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn monotonic() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` has room for the result; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
