//! Debian's iperf3 both ways over a tap, by the kernel (vhost-net) and in-process; 20 seconds each where `COOPVIRT_LONG`
//! is set. That data arrives as it was sent is `net.rs`'s part; what it costs beside QEMU, that of `benches/net`.
//!
//! Needs root, as the lab has it: taps are made and removed here.

use std::time::Duration;

use coopvirt_tests::tap::Tap;
use coopvirt_tests::tools;
use rustix::process::Signal;

fn seconds() -> u64 {
    match std::env::var_os("COOPVIRT_LONG") {
        Some(_) => 20,
        None => 4,
    }
}

#[track_caller]
fn both_ways(network: u8, options: &str) {
    let tap = Tap::up(network, &[]);
    let mut running = tools::guest("iperf")
        .cmdline(&format!("{}/24", tap.guest()))
        .cpus(2)
        .arguments(["--net", &format!("tap={},{options}", tap.name)])
        .limit(Duration::from_secs(300))
        .start();
    running.wait_for("\"ready\"");
    running.wait_for("Server listening");
    for from_guest in [false, true] {
        let report = tools::iperf3(&tap.guest(), seconds(), from_guest);
        let way = if from_guest { "from" } else { "to" };
        let received = report["end"]["sum_received"]["bytes"].as_u64();
        let received = received.expect("bytes that came");
        let retransmits = &report["end"]["sum_sent"]["retransmits"];
        let mib = received >> 20;
        eprintln!(
            "{options}: {mib} MiB {way} the guest in {} s, {retransmits} segments again",
            seconds()
        );
        assert!(mib > 0, "{report}");
    }
    running.signal(Signal::TERM);
    let outcome = running.finish();
    assert_eq!(outcome.status(), 128 + 15, "{}", outcome.stderr);
    assert_eq!(outcome.record("ready")["queues"], 2);
}

#[test]
fn by_vhost() {
    both_ways(31, "vhost=on");
}

#[test]
fn in_process() {
    both_ways(32, "vhost=off");
}
