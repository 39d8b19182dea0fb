//! Runs a guest on a terminal of its own, types on it, and looks at the terminal's mode.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{grantpt, openpt, ptsname, unlockpt, OpenptFlags};
use rustix::termios::{tcgetattr, tcsetwinsize, LocalModes, OutputModes, Winsize};

use crate::guest::{Collector, Guest, Running};

/// A terminal: the side that a person sits at, and the side that programs see.
#[derive(Debug)]
pub struct Terminal {
    person: File,
    program: OwnedFd,
}

/// What of a terminal's mode matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalMode {
    /// Characters come as they are typed, without echo, and Ctrl-C is one of them.
    pub is_raw: bool,
    /// Line ends are translated on output.
    pub has_line_ends: bool,
}

impl Terminal {
    /// A new terminal in its usual mode.
    pub fn new() -> Self {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there is a /dev/ptmx");
        grantpt(&person).expect("our own terminal");
        unlockpt(&person).expect("our own terminal");
        let name = ptsname(&person, Vec::new()).expect("our own terminal");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let program = rustix::fs::open(name, flags, Mode::empty()).expect("unlocked above");
        Self {
            person: person.into(),
            program,
        }
    }

    /// Starts a guest with all three streams on this terminal.
    pub fn start(&self, guest: &Guest) -> Running {
        self.run(&mut guest.command(), guest.time_limit())
    }

    /// Starts a program with all three streams on this terminal.
    pub fn run(&self, command: &mut Command, limit: Duration) -> Running {
        let stream = || Stdio::from(self.program.try_clone().expect("descriptors are left"));
        command.stdin(stream()).stdout(stream()).stderr(stream());
        let title = format!("{command:?}");
        let child = command.spawn().expect("coopvirt can be started");
        // Its copies of the terminal would keep that open.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let person = self.person.try_clone().expect("descriptors are left");
        Running::new(title, child, Collector::start(person), None, limit)
    }

    /// Gives it so many columns and lines; it has none to begin with.
    pub fn resize(&self, columns: u16, lines: u16) {
        let size = Winsize {
            ws_row: lines,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.program, size).expect("it is a terminal");
    }

    /// Types.
    pub fn type_keys(&self, keys: &[u8]) {
        (&self.person)
            .write_all(keys)
            .expect("a terminal takes a few keys");
    }

    /// Its mode now.
    pub fn mode(&self) -> TerminalMode {
        let mode = tcgetattr(&self.program).expect("it is a terminal");
        let cooked = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        TerminalMode {
            is_raw: !mode.local_modes.intersects(cooked),
            has_line_ends: mode.output_modes.contains(OutputModes::OPOST),
        }
    }

    /// All of its mode, to be compared.
    pub fn settings(&self) -> String {
        let mode = tcgetattr(&self.program).expect("it is a terminal");
        format!(
            "{:?} {:?} {:?} {:?}",
            mode.input_modes, mode.output_modes, mode.control_modes, mode.local_modes
        )
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}
