//! Where records go: standard output, or the terminal that init picks.
//!
//! Every write has a time-out, because a host may stop taking what a guest sends. Nothing may be
//! written between marks (`[WORK-1]`).

use crate::sys::alarm::Alarm;
use crate::sys::{boot, time};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// For one line, or for everything to be sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// For a terminal whose driver is still starting.
const TERMINAL_TIMEOUT: Duration = Duration::from_secs(2);
const TERMINAL_RETRY: Duration = Duration::from_millis(5);

/// The device number of a virtio console, as sysfs writes it.
const VIRTIO_CONSOLE: &str = "0x0003";

/// Takes whole lines.
pub(crate) struct Console {
    out: Option<File>,
}

impl Console {
    /// Standard output of an ordinary program.
    pub(crate) fn stdout() -> io::Result<Console> {
        let out = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Console {
            out: Some(File::from(out)),
        })
    }

    /// The terminal of an init: the one asked for, else a virtio console, else the kernel's
    /// console, else its log. With none of them lines get lost, and the run is a failure.
    pub(crate) fn for_init(asked_for: Option<&str>) -> Console {
        let name = asked_for.or_else(|| has_virtio_console().then_some("hvc0"));
        let terminal = name.and_then(wait_for_terminal);
        let out = terminal
            .or_else(|| open_terminal(Path::new("/dev/console")).ok())
            .or_else(|| open_terminal(Path::new("/dev/kmsg")).ok());
        Console { out }
    }

    /// Writes one line.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        let Some(out) = &mut self.out else {
            return Err(io::Error::other("no console to write to"));
        };
        let _alarm = Alarm::arm(WRITE_TIMEOUT);
        let line = format!("{text}\n");
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            // Not write_all: it would go on after the alarm.
            let written = out.write(rest)?;
            rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Writes one line, where nobody is left to hear of a failure.
    pub(crate) fn try_line(&mut self, text: &str) {
        let _ = self.line(text);
    }

    /// Waits until everything has been sent; best effort.
    pub(crate) fn drain(&mut self) {
        let Some(out) = &self.out else { return };
        let _alarm = Alarm::arm(WRITE_TIMEOUT);
        let _ = boot::drain(out);
    }
}

/// Says something in the kernel's log, for the time when the console is gone.
pub(crate) fn last_words(text: &str) {
    let _ = fs::write("/dev/kmsg", text);
}

/// A driver that has yet to bind makes waiting worth while, a machine without the device does not.
fn has_virtio_console() -> bool {
    if Path::new("/sys/class/tty/hvc0").exists() {
        return true;
    }
    let Ok(devices) = fs::read_dir("/sys/bus/virtio/devices") else {
        return false;
    };
    devices.flatten().any(|device| {
        let number = fs::read_to_string(device.path().join("device")).unwrap_or_default();
        number.trim() == VIRTIO_CONSOLE
    })
}

fn wait_for_terminal(name: &str) -> Option<File> {
    let path = Path::new("/dev").join(name);
    let start_ns = time::read_clock_ns();
    loop {
        if let Ok(file) = open_terminal(&path) {
            return Some(file);
        }
        let waited = Duration::from_nanos(time::read_clock_ns().saturating_sub(start_ns));
        if waited > TERMINAL_TIMEOUT {
            return None;
        }
        time::sleep(TERMINAL_RETRY).ok()?;
    }
}

fn open_terminal(path: &Path) -> io::Result<File> {
    // A missing device must not become a file in the root file system.
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(path)
}
