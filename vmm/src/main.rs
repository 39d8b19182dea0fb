//! The `coopvirt` command: arguments in, exit status out; everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    coopvirt::cli::main()
}
