//! A machine that is killed while its guest writes to ext4: the journal's replay leaves a file system in which e2fsck
//! finds nothing, and each file that the guest has fsync'ed is there, byte by byte. Every kill is survived by the same
//! file system, with each back end in turn: an io_uring, one request after the other, and Debian's qemu-storage-daemon
//! (vhost-user-blk). Three kills, or twenty where `COOPVIRT_LONG` is set.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use coopvirt_tests::daemon::Daemon;
use coopvirt_tests::files::Folder;
use coopvirt_tests::{tools, Outcome};
use rustix::fs::{fcntl_lock, FlockOperation};
use rustix::process::Signal;

const DISK_BYTES: u64 = 256 << 20;
const SECTOR_BYTES: usize = 512;
const LIMIT: Duration = Duration::from_secs(300);
/// So many files more between two kills, whatever the numbers that writers count with.
const FIRST_STEP: u64 = 10_000;
/// What the kernel may take to end requests of a process that is gone.
const LET_GO: Duration = Duration::from_secs(60);

/// Sectors of each file that is on the disk, by name.
type Synced = BTreeMap<String, usize>;

fn kills() -> u64 {
    match std::env::var_os("COOPVIRT_LONG") {
        Some(_) => 20,
        None => 3,
    }
}

/// A number that is another one each time.
fn dice(below: u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::from(now.subsec_nanos()) / 7) % below
}

/// Who carries out the guest's requests.
#[derive(Clone, Copy, Debug)]
enum Engine {
    Uring,
    Sync,
    VhostUser,
}

/// The guest's disk, as an option; and the process that serves it, if it is not the VMM.
fn serve(image: &Path, engine: Engine, folder: &Folder) -> ([String; 2], Option<Daemon>) {
    let disk = |io: &str| ["--disk".into(), format!("{},io={io}", image.display())];
    match engine {
        Engine::Uring => (disk("uring"), None),
        Engine::Sync => (disk("sync"), None),
        Engine::VhostUser => {
            let socket = folder.path("disk.sock");
            let daemon = Daemon::raw(&socket, image);
            let option = ["--vhost-user-blk".into(), socket.display().to_string()];
            (option, Some(daemon))
        }
    }
}

/// Lets a guest write from this number on, kills its machine, and adds what it said that is on the disk.
fn write_and_kill(image: &Path, engine: Engine, first: u64, synced: &mut Synced) {
    let folder = Folder::new();
    let (disk, daemon) = serve(image, engine, &folder);
    let mut running = tools::guest("ext4")
        .cmdline(&first.to_string())
        .cpus(2)
        .arguments(disk)
        .limit(LIMIT)
        .start();
    running.wait_for("\"mounted\"");
    // Some files, and then any moment.
    running.wait_for("\"synced\"");
    let wait = Duration::from_millis(2000 + dice(4000));
    thread::sleep(wait);
    running.signal(Signal::KILL);
    let outcome = running.finish();
    // It goes the same way, with whatever it has on its way.
    if let Some(daemon) = daemon {
        daemon.kill();
    }
    assert_eq!(outcome.status(), 128 + 9, "{}", outcome.stderr);
    let before = synced.len();
    synced.extend(said(&outcome));
    let files = synced.len() - before;
    eprintln!(
        "{engine:?}: killed after {files} files, {} ms behind the first",
        wait.as_millis()
    );
    assert!(files > 0);
}

/// The files that the guest has said to be on the disk.
fn said(outcome: &Outcome) -> Synced {
    assert_eq!(outcome.records("error").count(), 0, "{}", outcome.console);
    let records = outcome.records("synced");
    let files = records.map(|record| {
        let sectors = record["sectors"].as_u64().expect("a number");
        let name = record["file"].as_str().expect("a name").to_owned();
        (name, usize::try_from(sectors).expect("it is small"))
    });
    files.collect()
}

/// Waits until nothing writes to the image any more: the kernel ends what a killed process had on its way, and holds
/// the image's lock until then.
fn wait_for_lock(image: &Path) {
    let file: File = OpenOptions::new()
        .write(true)
        .open(image)
        .expect("our own file");
    let started = Instant::now();
    while fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        assert!(started.elapsed() < LET_GO, "the image stays locked");
        thread::sleep(Duration::from_millis(20));
    }
}

fn e2fsck(words: &[&str], image: &Path) -> Output {
    let mut command = Command::new("e2fsck");
    let output = command.args(words).arg(image).output();
    output.expect("e2fsck can be run: apt-get install e2fsprogs")
}

/// Replays the journal, and looks for anything wrong then.
#[track_caller]
fn repair_and_check(image: &Path) {
    let replayed = e2fsck(&["-y"], image);
    let text = String::from_utf8_lossy(&replayed.stdout).into_owned();
    // 1: inodes were freed that the guest had deleted. A file system with errors would be looked at as a whole, and not be
    // called clean.
    assert!(
        matches!(replayed.status.code(), Some(0 | 1)),
        "{replayed:?}"
    );
    assert!(text.contains("clean"), "{text}");
    let checked = e2fsck(&["-f", "-n"], image);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
}

/// Takes all files out of the image and compares those that were fsync'ed.
#[track_caller]
fn assert_whole(image: &Path, synced: &Synced) {
    let folder = Folder::new();
    let target = folder.path("files");
    fs::create_dir(&target).expect("our own folder");
    let mut command = Command::new("debugfs");
    command.args(["-R", &format!("rdump / {}", target.display())]);
    let output = command
        .arg(image)
        .output()
        .expect("debugfs comes with e2fsck");
    assert!(output.status.success(), "{output:?}");
    for (name, &sectors) in synced {
        let line = format!("{name}\n").into_bytes();
        let expected: Vec<u8> = line
            .iter()
            .copied()
            .cycle()
            .take(sectors * SECTOR_BYTES)
            .collect();
        let found = fs::read(target.join(name));
        let found = found.unwrap_or_else(|error| panic!("{name} was fsync'ed: {error}"));
        assert!(
            found == expected,
            "{name} was fsync'ed with another content"
        );
    }
}

#[test]
fn what_was_fsynced_is_there_after_every_kill() {
    let folder = Folder::on_disk();
    let image = folder.file("disk", b"");
    let file = OpenOptions::new()
        .write(true)
        .open(&image)
        .expect("our own file");
    file.set_len(DISK_BYTES).expect("a sparse file");
    drop(file);
    let mut synced = Synced::new();
    let engines = [Engine::Uring, Engine::Sync, Engine::VhostUser];
    for (kill, engine) in (0..kills()).zip(engines.into_iter().cycle()) {
        write_and_kill(&image, engine, kill * FIRST_STEP, &mut synced);
        wait_for_lock(&image);
        repair_and_check(&image);
        assert_whole(&image, &synced);
    }
    eprintln!("{} files survived {} kills", synced.len(), kills());
}
