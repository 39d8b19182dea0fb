//! Hosts that lack something: no /dev/kvm, no right to it, disks that may only be read. Uses
//! mount namespaces of its own, so nothing changes for anybody else.

use std::path::Path;

use coopvirt_tests::files::{set_mode, Folder};
use coopvirt_tests::{Guest, Lab};

/// Gives up all rights that root has over an ordinary user.
const UNPRIVILEGED: [&str; 3] = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];

/// Runs the rest of the command after `script`, as root of a mount namespace of its own.
fn in_namespace(script: &str) -> Vec<String> {
    let options = if rustix::process::geteuid().is_root() {
        "-m"
    } else {
        "-rm"
    };
    let script = format!("set -e; {script}; exec \"$@\"");
    ["unshare", options, "sh", "-c", &script, "sh"]
        .map(String::from)
        .into()
}

fn mounted(over: &str, source: &Path, options: &str) -> Vec<String> {
    let source = source.display();
    in_namespace(&format!("mount {options} --bind '{source}' '{over}'"))
}

#[test]
fn no_dev_kvm() {
    let folder = Folder::new();
    let empty = folder.path("dev");
    std::fs::create_dir(&empty).expect("a folder of our own");
    let outcome = Guest::new().prefix(mounted("/dev", &empty, "")).run();
    outcome.assert_ended(1, "/dev/kvm does not exist; load kvm_amd or kvm_intel");
    assert_eq!(outcome.console, "");
}

#[test]
fn no_permission_for_dev_kvm() {
    let folder = Folder::new();
    let locked = folder.file("kvm", b"");
    set_mode(&locked, 0);
    let guest = Guest::new()
        .prefix(mounted("/dev/kvm", &locked, ""))
        .prefix(UNPRIVILEGED);
    let outcome = guest.run();
    outcome.assert_ended(
        1,
        "no permission to open /dev/kvm; add yourself to group kvm",
    );
    assert_eq!(outcome.console, "");
}

#[test]
fn something_else_in_place_of_dev_kvm() {
    let folder = Folder::new();
    let file = folder.file("kvm", b"");
    let outcome = Guest::new().prefix(mounted("/dev/kvm", &file, "")).run();
    outcome.assert_ended(1, "/dev/kvm");
}

#[test]
fn a_disk_without_write_permission() {
    let folder = Folder::new();
    let disk = folder.disk("disk", 16);
    set_mode(&disk, 0o444);
    let guest = Guest::new()
        .prefix(UNPRIVILEGED)
        .arguments(["--disk".into(), disk.clone()]);
    let outcome = guest.run();
    outcome.assert_ended(1, "not writable by this user; add \",ro\"");
    assert!(outcome.stderr.contains(&disk.display().to_string()));
}

#[test]
fn a_disk_on_a_read_only_file_system() {
    let folder = Folder::new();
    let disk = folder.disk("disk", 16);
    let over = disk.display().to_string();
    let read_only = format!("mount --bind '{over}' '{over}'; mount -o remount,bind,ro '{over}'");
    let guest = Guest::new().prefix(in_namespace(&read_only));
    let outcome = guest.arguments(["--disk".into(), disk]).run();
    outcome.assert_ended(1, "add \",ro\" to use it read-only");
}

#[test]
fn doctor_says_that_guests_can_run_here() {
    let mut command = std::process::Command::new(Lab::find().program);
    let output = command
        .args(["doctor", "--json"])
        .output()
        .expect("coopvirt can be started");
    assert_eq!(output.status.code(), Some(0));
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(findings.is_object() || findings.is_array(), "{findings}");
}
