//! virtio devices under load: the guest reads whole disks and checks each block's content.

use coopvirt_tests::files::{set_mode, Folder};
use coopvirt_tests::Guest;

/// 16 MiB: more than the works read, so that they reach different places.
const DISK_BLOCKS: u64 = 4096;

/// Runs the reading works on a disk and checks that the guest checked them.
fn reads(cpus: u32, disk: &str, guest: Guest) {
    let guest = guest.cpus(cpus).works("read1,read32");
    let outcome = guest.arguments(["--disk", disk]).run();
    outcome.assert_powered_off();
    for work in ["read1", "read32"] {
        let record = outcome.work(work);
        assert_eq!(record["ok"], true, "{record}");
        // A note would say that contents could not be checked.
        assert!(record["note"].is_null(), "{record}");
    }
}

fn disk(folder: &Folder) -> String {
    folder.disk("disk", DISK_BLOCKS).display().to_string()
}

#[test]
fn disk_with_1_vcpu() {
    let folder = Folder::new();
    reads(1, &disk(&folder), Guest::new());
}

#[test]
fn disk_with_2_vcpus() {
    let folder = Folder::new();
    reads(2, &disk(&folder), Guest::new());
}

#[test]
fn disk_with_4_vcpus() {
    let folder = Folder::new();
    reads(4, &disk(&folder), Guest::new());
}

#[test]
fn disk_in_hvm_mode() {
    let folder = Folder::new();
    let guest = Guest::new().cmdline("tsc=reliable no_timer_check");
    reads(2, &disk(&folder), guest.arguments(["--mode", "hvm"]));
}

#[test]
fn read_only_disk() {
    let folder = Folder::new();
    let disk = disk(&folder);
    set_mode(disk.as_ref(), 0o444);
    reads(1, &format!("{disk},ro"), Guest::new());
}

#[test]
fn second_disk() {
    let folder = Folder::new();
    let empty = folder.file("empty", &[0; 4096]).display().to_string();
    let guest = Guest::new().arguments(["--disk", &empty]);
    reads(1, &disk(&folder), guest.cmdline("coopvirt.disk=/dev/vdb"));
}
