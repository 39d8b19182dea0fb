//! `coopvirt doctor`: what this machine can do, and what to do about the rest.
//!
//! [`probe`] looks at the machine and fills [`findings::Findings`]; [`advice`] judges them, a pure
//! function; [`print`] shows the result. The probe opens devices and makes one empty VM; it never
//! changes anything and never runs a guest.

pub mod advice;
pub mod capabilities;
pub mod findings;
pub mod print;
pub mod probe;

use std::process::ExitCode;

use crate::say::say;

/// Examines this machine and prints the result; the exit code is a failure if a VM cannot run.
pub fn run(json: bool) -> anyhow::Result<ExitCode> {
    let findings = probe::probe();
    let report = advice::judge(&findings);
    let text = match json {
        true => print::to_json(&report),
        false => print::to_text(&report),
    };
    say(&(text + "\n"))?;
    Ok(match report.can_run {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
