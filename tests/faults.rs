//! Storage that fails under a running guest: an image whose file system is full or that was cut off, a block device
//! that cannot read or write. The guest sees errors and goes on, the machine stays and says so, and when the storage is
//! mended the guest reads and writes again.
//!
//! Needs root, as the lab has it: a small tmpfs is mounted, and a loop device is the block device.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use coopvirt_tests::files::{Folder, LoopDevice};
use coopvirt_tests::{tools, Running};
use rustix::process::Signal;

const DISK_BYTES: u64 = 64 << 20;
/// Room for less than half of the disk, which is what the guest writes to.
const ROOM: &str = "24m";
const CHUNK: usize = 1 << 20;
const ENGINES: [&str; 2] = ["sync", "uring"];
const LIMIT: Duration = Duration::from_secs(300);

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{program} can be run: {error}"));
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A file system with little room, and a sparse image on it.
struct Small {
    folder: Folder,
}

impl Small {
    fn new() -> Self {
        let folder = Folder::new();
        let at = folder.path("");
        let at = at.to_str().expect("a plain name");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={ROOM}"), "small", at],
        );
        let small = Self { folder };
        let image = File::create(small.image()).expect("our own file system");
        image.set_len(DISK_BYTES).expect("a sparse file");
        small
    }

    fn image(&self) -> PathBuf {
        self.folder.path("disk")
    }

    /// Leaves no room.
    fn fill(&self) {
        let mut file = File::create(self.folder.path("filler")).expect("our own file system");
        for len in [CHUNK, 4096] {
            while file.write_all(&vec![1; len]).is_ok() {}
        }
    }

    /// Gives the room back.
    fn empty(&self) {
        fs::remove_file(self.folder.path("filler")).expect("it is there");
    }

    /// Cuts the image off, or gives it its length again.
    fn set_len(&self, len: u64) {
        let image = OpenOptions::new().write(true).open(self.image());
        let image = image.expect("our own file");
        image.set_len(len).expect("a sparse file");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let at = self.folder.path("");
        let _ = Command::new("umount").arg("-l").arg(at).status();
    }
}

/// A guest that reads and writes the disk for ever.
fn start(disk: &str, engine: &str) -> Running {
    tools::guest("faults")
        .arguments(["--disk", &format!("{disk},io={engine}")])
        .limit(LIMIT)
        .start()
}

fn record(what: &str, went_well: bool) -> String {
    format!(r#""what":"{what}","went_well":{went_well}"#)
}

/// Ends it; returns what the machine said on standard error, but for how it ended.
fn end(running: Running) -> Vec<String> {
    running.signal(Signal::TERM);
    let outcome = running.finish();
    assert_eq!(outcome.status(), 128 + 15, "{}", outcome.stderr);
    let lines = outcome.stderr.lines().map(String::from);
    let lines = lines.filter(|line| !line.contains("signal")).collect();
    eprintln!("{lines:#?}");
    lines
}

/// All lines are of this disk and say this, and they are few.
#[track_caller]
fn assert_told(lines: &[String], disk: &str, what: &str) {
    assert!((1..=30).contains(&lines.len()), "{lines:#?}");
    let is_such = |line: &String| line.starts_with("coopvirt: ") && line.contains(disk);
    assert!(lines.iter().all(is_such), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains(what)), "{lines:#?}");
}

#[test]
fn full_file_system() {
    for engine in ENGINES {
        let small = Small::new();
        let disk = small.image().display().to_string();
        let mut running = start(&disk, engine);
        running.wait_for(&record("write", true));
        small.fill();
        running.wait_for(&record("write", false));
        assert!(
            !running.text().contains(&record("read", false)),
            "{}",
            running.text()
        );
        small.empty();
        running.wait_for_times(&record("write", true), 2);
        assert_told(
            &end(running),
            &disk,
            "a write failed: No space left on device",
        );
    }
}

#[test]
fn image_that_was_cut_off() {
    for engine in ENGINES {
        let small = Small::new();
        let disk = small.image().display().to_string();
        let mut running = start(&disk, engine);
        running.wait_for(&record("read", true));
        small.set_len(4096);
        running.wait_for(&record("read", false));
        small.set_len(DISK_BYTES);
        running.wait_for_times(&record("read", true), 2);
        assert_told(&end(running), &disk, "a read failed");
    }
}

#[test]
fn block_device_that_cannot_read() {
    for engine in ENGINES {
        let small = Small::new();
        let device = LoopDevice::over(&small.image());
        let mut running = start(device.name(), engine);
        running.wait_for(&record("read", true));
        running.wait_for(&record("write", true));
        small.set_len(4096);
        running.wait_for(&record("read", false));
        small.set_len(DISK_BYTES);
        running.wait_for_times(&record("read", true), 2);
        assert_told(
            &end(running),
            device.name(),
            "a read failed: Input/output error",
        );
    }
}

/// The host keeps what is written in memory for a while: what fails is the flush.
#[test]
fn block_device_that_cannot_write() {
    for engine in ENGINES {
        let small = Small::new();
        let device = LoopDevice::over(&small.image());
        let mut running = start(device.name(), engine);
        running.wait_for(&record("write", true));
        small.fill();
        running.wait_for(&record("write", false));
        small.empty();
        running.wait_for_times(&record("write", true), 2);
        assert_told(&end(running), device.name(), "failed: ");
    }
}
