//! Sockets between guest and host by vhost-vsock: connections opened, used and closed in both
//! directions, every word checked, with nothing left behind; and CIDs and hosts that cannot be used.
//!
//! Needs root and the module vhost_vsock, as the lab has them.

use std::fs;
use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use coopvirt_spec::stream;
use coopvirt_tests::files::{set_mode, Folder};
use coopvirt_tests::lab::MODULE_KERNEL;
use coopvirt_tests::{Guest, Image};
use rustix::process::Signal;
use socket2::{Domain, SockAddr, Socket, Type};

const MESSAGE_BYTES: usize = 64;
/// How long the guest may take to come, which boots first, and to answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a process allocates once, it has allocated after so many connections.
const WARM: u64 = 100;
/// Growth of the VMM's memory that is noise.
const NOISE_KIB: u64 = 256;
/// A side that closes first waits for the other's answer so long at most.
const LINGER: Duration = Duration::from_secs(15);

/// Connections each way.
fn connections() -> u64 {
    if std::env::var_os("COOPVIRT_LONG").is_some() {
        10_000
    } else {
        500
    }
}

fn guest(cid: u32) -> Guest {
    Guest::with_kernel(MODULE_KERNEL, Image::Vmlinux).arguments(["--vsock", &cid.to_string()])
}

fn socket() -> Socket {
    let socket = Socket::new(Domain::VSOCK, Type::STREAM, None).expect("the host has AF_VSOCK");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket.set_write_timeout(Some(PATIENCE)).expect("a socket");
    socket
}

fn listen(port: u32) -> Socket {
    let listener = socket();
    let address = SockAddr::vsock(u32::MAX, port);
    listener.bind(&address).expect("nobody else has this port");
    listener.listen(128).expect("it is bound");
    listener
}

fn first_word(number: u64) -> u64 {
    number * (MESSAGE_BYTES / stream::WORD_BYTES) as u64
}

fn say(connection: &mut Socket, number: u64) {
    let mut message = [0; MESSAGE_BYTES];
    stream::fill(&mut message, stream::FROM_HOST, first_word(number));
    connection.write_all(&message).expect("the guest takes it");
}

#[track_caller]
fn hear(connection: &mut Socket, number: u64) {
    let mut message = [0; MESSAGE_BYTES];
    connection
        .read_exact(&mut message)
        .expect("the guest speaks");
    let wrong = stream::first_wrong(&message, stream::FROM_GUEST, first_word(number));
    assert_eq!(wrong, None, "connection {number}");
}

/// Takes a connection of the guest with this CID, and answers it until it ends.
#[track_caller]
fn answer(listener: &Socket, cid: u32, number: u64) {
    let (mut connection, peer) = listener.accept().expect("the guest comes");
    assert_eq!(peer.as_vsock_address().map(|(cid, _)| cid), Some(cid));
    connection
        .set_read_timeout(Some(PATIENCE))
        .expect("a socket");
    hear(&mut connection, number);
    say(&mut connection, number);
    let more = connection.read(&mut [0]).expect("the guest closes it");
    assert_eq!(more, 0, "connection {number}");
}

/// Opens a connection to the guest with this CID.
fn call(cid: u32, port: u32, number: u64) {
    let mut connection = socket();
    let address = SockAddr::vsock(cid, port);
    connection.connect(&address).expect("the guest listens");
    say(&mut connection, number);
    hear(&mut connection, number);
}

/// Sockets of this host, of all families.
fn host_sockets() -> u64 {
    let text = fs::read_to_string("/proc/net/sockstat").expect("the kernel counts sockets");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("sockets: used "));
    let count = line.and_then(|count| count.trim().parse().ok());
    count.expect("sockets: used N")
}

#[test]
fn connections_both_ways_leave_nothing_behind() {
    let (cid, port, connections) = (42, 5042, connections());
    let sockets_before = host_sockets();
    let listener = listen(port);
    // With all memory of the guest present, only the VMM's own can grow.
    let mut running = guest(cid)
        .arguments(["--prefault"])
        .cmdline(&format!("coopvirt.vsock={port},{connections},0"))
        .end("hang")
        .limit(Duration::from_secs(1800))
        .start();
    let mut before = (0, 0);
    let started = Instant::now();
    for number in 0..connections {
        answer(&listener, cid, number);
        if number == WARM {
            before = (running.open_files(""), running.resident_kib());
        }
    }
    let (to_host, started) = (started.elapsed(), Instant::now());
    for number in 0..connections {
        call(cid, port, number);
    }
    let to_guest = started.elapsed();
    running.wait_for("\"vsock\"");
    running.wait_for("\"done\"");
    let after = (running.open_files(""), running.resident_kib());
    drop(listener);
    // The VMM has some of its own, for signals.
    let sockets_expected = sockets_before + running.open_files("socket:") as u64;
    let sockets_after = settled_host_sockets(sockets_expected);
    running.signal(Signal::TERM);
    let outcome = running.finish();
    let record = outcome.record("vsock");
    eprintln!(
        "{record}\n{connections} connections to the host in {to_host:.1?}, to the guest in {to_guest:.1?}\n\
         open files and RSS (KiB) of the VMM after {WARM} connections {before:?}, after all {after:?}\n\
         sockets of the host before {sockets_before}, expected {sockets_expected}, after {sockets_after}"
    );
    assert_eq!(outcome.status(), 128 + 15, "{}", outcome.stderr);
    assert_eq!(record["ok"], true, "{record}");
    assert_eq!(record["to_host"], connections);
    assert_eq!(record["to_guest"], connections);
    assert_eq!(before.0, after.0, "open files");
    assert!(after.1 <= before.1 + NOISE_KIB, "{before:?} {after:?}");
    assert_eq!(sockets_after, sockets_expected, "sockets of the host");
}

/// The host's sockets, as soon as there are no more than expected.
fn settled_host_sockets(expected: u64) -> u64 {
    let started = Instant::now();
    loop {
        let sockets = host_sockets();
        if sockets <= expected || started.elapsed() > LINGER {
            return sockets;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_driver_that_comes_and_goes() {
    let (cid, port) = (43, 5043);
    let listener = listen(port);
    let mut running = guest(cid)
        .cpus(2)
        .cmdline(&format!("coopvirt.vsock={port},20,5"))
        .start();
    for number in 0..20 {
        answer(&listener, cid, number);
    }
    for number in 0..20 {
        call(cid, port, number);
    }
    running.wait_for("\"vsock\"");
    let outcome = running.finish();
    outcome.assert_powered_off();
    assert_eq!(outcome.record("vsock")["ok"], true);
    assert_eq!(outcome.record("vsock")["to_guest"], 20);
}

#[test]
fn a_cid_in_use_is_refused_and_free_again_afterwards() {
    let mut first = guest(44).end("hang").start();
    first.wait_for("\"done\"");
    let outcome = guest(44).run();
    outcome.assert_ended(1, "CID 44 is in use by another virtual machine");
    assert_eq!(outcome.console, "");
    first.signal(Signal::TERM);
    assert_eq!(first.finish().status(), 128 + 15);
    guest(44).run().assert_powered_off();
}

#[test]
fn a_host_without_vhost_vsock_is_told_before_the_guest_starts() {
    let refused = |script: &str, line: &str| {
        let script = format!("{script}; exec \"$@\"");
        let outcome = guest(45)
            .prefix(["unshare", "-m", "sh", "-ec", &script, "sh"])
            .run();
        outcome.assert_ended(1, line);
        assert_eq!(outcome.console, "");
    };
    refused("mount -t tmpfs none /dev", "modprobe vhost_vsock");
    let folder = Folder::new();
    let file = folder.file("vhost-vsock", b"");
    let hide = format!("mount --bind '{}' /dev/vhost-vsock", file.display());
    refused(&hide, "/dev/vhost-vsock cannot be used");
    set_mode(&file, 0);
    let hide = format!("{hide}; set -- setpriv --bounding-set=-all --inh-caps=-all \"$@\"");
    refused(&hide, "no permission to open /dev/vhost-vsock");
}
