//! Networks: a guest and this host exchange data over TCP through a tap, every word checked; and
//! taps that are missing, taken, not permitted, or removed while a guest uses them.
//!
//! Needs root, as the lab has it: taps are made and removed here.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use coopvirt::account::report::ExitReport;
use coopvirt::virtio::DeviceCounts;
use coopvirt_spec::stream;
use coopvirt_tests::files::Folder;
use coopvirt_tests::lab::MODULE_KERNEL;
use coopvirt_tests::tap::{script, Tap};
use coopvirt_tests::{Guest, Image, Outcome};

const CONNECTIONS: u32 = 4;
const MIB_EACH: u64 = 2;
const LIMIT: Duration = Duration::from_secs(300);

/// Starts a server on the tap for as long as this process lives; returns what the guest is told on
/// its command line.
fn serve(tap: &Tap) -> String {
    let address = format!("{}:0", tap.host());
    let listener = TcpListener::bind(address).expect("the tap has this address");
    let server = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || {
                if let Err(error) = answer(connection) {
                    eprintln!("the host's side of a connection: {error}");
                }
            });
        }
    });
    format!(
        "coopvirt.net={}/24,{server},{MIB_EACH},{CONNECTIONS}",
        tap.guest()
    )
}

/// Takes the guest's stream and checks it, then sends as much. A wrong word ends the connection
/// before that, which the guest reports.
fn answer(mut connection: TcpStream) -> io::Result<()> {
    let mut length = [0; 8];
    connection.read_exact(&mut length)?;
    let words = u64::from_le_bytes(length) / stream::WORD_BYTES as u64;
    let mut buffer = [0; 4096];
    let step = buffer.len() / stream::WORD_BYTES;
    for first in (0..words).step_by(step) {
        connection.read_exact(&mut buffer)?;
        if let Some(word) = stream::first_wrong(&buffer, stream::FROM_GUEST, first) {
            return Err(io::Error::other(format!(
                "word {word} of the guest is wrong"
            )));
        }
    }
    for first in (0..words).step_by(step) {
        stream::fill(&mut buffer, stream::FROM_HOST, first);
        connection.write_all(&buffer)?;
    }
    Ok(())
}

fn guest(net: &str) -> Guest {
    Guest::with_kernel(MODULE_KERNEL, Image::Vmlinux)
        .arguments(["--net", net])
        .limit(LIMIT)
}

/// Checks that the guest exchanged everything, and returns its record.
#[track_caller]
fn assert_exchanged(outcome: &Outcome) -> serde_json::Value {
    let record = outcome.record("net").clone();
    eprintln!("{record}\n{}", outcome.stderr);
    assert_eq!(record["ok"], true, "{record}");
    let bytes = (MIB_EACH << 20) * u64::from(CONNECTIONS);
    assert_eq!(record["bytes_each_way"], bytes);
    record
}

/// A guest with 2 vCPUs and what `more` says of its network.
#[track_caller]
fn exchange(network: u8, more: &str) -> serde_json::Value {
    let tap = Tap::up(network, &[]);
    let net = format!("tap={}{more}", tap.name);
    let outcome = guest(&net).cpus(2).cmdline(&serve(&tap)).run();
    outcome.assert_powered_off();
    assert_exchanged(&outcome)
}

#[test]
fn data_by_vhost() {
    let record = exchange(1, ",vhost=on");
    assert_eq!(record["transmit_queues"], 2);
}

#[test]
fn data_in_process() {
    let record = exchange(2, ",vhost=off");
    assert_eq!(record["transmit_queues"], 2);
}

#[test]
fn data_by_vhost_without_offloads() {
    exchange(3, ",vhost=on,offloads=off");
}

#[test]
fn data_in_process_without_offloads() {
    exchange(4, ",vhost=off,offloads=off");
}

/// The kernel polls a queue for a while before it asks the guest to notify.
#[test]
fn data_by_vhost_that_polls() {
    exchange(20, ",vhost=on,busy-poll=50");
}

/// What the device of such an exchange counted, in-process.
#[track_caller]
fn counts_in_process(network: u8, more: &str, mode: &[&str]) -> DeviceCounts {
    let tap = Tap::up(network, &[]);
    let folder = Folder::new();
    let report = folder.path("exits.json");
    let outcome = guest(&format!("tap={},vhost=off{more}", tap.name))
        .cpus(2)
        .cmdline(&serve(&tap))
        .arguments(mode)
        .arguments(["--exits".into(), report.clone()])
        .run();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    assert_exchanged(&outcome);
    let text = std::fs::read(report).expect("a report");
    let report: ExitReport = serde_json::from_slice(&text).expect("the report reads back");
    let net = report.devices["virtio-net 0"];
    eprintln!("{net:?}");
    net
}

/// The polling thread owns the sending queues while packets come.
#[test]
fn data_in_process_by_the_polling_thread() {
    let net = counts_in_process(21, "", &["--mode", "coop", "--sidecore", "always"]);
    // How many notifies that spares depends on how much of a CPU the thread gets: polled.rs gives it one of its own.
    assert!(net.take_overs > 0 && net.polled_finds > 0, "{net:?}");
}

/// The I/O thread looks for more by itself for a while: by default in `coop` mode, and elsewhere if it is told to. No
/// polling thread takes its queues.
#[test]
fn data_in_process_by_an_io_thread_that_lingers() {
    for (network, more, mode) in [(22, "", "coop"), (23, ",busy-poll=200", "kvm")] {
        let net = counts_in_process(network, more, &["--mode", mode]);
        assert!(
            net.take_overs == 0 && net.polled_finds > 0,
            "{mode}: {net:?}"
        );
    }
    let net = counts_in_process(24, "", &["--mode", "kvm"]);
    assert_eq!(net.polled_finds, 0, "stock, if nobody says: {net:?}");
}

#[test]
fn one_queue_pair_of_many() {
    let record = exchange(5, ",queues=1,vhost=off");
    assert_eq!(record["transmit_queues"], 1);
}

/// The kernel's way is the default, and where it is not there the guest runs all the same.
#[test]
fn without_vhost_the_process_does_it_and_says_so() {
    let folder = Folder::new();
    let empty = folder.file("vhost-net", b"");
    let hide = format!(
        "mount --bind '{}' /dev/vhost-net; exec \"$@\"",
        empty.display()
    );
    let prefix = ["unshare", "-m", "sh", "-ec", &hide, "sh"];
    let tap = Tap::up(6, &[]);
    let net = format!("tap={}", tap.name);
    let outcome = guest(&net).prefix(prefix).cmdline(&serve(&tap)).run();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    assert_exchanged(&outcome);
    let notes = outcome.stderr.matches("/dev/vhost-net cannot be used");
    assert_eq!(notes.count(), 1, "{}", outcome.stderr);

    let outcome = guest(&format!("{net},vhost=on")).prefix(prefix).run();
    outcome.assert_ended(1, "or leave vhost=on out");
}

#[test]
fn a_tap_with_one_queue() {
    // Made by hand: the script makes taps with many.
    let name = "cvtest7";
    let ip = |words: &str| {
        let status = Command::new("ip").args(words.split(' ')).status();
        assert!(status.expect("ip can be run").success(), "{words}");
    };
    ip(&format!("tuntap add dev {name} mode tap"));
    let tap = Tap {
        name: name.into(),
        network: 7,
    };
    ip(&format!("addr add 10.213.7.1/24 dev {name}"));
    ip(&format!("link set {name} up"));
    let outcome = guest(&format!("tap={name},queues=2")).run();
    outcome.assert_ended(1, "has one queue, not 2");
    let outcome = guest(&format!("tap={name}"))
        .cpus(2)
        .cmdline(&serve(&tap))
        .run();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("the guest gets one queue pair"),
        "{}",
        outcome.stderr
    );
    let record = assert_exchanged(&outcome);
    assert_eq!(record["transmit_queues"], 1);
}

#[test]
fn taps_that_cannot_be_used() {
    let refused = |net: &str, prefix: &[&str], line: &str| {
        let outcome = guest(net).prefix(prefix.iter().copied()).run();
        outcome.assert_ended(1, line);
        assert_eq!(outcome.console, "");
    };
    refused("tap=cvnone", &[], "there is no network interface cvnone");
    refused("tap=lo", &[], "lo is no tap");
    let tap = Tap::up(8, &["--user", "nobody"]);
    let unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let net = format!("tap={}", tap.name);
    refused(&net, &unprivileged, "no permission to use tap cvtest8");

    let mut first = guest(&net).end("hang").start();
    first.wait_for("\"done\"");
    refused(&net, &[], "tap cvtest8 is in use by another program");
    first.signal(rustix::process::Signal::TERM);
    let outcome = first.finish();
    assert_eq!(outcome.status(), 128 + 15, "{}", outcome.stderr);
    // Given back at once.
    guest(&net).run().assert_powered_off();
}

#[track_caller]
fn removal(network: u8, more: &str) {
    let tap = Tap::up(network, &[]);
    let net = format!("tap={}{more}", tap.name);
    let words = format!("{},down", serve(&tap));
    let mut running = guest(&net).cpus(2).cmdline(&words).start();
    running.wait_for("\"net\"");
    let output = script(&["down", &tap.name]);
    assert!(output.status.success(), "{output:?}");
    let outcome = running.finish();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    assert_exchanged(&outcome);
    assert_eq!(outcome.record("link")["down"], true);
    outcome.done();
    let notes = outcome.stderr.matches("was removed").count();
    assert_eq!(notes, 1, "{}", outcome.stderr);
}

#[test]
fn a_removed_tap_is_a_link_that_is_down_by_vhost() {
    removal(9, ",vhost=on");
}

#[test]
fn a_removed_tap_is_a_link_that_is_down_in_process() {
    removal(10, ",vhost=off");
}
