//! The control socket on a real guest: it stands still while paused, its counts are those of the
//! report, and it is ended in both ways.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use coopvirt::account::report::ExitReport;
use coopvirt::control::metrics::{CauseSource, ExitSource, Metrics};
use coopvirt::control::State;
use coopvirt::coop::AreaCounts;
use coopvirt::machine::RunState;
use coopvirt_tests::ctl::{ctl, metrics};
use coopvirt_tests::files::Folder;
use coopvirt_tests::lab::MODULE_KERNEL;
use coopvirt_tests::{kernels, Guest, Image, Running};

const DISK_BLOCKS: u64 = 4096;
/// Above what `WATCHDOG` allows a CPU to be away without a word.
const PAUSE: Duration = Duration::from_secs(13);
/// The guest's watchdog for stuck CPUs complains after twice this, in seconds.
const WATCHDOG: &str = "watchdog_thresh=5";

fn state(socket: &Path) -> RunState {
    let text = ctl(socket, &["state", "--json"]).expect("an answer");
    let state: State = serde_json::from_str(&text).expect("a state");
    state.state
}

/// A guest of two vCPUs that does this work again and again, with a record after each round.
fn counting(work: &str, folder: &Folder, socket: &Path, exits: &Path) -> Guest {
    let disk = folder.disk("disk", DISK_BLOCKS).display().to_string();
    let (socket, exits) = (socket.display().to_string(), exits.display().to_string());
    Guest::new()
        .cpus(2)
        .works(work)
        .cmdline("coopvirt.scale=0.1 coopvirt.settle_ms=0 coopvirt.reps=100000")
        .cmdline(WATCHDOG)
        .arguments(["--disk", &disk, "--control", &socket])
        .arguments(["--exits", &exits, "--accounting", "stats"])
}

/// How many rounds the guest has counted.
fn rounds(running: &Running) -> usize {
    running.text().matches("\"work\":").count()
}

fn wait_for_more_rounds(running: &Running) {
    let before = rounds(running);
    for _ in 0..300 {
        if rounds(running) > before + 2 {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("{before} rounds, and no more of them: {}", running.text());
}

fn files() -> (Folder, PathBuf, PathBuf) {
    let folder = Folder::new();
    let (socket, exits) = (folder.path("vm.sock"), folder.path("exits.json"));
    (folder, socket, exits)
}

#[test]
fn a_paused_guest_stands_still_and_does_not_know_it() {
    let (folder, socket, exits) = files();
    // A CPU that is idle when it is paused comes back without a question.
    let mut running = counting("busy", &folder, &socket, &exits).start();
    running.wait_for("\"work\":\"busy\"");
    for length in [PAUSE, Duration::from_millis(200)] {
        wait_for_more_rounds(&running);
        assert_eq!(state(&socket), RunState::Running);
        ctl(&socket, &["pause"]).unwrap();
        assert_eq!(state(&socket), RunState::Paused);
        // What it had written is on its way out.
        thread::sleep(Duration::from_millis(500));
        let (text, before) = (running.text(), metrics(&socket));
        thread::sleep(length);
        assert_eq!(running.text(), text);
        let now = metrics(&socket);
        // Threads of the VMM's own take some CPU time.
        assert_eq!((now.vcpus, now.devices), (before.vcpus, before.devices));
        ctl(&socket, &["resume"]).unwrap();
    }
    wait_for_more_rounds(&running);
    let text = running.text();
    for complaint in ["soft lockup", "stall", "blocked for more", "as unstable"] {
        assert!(!text.contains(complaint), "{complaint}: {text}");
    }
    ctl(&socket, &["shutdown", "--now"]).unwrap();
    assert_eq!(running.finish().status(), 0);
}

#[test]
fn metrics_are_the_counts_of_the_report() {
    let (folder, socket, exits) = files();
    let mut running = counting("read1", &folder, &socket, &exits).start();
    running.wait_for("\"work\":\"read1\"");
    let early = metrics(&socket);
    wait_for_more_rounds(&running);
    ctl(&socket, &["pause"]).unwrap();
    let metrics = metrics(&socket);
    eprintln!("{}", ctl(&socket, &["metrics"]).unwrap());
    ctl(&socket, &["shutdown", "--now"]).unwrap();
    let outcome = running.finish();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("stopped by the user"));
    assert!(!socket.exists());

    let report: ExitReport = serde_json::from_slice(&std::fs::read(&exits).unwrap()).unwrap();
    assert_eq!(metrics.vcpus.len(), 2);
    for (vcpu, stats) in metrics.vcpus.iter().zip(&report.vcpu_stats) {
        assert_eq!(vcpu.source, ExitSource::KvmStats);
        assert_eq!(Some(vcpu.exits), stats.exits());
        assert_eq!(vcpu.exits_by_reason["halt"], stats.values["halt_exits"]);
    }
    let returns: u64 = metrics.vcpus.iter().map(|vcpu| vcpu.returns).sum();
    assert_eq!(returns, report.userspace_exits.values().sum::<u64>());

    let device = |metrics: &Metrics, name: &str| {
        let found = metrics.devices.iter().find(|device| device.device == name);
        found.unwrap_or_else(|| panic!("no {name}")).counts
    };
    let blk = metrics
        .devices
        .iter()
        .find(|device| device.latency.is_some());
    let blk = blk.expect("a disk is timed");
    let latency = blk.latency.as_ref().expect("just found");
    eprintln!("{latency:?}");
    assert_eq!(blk.device, "virtio-blk");
    assert_eq!(latency.count(), blk.counts.requests);
    assert!(latency.sum_ns > 0);
    // What came to userspace has a cause each.
    assert_eq!(metrics.causes.source, CauseSource::Vmm);
    assert_eq!(metrics.causes.by_cause, report.userspace_exits);
    assert!(
        metrics.thread_cpu_ns["vcpu0"] > 0,
        "{:?}",
        metrics.thread_cpu_ns
    );
    // Each read is one request of 4 KiB, header and status, and in a guest that waits for each one
    // a notify.
    let (before, after) = (device(&early, "virtio-blk"), device(&metrics, "virtio-blk"));
    let requests = after.requests - before.requests;
    assert!(requests > 0);
    let per_request = |before: u64, after: u64| (after - before) as f64 / requests as f64;
    let bytes = per_request(before.bytes_to_guest, after.bytes_to_guest);
    assert!((bytes - 4097.0).abs() < 1.0, "{bytes} bytes per read");
    let bytes = per_request(before.bytes_from_guest, after.bytes_from_guest);
    assert!((bytes - 16.0).abs() < 1.0, "{bytes} bytes per header");
    let notifies = per_request(before.notifies, after.notifies);
    assert!((0.9..1.01).contains(&notifies), "{notifies} per read");
    let interrupts = per_request(before.interrupts, after.interrupts);
    assert!((0.9..1.01).contains(&interrupts), "{interrupts} per read");
    // All that came on the console came through the device.
    let console = device(&metrics, "virtio-console");
    assert_eq!(console.bytes_from_guest, outcome.console_bytes.len() as u64);
}

#[test]
fn metrics_of_a_cooperative_guest_are_the_counts_of_the_report() {
    let (_folder, socket, exits) = files();
    let text = |path: &Path| path.display().to_string();
    let mut running = Guest::with_kernel(MODULE_KERNEL, Image::Vmlinux)
        .cpus(2)
        .works("sleep,pipe")
        .cmdline("coopvirt.module= coopvirt.scale=0.1 coopvirt.settle_ms=0 coopvirt.reps=100000")
        .arguments(["--mode", "coop", "--control", &text(&socket)])
        .arguments(["--exits", &text(&exits), "--accounting", "stats"])
        .start();
    running.wait_for("\"work\":\"pipe\"");
    let early = metrics(&socket)
        .coop
        .expect("the machine has the interface");
    wait_for_more_rounds(&running);
    ctl(&socket, &["pause"]).unwrap();
    // A last turn of the polling thread.
    thread::sleep(Duration::from_millis(500));
    let metrics = metrics(&socket);
    eprintln!("{}", ctl(&socket, &["metrics"]).unwrap());
    ctl(&socket, &["shutdown", "--now"]).unwrap();
    assert_eq!(running.finish().status(), 0);

    let report: ExitReport = serde_json::from_slice(&std::fs::read(&exits).unwrap()).unwrap();
    let (coop, report) = (metrics.coop.unwrap(), report.coop.unwrap());
    assert_eq!(coop.totals.guest, report.guest);
    assert_eq!(coop.totals.host, report.host);
    assert_eq!(coop.totals.operations, report.operations);
    assert_eq!(coop.totals.refused, report.refused);
    assert_eq!(coop.areas.len(), 2);
    for (area, early) in coop.areas.iter().zip(&early.areas) {
        assert!(area.is_registered && !area.is_broken, "{area:?}");
        let published = |area: &AreaCounts| area.guest["deadline_published"];
        assert!(published(area) > published(early), "{early:?}, {area:?}");
    }
    let all: u64 = coop.areas.iter().map(|area| area.guest["ipi_elided"]).sum();
    assert_eq!(all, coop.totals.guest["ipi_elided"]);
    assert!(metrics.thread_cpu_ns.contains_key("coop-poll"));
}

#[test]
fn a_guest_that_does_not_listen_to_the_button_is_told_of() {
    let (_folder, socket, _) = files();
    let guest = Guest::new().end("hang");
    let guest = guest.arguments(["--control", &socket.display().to_string()]);
    let mut running = guest.start();
    running.wait_for("\"type\":\"done\"");
    let refused = ctl(&socket, &["shutdown"]).unwrap_err();
    assert!(refused.contains("does not listen"), "{refused}");
    ctl(&socket, &["pause"]).unwrap();
    let refused = ctl(&socket, &["shutdown"]).unwrap_err();
    assert!(refused.contains("resume it first"), "{refused}");
    // A paused machine still ends.
    ctl(&socket, &["shutdown", "--now"]).unwrap();
    let outcome = running.finish();
    outcome.assert_ended(0, "stopped by the user");
    assert!(!socket.exists());
    let refused = ctl(&socket, &["state"]).unwrap_err();
    assert!(refused.contains("could not connect"), "{refused}");
}

#[test]
fn a_guest_that_listens_to_the_button_shuts_itself_down() {
    let (folder, socket, _) = files();
    // In 32-bit mode.
    let code = [
        0x66, 0xba, 0x02, 0x06, // mov dx, PM1 enable
        0x66, 0xb8, 0x00, 0x01, // mov ax, power button
        0x66, 0xef, // out dx, ax
        0x66, 0xba, 0x00, 0x06, // 1: mov dx, PM1 status
        0x66, 0xed, // in ax, dx
        0xf6, 0xc4, 0x01, // test ah, 1
        0x74, 0xf5, // jz 1b
        0x66, 0xef, // out dx, ax: seen
        0x66, 0xba, 0x04, 0x06, // mov dx, PM1 control
        0x66, 0xb8, 0x00, 0x34, // mov ax, SLP_EN with S5
        0x66, 0xef, // out dx, ax
        0xf4, 0xeb, 0xfd, // 2: hlt; jmp 2b
    ];
    let kernel = folder.file("button", &kernels::elf(&code, true));
    let guest = Guest::with_file(&kernel).memory("16M");
    let guest = guest.arguments(["--control", &socket.display().to_string()]);
    let running = guest.start();
    let pressed = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(100));
        ctl(&socket, &["shutdown"]).is_ok()
    });
    assert!(pressed, "it never listened");
    running.finish().assert_ended(0, "powered off");
}

#[test]
fn a_machine_that_is_killed_leaves_a_socket_that_the_next_one_replaces() {
    let (_folder, socket, _) = files();
    let guest = Guest::new().end("hang");
    let guest = guest.arguments(["--control", &socket.display().to_string()]);
    let mut running = guest.start();
    running.wait_for("\"type\":\"done\"");
    drop(running);
    assert!(socket.exists());
    let refused = ctl(&socket, &["state"]).unwrap_err();
    assert!(refused.contains("could not connect"), "{refused}");
    let mut running = guest.start();
    running.wait_for("\"type\":\"done\"");
    assert_eq!(state(&socket), RunState::Running);
    ctl(&socket, &["shutdown", "--now"]).unwrap();
    let outcome = running.finish();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    assert!(outcome
        .stderr
        .contains("was left by a machine that is gone"));
}
