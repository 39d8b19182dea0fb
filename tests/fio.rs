//! Debian's fio in a guest: random reads and writes, each block that was written read back and its checksum looked at,
//! by every back end that a disk can have. Ten minutes each where `COOPVIRT_LONG` is set.

use std::time::Duration;

use coopvirt_tests::daemon::Daemon;
use coopvirt_tests::files::Folder;
use coopvirt_tests::{tools, Guest, Outcome};
use serde_json::Value;

/// 64 MiB.
const DISK_BLOCKS: u64 = 16384;

fn seconds() -> u64 {
    match std::env::var_os("COOPVIRT_LONG") {
        Some(_) => 600,
        None => 60,
    }
}

/// A guest with 2 vCPUs that runs fio so on a disk (an option and its value), to its end.
#[track_caller]
fn fio(disk: [&str; 2], words: &str) -> Outcome {
    let guest: Guest = tools::guest("fio").cmdline(words);
    let outcome = guest
        .cpus(2)
        .memory("512M")
        .arguments(disk)
        .limit(Duration::from_secs(300 + 2 * seconds()))
        .run();
    tools::assert_done(&outcome);
    outcome
}

/// Reads and writes at random, without an error.
#[track_caller]
fn verify(disk: [&str; 2]) {
    let outcome = fio(disk, &format!("random {}", seconds()));
    let record = outcome.record("fio");
    eprintln!("{disk:?}: {record}");
    assert_eq!(record["status"], 0, "{}", outcome.console);
    assert_eq!(record["error"], 0, "{}", outcome.console);
    for what in ["read_kib", "write_kib"] {
        assert!(record[what].as_u64() > Some(256), "{record}");
    }
}

/// A disk of its own for each back end: not in memory, where a host's io_uring has workers only.
fn with_image(options: &str) {
    let folder = Folder::on_disk();
    let image = folder.disk("disk", DISK_BLOCKS);
    verify(["--disk", &format!("{}{options}", image.display())]);
}

#[test]
fn raw_file_one_by_one() {
    with_image(",io=sync");
}

#[test]
fn raw_file_by_io_uring() {
    with_image(",io=uring");
}

#[test]
fn raw_file_of_another_process() {
    let folder = Folder::on_disk();
    let (socket, image) = (folder.path("socket"), folder.disk("disk", DISK_BLOCKS));
    let _daemon = Daemon::raw(&socket, &image);
    verify(["--vhost-user-blk", &socket.display().to_string()]);
}

/// That those above can fail: fio notices one sector that is not what it wrote.
#[test]
fn a_sector_that_changed_is_noticed() {
    let folder = Folder::new();
    let image = folder.disk("disk", 1024);
    let outcome = fio(["--disk", &image.display().to_string()], "changed");
    let statuses: Vec<&Value> = outcome
        .records("fio")
        .map(|record| &record["status"])
        .collect();
    assert_eq!(statuses.len(), 2, "{}", outcome.console);
    assert_eq!(statuses[0], 0, "{}", outcome.console);
    assert_ne!(statuses[1], 0, "{}", outcome.console);
    assert!(
        outcome.console.contains("verify failed"),
        "{}",
        outcome.console
    );
}
