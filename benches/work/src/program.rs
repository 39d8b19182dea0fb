//! The ordinary program: settings from arguments, records to standard output, an exit status.

use crate::console::Console;
use crate::marks::Marks;
use crate::options::{Options, HELP};
use crate::runner::{self, Verdict};
use crate::sys::port::MarkPort;
use std::io::Write;

const EXIT_OK: i32 = 0;
const EXIT_FAILED: i32 = 1;
const EXIT_USAGE: i32 = 2;

/// Runs and returns the exit status.
pub(crate) fn run() -> i32 {
    let options = match Options::from_args(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            let written = std::io::stdout().write_all(HELP.as_bytes());
            return if written.is_ok() {
                EXIT_OK
            } else {
                EXIT_FAILED
            };
        }
        Err(error) => return complain(&error.to_string(), EXIT_USAGE),
    };
    let port = match options.has_marks.then(MarkPort::open).transpose() {
        Ok(port) => port,
        Err(error) => return complain(&port_error(&error), EXIT_FAILED),
    };
    let result = Console::stdout()
        .and_then(|mut console| runner::run(&options, &mut Marks::new(port), &mut console));
    match result {
        Ok(Verdict::AllOk) => EXIT_OK,
        Ok(Verdict::SomeFailed) => EXIT_FAILED,
        Err(error) => complain(&error.to_string(), EXIT_FAILED),
    }
}

/// Says what to do about a port that cannot be opened.
pub(crate) fn port_error(error: &std::io::Error) -> String {
    format!(
        "cannot open the mark port {:#06x}: {error}; run with CAP_SYS_RAWIO (as root), or without \
         marks (--no-marks, coopvirt.marks=off)",
        coopvirt_spec::mark::MARK_PORT
    )
}

fn complain(error: &str, status: i32) -> i32 {
    // Nothing is left to do if even this fails.
    let _ = writeln!(std::io::stderr(), "coopvirt-work: {error}");
    status
}
