//! Why a machine stopped, and the exit status that says so.
//!
//! One enum for the command line, reports and tests. The statuses are part of the interface:
//! `coopvirt run --help` and the README list them.

use std::fmt;

use serde::Serialize;

/// Why a machine stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// The guest switched the machine off (ACPI S5). Status 0.
    PowerOff,
    /// The guest restarted in good order. Status 0.
    Reboot,
    /// The user typed Ctrl-A X, or a library caller asked for it. Status 0.
    UserQuit,
    /// A test guest ended with this code through the debug-exit port. The status is the code.
    GuestExit(u8),
    /// The guest reset the machine without shutting down first, as `panic=-1` and sysrq-b do, or
    /// reported a panic through pvpanic. Status 3.
    Panic(String),
    /// A vCPU triple-faulted while the guest was not restarting. Status 4.
    TripleFault,
    /// KVM gave up on a vCPU. Status 5.
    KvmFailure(String),
    /// The I/O thread failed, so that nobody serves the devices. Status 5 as well.
    IoFailure(String),
    /// A signal asked this process to end. Status 128 plus its number.
    Signal(i32),
}

impl StopReason {
    /// The process exit status for this reason.
    pub fn exit_status(&self) -> u8 {
        match self {
            StopReason::PowerOff | StopReason::Reboot | StopReason::UserQuit => 0,
            StopReason::GuestExit(code) => *code,
            StopReason::Panic(_) => 3,
            StopReason::TripleFault => 4,
            StopReason::KvmFailure(_) | StopReason::IoFailure(_) => 5,
            StopReason::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopReason::PowerOff => write!(f, "the guest powered off"),
            StopReason::Reboot => write!(f, "the guest restarted; stopping as there is no reset"),
            StopReason::UserQuit => write!(f, "stopped by the user"),
            StopReason::GuestExit(code) => write!(f, "the guest ended with code {code}"),
            StopReason::Panic(how) => write!(f, "guest panic: {how}"),
            StopReason::TripleFault => write!(f, "triple fault: a vCPU shut down"),
            StopReason::KvmFailure(what) => write!(f, "KVM could not run a vCPU: {what}"),
            StopReason::IoFailure(what) => write!(f, "the I/O thread failed: {what}"),
            StopReason::Signal(signal) => write!(f, "ended by signal {signal}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_ends_have_status_zero_and_bad_ones_do_not() {
        assert_eq!(StopReason::PowerOff.exit_status(), 0);
        assert_eq!(StopReason::Reboot.exit_status(), 0);
        let bad = [
            StopReason::Panic(String::new()),
            StopReason::TripleFault,
            StopReason::KvmFailure(String::new()),
            StopReason::IoFailure(String::new()),
            StopReason::Signal(15),
        ];
        let statuses: Vec<u8> = bad.iter().map(StopReason::exit_status).collect();
        assert_eq!(statuses, [3, 4, 5, 5, 143]);
    }
}
