//! Devices of other processes: a disk of Debian's qemu-storage-daemon, raw and qcow2, that is overwritten
//! and verified word by word, also while the daemon is killed and started again; one that stays away;
//! a folder of virtiofsd with trees of files, both ways; and sockets where there is nothing of use.
//!
//! Needs qemu-system-common (scripts/setup installs it with QEMU), and root for virtiofsd.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use coopvirt_spec::stream;
use coopvirt_tests::ctl::metrics;
use coopvirt_tests::daemon::Daemon;
use coopvirt_tests::files::Folder;
use coopvirt_tests::{Guest, Outcome};

/// 16 MiB.
const DISK_BLOCKS: u64 = 4096;
const BLOCK_BYTES: u64 = 4096;
/// Far fewer than the guest makes in all.
const BETWEEN_KILLS: u64 = 500;
const LIMIT: Duration = Duration::from_secs(300);

fn is_long() -> bool {
    std::env::var_os("COOPVIRT_LONG").is_some()
}

/// An empty qcow2 image (docs/interop/qcow2.txt of QEMU): header, refcounts of its own four clusters, and
/// a first table with nothing in it.
fn qcow2(folder: &Folder, bytes: u64) -> PathBuf {
    const CLUSTER: usize = 64 << 10;
    let mut image = vec![0; 4 * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    put(20, &16u32.to_be_bytes());
    put(24, &bytes.to_be_bytes());
    put(36, &1u32.to_be_bytes());
    for (at, cluster) in [(40, 3), (48, 1), (CLUSTER, 2)] {
        put(at, &(cluster * CLUSTER as u64).to_be_bytes());
    }
    put(56, &1u32.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    (0..4).for_each(|cluster| put(2 * CLUSTER + 2 * cluster, &1u16.to_be_bytes()));
    folder.file("disk.qcow2", &image)
}

fn guest_with(option: &str, value: &str) -> Guest {
    Guest::new().cpus(2).arguments([option, value]).limit(LIMIT)
}

fn guest_with_disk(socket: &Path, options: &str, operations: u32) -> Guest {
    guest_with(
        "--vhost-user-blk",
        &format!("{}{options}", socket.display()),
    )
    .cmdline(&format!("coopvirt.disk_check={operations}"))
}

/// The guest powered off; beside that the VMM may have said what became of a back end.
#[track_caller]
fn assert_powered_off(outcome: &Outcome) {
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    let last = outcome.stderr.lines().last().unwrap_or_default();
    assert!(last.contains("the guest powered off"), "{}", outcome.stderr);
}

#[track_caller]
fn assert_checked(outcome: &Outcome) {
    assert_powered_off(outcome);
    outcome.done();
    let record = outcome.record("disk-check");
    eprintln!("{record}");
    assert_eq!(record["ok"], true, "{record}");
    assert_eq!(record["queues"], 2);
    assert_eq!(record["write_cache"], "write back");
}

/// A new image of this format, and the daemon that serves it.
fn serve(format: &str, folder: &Folder) -> (PathBuf, Daemon) {
    let image = match format {
        "raw" => folder.disk("disk", DISK_BLOCKS),
        _ => qcow2(folder, DISK_BLOCKS * BLOCK_BYTES),
    };
    let daemon = serve_again(format, &folder.path("socket"), &image);
    (image, daemon)
}

fn serve_again(format: &str, socket: &Path, image: &Path) -> Daemon {
    match format {
        "raw" => Daemon::raw(socket, image),
        _ => Daemon::qcow2(socket, image),
    }
}

#[test]
fn raw_and_qcow2_disks_are_read_and_written_word_by_word() {
    for format in ["raw", "qcow2"] {
        let folder = Folder::new();
        let (image, _daemon) = serve(format, &folder);
        let outcome = guest_with_disk(&folder.path("socket"), "", 300).run();
        assert_checked(&outcome);
        assert!(!outcome.stderr.contains("vhost-user"), "{}", outcome.stderr);
        let content = fs::read(&image).expect("the image is readable");
        if format == "raw" {
            // The first share of the eight threads was zeroed, and none of the others.
            let (zeros, rest) = content.split_at(content.len() / 8);
            assert!(zeros.iter().all(|&byte| byte == 0), "not zeroed");
            assert!(rest[..zeros.len()].iter().any(|&byte| byte != 0));
        } else {
            assert_eq!(content[..4], *b"QFI\xfb");
            assert!(content.len() > 12 << 20, "{} bytes", content.len());
        }
    }
}

/// The daemon says "write through" and keeps writes back. Whoever believed it would never flush.
#[test]
fn flushes_reach_the_image() {
    let folder = Folder::new();
    let (socket, image) = (folder.path("socket"), folder.disk("disk", DISK_BLOCKS));
    let _daemon = Daemon::without_flush(&socket, &image);
    let outcome = guest_with_disk(&socket, "", 100).run();
    assert_powered_off(&outcome);
    let record = outcome.record("disk-check");
    assert_eq!(record["ok"], false, "{record}");
    let error = record["error"].as_str().unwrap_or_default();
    assert!(error.contains("flush"), "{record}");
}

/// How many requests the VMM says it has made again.
fn made_again(stderr: &str) -> Vec<u32> {
    let words = stderr
        .lines()
        .filter_map(|line| line.split_once("and has got "));
    let counts = words.filter_map(|(_, rest)| rest.split(' ').next()?.parse().ok());
    counts.collect()
}

/// The daemon is killed again and again, each time after some more requests.
fn survives_kills(format: &str) {
    let (kills, operations) = if is_long() { (20, 20_000) } else { (2, 500) };
    let folder = Folder::new();
    let (socket, control) = (folder.path("socket"), folder.path("control"));
    let (image, mut daemon) = serve(format, &folder);
    let mut running = guest_with_disk(&socket, "", operations)
        .arguments(["--control", &control.display().to_string()])
        .limit(LIMIT * 6)
        .start();
    running.wait_for("\"platform\"");
    for _ in 0..kills {
        let (before, until) = (requests(&control), Instant::now() + LIMIT);
        while requests(&control) < before + BETWEEN_KILLS {
            assert!(Instant::now() < until, "no requests: {}", running.text());
            thread::sleep(Duration::from_millis(10));
        }
        daemon.kill();
        daemon = serve_again(format, &socket, &image);
    }
    let outcome = running.finish();
    assert_checked(&outcome);
    let again = made_again(&outcome.stderr);
    eprintln!("requests made again: {again:?}");
    assert_eq!(again.len(), kills, "{}", outcome.stderr);
    // Eight threads read and wrote all the time.
    assert!(again.iter().sum::<u32>() > 0, "{}", outcome.stderr);
}

/// How many requests of its disk a running machine has answered.
fn requests(control: &Path) -> u64 {
    let devices = metrics(control).devices;
    let disk = devices.iter().find(|device| device.device == "virtio-blk");
    disk.expect("it has one").counts.requests
}

#[test]
fn a_raw_disk_survives_its_daemon() {
    survives_kills("raw");
}

#[test]
fn a_qcow2_disk_survives_its_daemon() {
    survives_kills("qcow2");
}

#[test]
fn a_daemon_that_stays_away_gives_the_guest_io_errors_and_the_machine_goes_on() {
    let folder = Folder::new();
    let (socket, image) = (folder.path("socket"), folder.disk("disk", DISK_BLOCKS));
    let daemon = Daemon::raw(&socket, &image);
    let mut running = guest_with_disk(&socket, ",reconnect=2", 100_000).start();
    running.wait_for("\"platform\"");
    thread::sleep(Duration::from_secs(2));
    daemon.kill();
    let outcome = running.finish();
    assert_powered_off(&outcome);
    let record = outcome.record("disk-check");
    assert_eq!(record["ok"], false, "{record}");
    let error = record["error"].as_str().unwrap_or_default();
    assert!(error.contains("Input/output error"), "{record}");
    for line in ["its back end is gone", "requests fail until there is one"] {
        assert!(outcome.stderr.contains(line), "{}", outcome.stderr);
    }
}

#[test]
fn sockets_without_a_back_end_of_use_are_refused_before_the_guest_starts() {
    let folder = Folder::new();
    let refused = |option: &str, value: &str, line: &str| {
        let outcome = guest_with(option, value).run();
        outcome.assert_ended(1, line);
        assert_eq!(outcome.console, "");
    };
    let name = |path: &Path| path.display().to_string();
    let socket = folder.path("disk.socket");
    refused(
        "--vhost-user-blk",
        &name(&socket),
        "no vhost-user back end listens at",
    );
    let image = folder.disk("disk", DISK_BLOCKS);
    let _daemon = Daemon::raw(&socket, &image);
    let share = format!("{},tag=x", socket.display());
    refused("--fs", &share, "it serves another kind of device");
    let files = folder.path("files");
    fs::create_dir(&files).expect("our own folder");
    let other = folder.path("fs.socket");
    let _other = Daemon::folder(&other, &files);
    refused(
        "--vhost-user-blk",
        &name(&other),
        "it serves another kind of device",
    );
    let qcow2 = qcow2(&folder, DISK_BLOCKS * BLOCK_BYTES);
    refused("--disk", &name(&qcow2), "is in qcow2 format");
}

#[test]
fn a_disk_of_another_machine_is_refused() {
    let folder = Folder::new();
    let (socket, image) = (folder.path("socket"), folder.disk("disk", DISK_BLOCKS));
    let _daemon = Daemon::raw(&socket, &image);
    let mut first = guest_with_disk(&socket, "", 0).end("hang").start();
    first.wait_for("\"done\"");
    let second = guest_with_disk(&socket, "", 0).run();
    second.assert_ended(1, "the vhost-user back end at");
    drop(first);
}

/// A folder of the host with a tree in it, as the guest expects it.
fn tree(folder: &Folder, files: u64) -> PathBuf {
    let root = folder.path("files");
    let mut bytes = Vec::new();
    for number in 0..files {
        let path = root.join(format!("host/{}/{number}", number / 100));
        fs::create_dir_all(path.parent().expect("it has one")).expect("our own folder");
        bytes.resize(stream::file_words(number) * stream::WORD_BYTES, 0);
        stream::fill(&mut bytes, stream::FROM_HOST, stream::file_start(number));
        fs::write(&path, &bytes).expect("our own folder");
    }
    root
}

fn guest_with_share(socket: &Path, plan: &str) -> Guest {
    guest_with("--fs", &format!("{},tag=files", socket.display()))
        .cmdline(&format!("coopvirt.share=files,{plan}"))
}

#[test]
fn trees_of_files_are_the_same_on_both_sides() {
    let (files, limit): (u64, _) = if is_long() {
        (10_000, LIMIT * 12)
    } else {
        (200, LIMIT * 2)
    };
    let folder = Folder::new();
    let (socket, root) = (folder.path("socket"), tree(&folder, files));
    let _daemon = Daemon::folder(&socket, &root);
    let outcome = guest_with_share(&socket, &files.to_string())
        .limit(limit)
        .run();
    eprintln!("{}", outcome.record("share"));
    outcome.assert_powered_off();
    assert_eq!(outcome.record("share")["ok"], true);
    for number in 0..files {
        let path = root.join(format!("guest/{}/{number}", number / 100));
        let bytes = fs::read(&path).expect("the guest has written it");
        let wrong = stream::first_wrong(&bytes, stream::FROM_GUEST, stream::file_start(number));
        assert_eq!(wrong, None, "{}", path.display());
        assert_eq!(
            bytes.len(),
            stream::file_words(number) * stream::WORD_BYTES,
            "{}",
            path.display()
        );
    }
}

#[test]
fn a_folder_whose_daemon_is_gone_fails_and_the_machine_goes_on() {
    let folder = Folder::new();
    let (socket, root) = (folder.path("socket"), tree(&folder, 10));
    let daemon = Daemon::folder(&socket, &root);
    let mut running = guest_with_share(&socket, "10,lost").start();
    running.wait_for("\"share\"");
    daemon.kill();
    let outcome = running.finish();
    assert_powered_off(&outcome);
    assert_eq!(outcome.record("share")["ok"], true);
    // ENOTCONN.
    assert_eq!(outcome.record("share-lost")["errno"], 107);
    assert!(
        outcome.stderr.contains("its back end is gone"),
        "{}",
        outcome.stderr
    );
}
