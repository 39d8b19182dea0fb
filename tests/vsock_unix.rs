//! Sockets between guest and host by this program and UNIX sockets, without vhost-vsock: connections
//! opened, used and closed in both directions, every word checked, with nothing left behind; data that is
//! more than either side's buffers; a port where nobody listens, and peers that die.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use coopvirt::virtio::VsockCounts;
use coopvirt_spec::stream;
use coopvirt_tests::ctl::metrics;
use coopvirt_tests::files::Folder;
use coopvirt_tests::lab::MODULE_KERNEL;
use coopvirt_tests::{Guest, Image};
use rustix::process::Signal;

const CID: u32 = 42;
const PORT: u32 = 5042;
/// Bytes of a connection each way, if a test does not say.
const MESSAGE_BYTES: usize = 64;
const PIECE_BYTES: usize = 64 << 10;
/// How long the guest may take to come, which boots first, and to answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a process allocates once, it has allocated after so many connections.
const WARM: u64 = 100;
/// Growth of the VMM's memory that is noise; a leak of one KiB with each connection is twice as much.
const NOISE_KIB: u64 = 900;
/// The last connections may still be closing for so long.
const LINGER: Duration = Duration::from_secs(30);

/// Connections each way.
fn connections() -> u64 {
    if std::env::var_os("COOPVIRT_LONG").is_some() {
        10_000
    } else {
        1_000
    }
}

/// A guest's sockets on the host: the one that is listened to, and who listens on `PORT`.
struct Sockets {
    folder: Folder,
    path: PathBuf,
    listener: UnixListener,
    /// Bytes of a connection each way.
    bytes: usize,
}

impl Sockets {
    fn new(bytes: usize) -> Self {
        let folder = Folder::new();
        let path = folder.path("vm.vsock");
        let listener = UnixListener::bind(folder.path(&format!("vm.vsock_{PORT}")));
        Self {
            path,
            listener: listener.expect("a new folder"),
            folder,
            bytes,
        }
    }

    fn control(&self) -> PathBuf {
        self.folder.path("control")
    }

    /// A guest on a host where nobody has vhost-vsock.
    fn guest(&self, plan: &str) -> Guest {
        let option = format!("cid={CID},socket={}", self.path.display());
        let hide = "mount --bind /dev/null /dev/vhost-vsock; exec \"$@\"";
        Guest::with_kernel(MODULE_KERNEL, Image::Vmlinux)
            .prefix(["unshare", "-m", "sh", "-ec", hide, "sh"])
            .arguments(["--vsock", &option])
            .arguments(["--control", &self.control().display().to_string()])
            .cmdline(&format!("coopvirt.vsock={PORT},{plan}"))
            .end("hang")
            .limit(Duration::from_secs(1800))
    }

    fn say(&self, connection: &mut UnixStream, number: u64) {
        self.pieces(number).for_each(|(first, mut piece)| {
            stream::fill(&mut piece, stream::FROM_HOST, first);
            connection.write_all(&piece).expect("the guest takes it");
        });
    }

    #[track_caller]
    fn hear(&self, connection: &mut UnixStream, number: u64) {
        self.pieces(number).for_each(|(first, mut piece)| {
            connection.read_exact(&mut piece).expect("the guest speaks");
            let wrong = stream::first_wrong(&piece, stream::FROM_GUEST, first);
            assert_eq!(wrong, None, "connection {number}");
        });
    }

    /// A connection's words, piece by piece: the first word of each, and a buffer for it.
    fn pieces(&self, number: u64) -> impl Iterator<Item = (u64, Vec<u8>)> {
        let (bytes, words) = (self.bytes, (self.bytes / stream::WORD_BYTES) as u64);
        (0..bytes).step_by(PIECE_BYTES).map(move |at| {
            let piece = vec![0; PIECE_BYTES.min(bytes - at)];
            (number * words + (at / stream::WORD_BYTES) as u64, piece)
        })
    }

    /// Takes a connection of the guest's, and answers it until it ends.
    #[track_caller]
    fn answer(&self, number: u64) {
        let mut connection = self.accept();
        self.hear(&mut connection, number);
        self.say(&mut connection, number);
        let more = connection.read(&mut [0]).expect("the guest closes it");
        assert_eq!(more, 0, "connection {number}");
    }

    #[track_caller]
    fn accept(&self) -> UnixStream {
        let (connection, _) = self.listener.accept().expect("the guest comes");
        connection
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket");
        connection
            .set_write_timeout(Some(PATIENCE))
            .expect("a socket");
        connection
    }

    /// Opens a connection to the guest.
    #[track_caller]
    fn call(&self, number: u64) {
        let (mut connection, answer) = ask(&self.path, PORT);
        assert!(answer.starts_with("OK "), "connection {number}: {answer:?}");
        self.say(&mut connection, number);
        self.hear(&mut connection, number);
    }

    fn counts(&self) -> VsockCounts {
        metrics(&self.control()).vsock.expect("a socket device")
    }

    /// Its counts as soon as no connection is left.
    fn settled_counts(&self) -> VsockCounts {
        let started = Instant::now();
        loop {
            let counts = self.counts();
            if counts.connections == 0 || started.elapsed() > LINGER {
                return counts;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Asks for a port of the guest's: the connection, and the line that comes back or nothing.
fn ask(path: &Path, port: u32) -> (UnixStream, String) {
    let mut connection = UnixStream::connect(path).expect("the VMM listens");
    connection
        .set_read_timeout(Some(PATIENCE))
        .expect("a socket");
    connection
        .set_write_timeout(Some(PATIENCE))
        .expect("a socket");
    let asked = connection.write_all(format!("CONNECT {port}\n").as_bytes());
    asked.expect("the VMM listens");
    let mut answer = String::new();
    let mut byte = [0];
    while matches!(connection.read(&mut byte), Ok(1)) && byte != *b"\n" {
        answer.push(byte[0].into());
    }
    (connection, answer)
}

#[test]
fn connections_both_ways_leave_nothing_behind() {
    let (sockets, connections) = (Sockets::new(MESSAGE_BYTES), connections());
    // With all memory of the guest present, only the VMM's own can grow.
    let guest = sockets.guest(&format!("{connections},0"));
    let mut running = guest.arguments(["--prefault"]).start();
    let mut before = (0, 0);
    let started = Instant::now();
    for number in 0..connections {
        sockets.answer(number);
        if number == WARM {
            // What the control socket allocates once, too.
            sockets.counts();
            before = (running.open_files(""), running.resident_kib());
        }
    }
    let (to_host, started) = (started.elapsed(), Instant::now());
    for number in 0..connections {
        sockets.call(number);
    }
    let to_guest = started.elapsed();
    running.wait_for("\"vsock\"");
    running.wait_for("\"done\"");
    let counts = sockets.settled_counts();
    let started = Instant::now();
    // A connection of `ctl` may still be closing too.
    while running.open_files("") > before.0 && started.elapsed() < LINGER {
        thread::sleep(Duration::from_millis(100));
    }
    let after = (running.open_files(""), running.resident_kib());
    running.signal(Signal::TERM);
    let outcome = running.finish();
    let record = outcome.record("vsock");
    eprintln!(
        "{record}\n{connections} connections to the host in {to_host:.1?}, to the guest in {to_guest:.1?}\n\
         open files and RSS (KiB) of the VMM after {WARM} connections {before:?}, after all {after:?}\n{counts:?}"
    );
    assert_eq!(outcome.status(), 128 + 15, "{}", outcome.stderr);
    assert_eq!(record["ok"], true, "{record}");
    assert_eq!(record["to_host"], connections);
    assert_eq!(record["to_guest"], connections);
    let expected = VsockCounts {
        opened_by_guest: connections,
        opened_by_host: connections,
        ..VsockCounts::default()
    };
    assert_eq!(counts, expected);
    // The hundredth was still there when they were counted, or had just gone.
    assert!(after.0 <= before.0, "open files {before:?} {after:?}");
    assert!(after.1 <= before.1 + NOISE_KIB, "{before:?} {after:?}");
    assert!(!sockets.path.exists(), "the socket goes with the machine");
}

#[test]
fn data_beyond_all_buffers_then_a_refused_port_and_peers_that_die() {
    // 4 MiB each way are 32 windows of the device's and 16 of Linux's.
    let sockets = Sockets::new(4 << 20);
    let mut running = sockets.guest(&format!("3,0,{}", sockets.bytes)).start();
    for number in 0..3 {
        sockets.answer(number);
    }
    for number in 0..3 {
        sockets.call(number);
    }
    // The guest speaks until this dies.
    let mut last = sockets.accept();
    let mut some = vec![0; 100_000];
    last.read_exact(&mut some).expect("the guest speaks");
    drop(last);
    running.wait_for("\"vsock\"");
    running.wait_for("\"done\"");
    // Nobody listens there any more.
    let (_, answer) = ask(&sockets.path, PORT);
    assert_eq!(answer, "");
    let counts = sockets.settled_counts();
    running.signal(Signal::TERM);
    let outcome = running.finish();
    let record = outcome.record("vsock");
    eprintln!("{record}\n{counts:?}");
    assert_eq!(record["ok"], true, "{record}");
    assert_eq!(record["refused_by"], "ConnectionReset");
    let lost_by = record["lost_by"].as_str().unwrap_or_default();
    assert!(
        ["BrokenPipe", "ConnectionReset"].contains(&lost_by),
        "{record}"
    );
    assert_eq!((counts.connections, counts.refused), (0, 2));
    assert_eq!((counts.opened_by_guest, counts.opened_by_host), (4, 3));
}

#[test]
fn a_driver_that_comes_and_goes() {
    let sockets = Sockets::new(MESSAGE_BYTES);
    let mut running = sockets.guest("20,5").cpus(2).start();
    for number in 0..20 {
        sockets.answer(number);
    }
    for number in 0..20 {
        sockets.call(number);
    }
    running.wait_for("\"vsock\"");
    running.wait_for("\"done\"");
    assert_eq!(sockets.settled_counts().connections, 0);
    running.signal(Signal::TERM);
    let outcome = running.finish();
    assert_eq!(outcome.record("vsock")["ok"], true);
    assert_eq!(outcome.record("vsock")["to_guest"], 20);
}
