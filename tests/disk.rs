//! virtio-blk with both back ends under a real driver: every word verified, what the driver sees of
//! the disk, blocks given back, images in use, hosts without io_uring, exits per read.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use coopvirt::account::model::Counts;
use coopvirt::account::report::ExitReport;
use coopvirt_spec::work::Work;
use coopvirt_tests::exits::{own_exits, phase};
use coopvirt_tests::files::{Folder, LoopDevice};
use coopvirt_tests::{Guest, Outcome};

const ENGINES: [&str; 2] = ["uring", "sync"];
/// 16 MiB.
const DISK_BLOCKS: u64 = 4096;
const BLOCK_BYTES: u64 = 4096;
const SYSCTL: &str = "/proc/sys/kernel/io_uring_disabled";

fn disk(folder: &Folder) -> String {
    folder.disk("disk", DISK_BLOCKS).display().to_string()
}

fn with_disk(disk: &str, options: &str) -> Guest {
    Guest::new().arguments(["--disk", &format!("{disk}{options}")])
}

/// Overwrites the disk with patterns and verifies them; returns the guest's record.
fn check(cpus: u32, disk: &str, options: &str) -> Outcome {
    let guest = with_disk(disk, options)
        .cpus(cpus)
        .cmdline("coopvirt.disk_check=300");
    let outcome = guest.run();
    outcome.assert_powered_off();
    let record = outcome.record("disk-check");
    assert_eq!(record["ok"], true, "{record}");
    eprintln!("{options}: {record}");
    outcome
}

#[test]
fn random_writes_read_back_and_discarded_blocks_are_given_back() {
    for engine in ENGINES {
        let folder = Folder::new();
        let image = folder.disk("disk", DISK_BLOCKS);
        let name = image.display().to_string();
        let outcome = check(2, &name, &format!(",io={engine},serial=lab-1"));
        let record = outcome.record("disk-check");
        assert_eq!(record["queues"], 2, "one per vCPU");
        assert_eq!(record["serial"], "lab-1");
        assert_eq!(record["write_cache"], "write back");
        assert_eq!(record["physical_block_bytes"], BLOCK_BYTES);
        assert!(record["discard_max_bytes"].as_u64() > Some(0), "{record}");
        assert!(
            record["write_zeroes_max_bytes"].as_u64() > Some(0),
            "{record}"
        );
        // The first share of the eight threads was zeroed, the last one discarded.
        let share = DISK_BLOCKS / 8 * BLOCK_BYTES;
        let metadata = fs::metadata(&image).expect("the image is there");
        assert_eq!(metadata.len(), DISK_BLOCKS * BLOCK_BYTES);
        let allocated = metadata.blocks() * 512;
        let expected = metadata.len() - share;
        assert!(
            (expected..expected + share / 8).contains(&allocated),
            "{engine}: {allocated} bytes allocated, {expected} expected"
        );
        let content = fs::read(&image).expect("the image is readable");
        let share = content.len() / 8;
        let (start, rest) = content.split_at(share);
        assert!(start.iter().all(|&byte| byte == 0), "{engine}: not zeroed");
        assert!(rest[..share].iter().any(|&byte| byte != 0));
    }
}

#[test]
fn fewer_queues_than_vcpus() {
    let folder = Folder::new();
    let outcome = check(2, &disk(&folder), ",io=uring,queues=1");
    assert_eq!(outcome.record("disk-check")["queues"], 1);
}

#[test]
fn four_vcpus_with_four_queues() {
    let folder = Folder::new();
    let outcome = check(4, &disk(&folder), ",io=uring");
    assert_eq!(outcome.record("disk-check")["queues"], 4);
}

#[test]
fn read_only_disk_refuses_the_writer_and_changes_nothing() {
    for engine in ENGINES {
        let folder = Folder::new();
        let name = disk(&folder);
        let before = fs::read(&name).expect("the image is readable");
        let options = format!(",ro,io={engine}");
        let guest = with_disk(&name, &options).cmdline("coopvirt.disk_check=1");
        let outcome = guest.run();
        outcome.assert_ended(0, "the guest powered off");
        let record = outcome.record("disk-check");
        assert_eq!(record["ok"], false);
        assert_eq!(record["read_only"], true);
        assert_eq!(record["discard_max_bytes"], 0);
        assert!(fs::read(&name).expect("the image is readable") == before);
    }
}

#[test]
fn image_in_use_is_refused_and_readers_share() {
    let folder = Folder::new();
    let name = disk(&folder);
    let mut running = with_disk(&name, "").works("read1").end("hang").start();
    running.wait_for("\"done\"");
    for options in ["", ",ro"] {
        let refused = with_disk(&name, options).run();
        refused.assert_ended(1, "is in use by another machine or disk");
    }
    drop(running);
    let shared = with_disk(&name, ",ro").arguments(["--disk", &format!("{name},ro")]);
    shared.works("read1").run().assert_powered_off();
    let twice = with_disk(&name, "").arguments(["--disk", &name]);
    twice
        .run()
        .assert_ended(1, "is in use by another machine or disk");
}

/// Takes io_uring from the whole host; gives it back when dropped.
struct NoUring(String);

impl NoUring {
    fn new() -> Self {
        let before = fs::read_to_string(SYSCTL).expect("Linux 6.6 or newer");
        fs::write(SYSCTL, "2").expect("these tests run as root");
        Self(before)
    }
}

impl Drop for NoUring {
    fn drop(&mut self) {
        fs::write(SYSCTL, self.0.trim()).expect("it was written before");
    }
}

#[test]
fn host_without_io_uring_serves_one_by_one_and_says_so() {
    let folder = Folder::on_disk();
    let name = disk(&folder);
    let _without = NoUring::new();
    let outcome = with_disk(&name, "").works("read1,read32").run();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    outcome.done();
    assert!(
        outcome.stderr.contains("no io_uring here") && outcome.stderr.contains(&name),
        "{}",
        outcome.stderr
    );
    let refused = with_disk(&name, ",io=uring").run();
    refused.assert_ended(
        1,
        "cannot use io_uring here; leave io=uring out, or say io=sync",
    );
    with_disk(&name, ",io=sync").run().assert_powered_off();
}

/// Exits by writes to a virtio-blk device.
fn notifications(counts: &Counts) -> u64 {
    let causes = counts.by_cause.iter();
    let matching = causes.filter(|(cause, _)| cause.contains("virtio-blk doorbell"));
    matching.map(|(_, count)| count).sum()
}

/// Net exits per read of a work, and how many of them were notifications.
fn exits_per_read(outcome: &Outcome, report: &ExitReport, work: Work) -> (f64, f64) {
    let reads = outcome.work(work.name())["ops"].as_u64().expect("a count");
    let counts = &phase(report, work.code()).counts;
    let latency = &outcome.work(work.name())["latency_ns"];
    eprintln!("{}: {counts:?}, latency {latency}", work.name());
    let per_read = |exits: u64| exits as f64 / reads as f64;
    (per_read(own_exits(counts)), per_read(notifications(counts)))
}

#[test]
fn reads_in_flight_share_their_exits() {
    for options in ["", ",io=uring", ",io=sync"] {
        let folder = Folder::on_disk();
        let path = folder.path("exits.json");
        let guest = with_disk(&disk(&folder), &format!(",ro{options}"))
            .cpus(2)
            .works("read1,read32")
            .arguments(["--pin", "1-2,0"])
            .arguments(["--exits".into(), path.clone()]);
        let outcome = guest.run();
        assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
        outcome.done();
        let report = read_report(&path);
        let (one, one_notified) = exits_per_read(&outcome, &report, Work::Read1);
        let (many, many_notified) = exits_per_read(&outcome, &report, Work::Read32);
        eprintln!(
            "{options:?}: {one:.2} exits per read one at a time ({one_notified:.2} notifications), \
             {many:.3} of 32 in flight ({many_notified:.3})"
        );
        assert!(many * 4.0 < one, "{many} exits of many, {one} of one");
    }
}

/// Reads one at a time that are copies of memory are served by the vCPU that notifies: no halt, so that an exit less is
/// left, whose write returns to userspace. Many in flight are the I/O thread's as ever. One image is memory, the other is
/// in the page cache and served by io_uring, as an image on a disk is.
#[test]
fn lone_cached_reads_are_served_by_the_vcpu_that_notifies() {
    let folder = Folder::new();
    let memory = disk(&folder);
    let device = LoopDevice::over(Path::new(&memory));
    fs::read(device.name()).expect("all of it gets into the page cache");
    for image in [memory.as_str(), device.name()] {
        let [thread, auto, vcpu] = ["thread", "auto", "vcpu"].map(|notify| {
            let path = folder.path("exits.json");
            let guest = with_disk(image, &format!(",ro,notify={notify}"))
                .cpus(2)
                .works("read1,read32")
                .arguments(["--pin", "1-2,0"])
                .arguments(["--exits".into(), path.clone()]);
            let outcome = guest.run();
            assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
            outcome.done();
            let report = read_report(&path);
            let (one, one_notified) = exits_per_read(&outcome, &report, Work::Read1);
            let (many, _) = exits_per_read(&outcome, &report, Work::Read32);
            let disk = report.devices["virtio-blk 0"];
            eprintln!(
                "{image}, {notify}: {one:.2} exits per read one at a time ({one_notified:.2} notifications), {many:.3} of 32 in \
                 flight; {disk:?}"
            );
            let [served, left] = [disk.notifies_served_by_vcpu, disk.notifies_left_by_vcpu];
            assert!(served + left <= disk.notifies, "{disk:?}");
            (one, served, disk.receiver_changes)
        });
        assert_eq!((thread.1, thread.2), (0, 0), "never by the vCPU");
        assert_eq!(vcpu.2, 0, "nobody else");
        assert!(
            auto.1 > 0 && auto.2 > 0 && vcpu.1 > auto.1,
            "{auto:?} {vcpu:?}"
        );
        assert!(
            auto.0 < thread.0 && vcpu.0 < thread.0,
            "{thread:?} {auto:?} {vcpu:?}"
        );
    }
}

fn read_report(path: &Path) -> ExitReport {
    let text = fs::read(path).expect("a report");
    serde_json::from_slice(&text).expect("the report reads back")
}
