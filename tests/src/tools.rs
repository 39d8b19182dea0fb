//! Guests with Debian's own programs: fio, iperf3, e2fsprogs (`scripts/lib/guest-tools.sh`).
//!
//! They boot from a read-only disk, `/dev/vda`, and run one script of `tests/guests/tools`. Disks that a
//! test adds come behind it.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::lab::{self, Lab, MODULE_KERNEL};
use crate::{Guest, Outcome};

/// The folder with the disk, and the same programs for the host.
fn folder() -> PathBuf {
    lab::path_from("COOPVIRT_TOOLS")
}

/// The disk that such guests boot from.
pub fn disk() -> PathBuf {
    folder().join("disk.img")
}

/// A guest that runs this script with its arguments.
pub fn guest(script: &str) -> Guest {
    let kernel = Lab::find().kernel_file(MODULE_KERNEL, "vmlinux");
    Guest::with_file(&kernel)
        .arguments(["--disk", &format!("{},ro", disk().display())])
        .cmdline(&format!("{CMDLINE} -- {script}"))
}

/// What the kernel is told beside the script.
pub const CMDLINE: &str = "root=/dev/vda ro init=/scripts/init tsc=reliable no_timer_check";

/// Checks that the script has come to its end without an error, and the machine too.
#[track_caller]
pub fn assert_done(outcome: &Outcome) {
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    outcome.done();
    assert_eq!(outcome.record("done")["status"], 0, "{}", outcome.console);
}

/// One of the programs, to be run on this host.
pub fn program(name: &str) -> Command {
    let root = folder().join("root");
    let mut command = Command::new(root.join("lib64/ld-linux-x86-64.so.2"));
    command
        .arg("--library-path")
        .arg(root.join("lib/x86_64-linux-gnu"))
        .arg(root.join("usr/bin").join(name));
    command
}

/// What `iperf3 --client` says of this long a transfer to a guest, or from it.
///
/// # Panics
/// If it could not be done.
#[track_caller]
pub fn iperf3(address: &str, seconds: u64, from_guest: bool) -> Value {
    let mut command = program("iperf3");
    command.args(["--json", "--client", address]);
    command.args(["--time", &seconds.to_string(), "--parallel", "2"]);
    if from_guest {
        command.arg("--reverse");
    }
    let output = command.output().expect("iperf3 can be run");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_str(&text).expect("iperf3 says JSON")
}
