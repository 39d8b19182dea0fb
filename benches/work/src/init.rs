//! Process 1 of a measured guest: from the first instruction of init to the end of the machine.
//!
//! Only `main` calls it. Whatever fails is said on the console, and the machine still ends the way
//! that the command line asks for: it must never wait for somebody to look.

use crate::console::{self, Console};
use crate::marks::Marks;
use crate::options::{End, Options};
use crate::program::port_error;
use crate::sys::boot::{self, Reboot};
use crate::sys::port::MarkPort;
use crate::{kexec, record, runner};
use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

/// Modules are loaded from here in the order of their names (`NN-name.ko`).
const MODULE_DIR: &str = "/lib/coopvirt/modules";

/// File systems that init mounts, in order; a kernel may lack some.
const MOUNTS: [(&CStr, &CStr); 5] = [
    (c"devtmpfs", c"/dev"),
    (c"proc", c"/proc"),
    (c"sysfs", c"/sys"),
    (c"debugfs", c"/sys/kernel/debug"),
    (c"tmpfs", c"/tmp"),
];

/// What the last panic said.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Does everything and ends the machine.
pub(crate) fn run() -> ! {
    // The boot mark comes first of all: what follows is not boot any more.
    let port = MarkPort::open();
    let (port, port_failure) = match port {
        Ok(port) => (Some(port), None),
        Err(error) => (None, Some(port_error(&error))),
    };
    let mut marks = Marks::new(port);
    marks.boot();

    let mut notes = mount_all();
    notes.extend(load_modules());
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let (options, parsed) = Options::from_cmdline(&cmdline);
    if !options.has_marks {
        marks = Marks::new(None);
    }
    let mut console = Console::for_init(options.console.as_deref());
    for note in &notes {
        console.try_line(&format!("coopvirt-work: {note}"));
    }
    let failure = match (parsed, port_failure) {
        (Err(error), _) => Some(error.to_string()),
        (Ok(()), Some(error)) if options.has_marks => Some(error),
        _ => run_works(&options, &mut marks, &mut console),
    };
    if let Some(error) = failure {
        console.try_line(&record::error(&error));
    }
    boot::sync();
    console.drain();
    end(options.end)
}

/// Returns why the run has no `done` record, if it has none.
fn run_works(options: &Options, marks: &mut Marks, console: &mut Console) -> Option<String> {
    std::panic::set_hook(Box::new(|info| {
        if let Ok(mut text) = PANIC.lock() {
            *text = info.to_string();
        }
    }));
    let run = AssertUnwindSafe(|| runner::run(options, marks, console));
    match catch_unwind(run) {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(
            PANIC
                .lock()
                .map_or_else(|_| "panic".to_string(), |text| text.clone()),
        ),
    }
}

fn mount_all() -> Vec<String> {
    let mut notes = Vec::new();
    for (kind, target) in MOUNTS {
        let path = target.to_string_lossy();
        // If this fails, mount says so in clearer words.
        let _ = fs::create_dir_all(path.as_ref());
        match boot::mount(kind, target) {
            Ok(()) => {}
            // The kernel has mounted it already.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => notes.push(format!(
                "cannot mount {} on {path}: {error}",
                kind.to_string_lossy()
            )),
        }
    }
    notes
}

fn load_modules() -> Vec<String> {
    let Ok(entries) = fs::read_dir(MODULE_DIR) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "ko"))
        .collect();
    paths.sort();
    let mut notes = Vec::new();
    for path in paths {
        let loaded = File::open(&path).and_then(|file| boot::load_module(&file, ""));
        if let Err(error) = loaded.or_else(ignore_needless) {
            notes.push(format!("cannot load {}: {error}", path.display()));
        }
    }
    notes
}

/// A module that is there already, or whose device is not there, is no failure.
fn ignore_needless(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::EEXIST | libc::ENODEV) => Ok(()),
        _ => Err(error),
    }
}

fn end(how: End) -> ! {
    match how {
        End::PowerOff => drop(boot::reboot(Reboot::PowerOff)),
        End::Reboot => drop(boot::reboot(Reboot::Restart)),
        End::Halt => drop(boot::reboot(Reboot::Halt)),
        End::Panic => drop(fs::write("/proc/sysrq-trigger", "c")),
        End::Hang => loop {
            // Interrupted or not, it goes on: this is what was asked for.
            let _ = crate::sys::time::sleep(Duration::from_secs(3600));
        },
        End::Kexec => {
            let error = kexec::start();
            // Loud enough for a kernel that was told to be quiet.
            console::last_words(&format!("<3>coopvirt-work: no kexec: {error}"));
        }
        End::Exit => {}
    }
    // Either asked for or the last way out: the kernel panics when process 1 exits.
    console::last_words("coopvirt-work: init exits");
    std::process::exit(1)
}
