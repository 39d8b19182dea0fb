//! The balloon on a real guest: memory goes to the host and comes back, statistics say the same, and
//! a guest that runs out takes its memory back by itself.

use std::path::Path;
use std::thread;
use std::time::Duration;

use coopvirt::virtio::BalloonState;
use coopvirt_tests::ctl::ctl;
use coopvirt_tests::files::Folder;
use coopvirt_tests::lab::MODULE_KERNEL;
use coopvirt_tests::{Guest, Image, Running};

const MIB: u64 = 1 << 20;
/// What of a size may go elsewhere meanwhile: the guest's and the VMM's own needs.
const SLACK_MIB: u64 = 16;

fn balloon(socket: &Path) -> BalloonState {
    let text = ctl(socket, &["balloon", "--json"]).expect("an answer");
    serde_json::from_str(&text).expect("a balloon's state")
}

/// Waits until this holds of the balloon.
fn wait_for(socket: &Path, what: &str, holds: impl Fn(&BalloonState) -> bool) -> BalloonState {
    let mut state = balloon(socket);
    for _ in 0..600 {
        if holds(&state) {
            return state;
        }
        thread::sleep(Duration::from_millis(100));
        state = balloon(socket);
    }
    panic!("{what} did not come: {state:?}");
}

/// Waits until the guest has nothing more to report as free.
fn settled(socket: &Path) -> BalloonState {
    let mut last = balloon(socket);
    for _ in 0..30 {
        thread::sleep(Duration::from_secs(5));
        let state = balloon(socket);
        if state.reported_bytes == last.reported_bytes && state.reported_bytes > 128 * MIB {
            return state;
        }
        last = state;
    }
    panic!("the guest reports on and on: {last:?}");
}

fn free_mib(state: &BalloonState) -> u64 {
    let statistics = state.statistics.as_ref().expect("the guest has said some");
    // Asked just now.
    assert!(statistics.age_ms < 2000, "{statistics:?}");
    statistics.values["free_bytes"] / MIB
}

fn guest(socket: &Path) -> Guest {
    // This kernel has the driver built in. All memory is there from the start, so that what leaves
    // can be seen.
    Guest::with_kernel(MODULE_KERNEL, Image::Vmlinux)
        .arguments(["--prefault", "--balloon", "--control"])
        .arguments([socket])
}

fn resident_mib(running: &Running) -> u64 {
    running.resident_kib() >> 10
}

#[test]
fn memory_goes_to_the_host_and_comes_back() {
    const WANTED_MIB: u64 = 96;
    let folder = Folder::new();
    let socket = folder.path("vm.sock");
    // Its kernel writes each page that it takes for the balloon, so that the host has to have it.
    let guest = guest(&socket).end("hang").cmdline("init_on_alloc=1");
    let mut running = guest.start();
    running.wait_for("\"type\":\"done\"");
    let before = settled(&socket);
    assert!(before.has_driver && before.deflates_on_oom, "{before:?}");
    let (free, resident) = (free_mib(&before), resident_mib(&running));
    assert_eq!(before.actual_bytes, 0);

    let refused = ctl(&socket, &["balloon", "256M"]).unwrap_err();
    assert!(refused.contains("give a smaller target"), "{refused}");
    ctl(&socket, &["balloon", "96M"]).unwrap();
    let full = wait_for(&socket, "a full balloon", |state| {
        state.actual_bytes == WANTED_MIB * MIB
    });
    let (free_then, resident_then) = (free_mib(&full), resident_mib(&running));
    eprintln!("{}", ctl(&socket, &["balloon"]).unwrap());
    eprintln!(
        "free in the guest {free} MiB, then {free_then}; VMM's memory {resident} MiB, then {resident_then}"
    );
    assert!(full.inflated_bytes >= WANTED_MIB * MIB, "{full:?}");
    assert_eq!(full.refused_pages, 0);
    assert!(free - free_then >= WANTED_MIB - SLACK_MIB);
    // All that was free had been reported: what was written since is gone again.
    assert!(resident_then <= resident + SLACK_MIB);

    ctl(&socket, &["balloon", "0"]).unwrap();
    // Linux keeps some of what is freed at once on a list of the CPU's, which it does not count.
    wait_for(&socket, "an empty balloon", |state| {
        state.actual_bytes == 0 && free_mib(state) >= free_then + WANTED_MIB / 2
    });
    ctl(&socket, &["shutdown", "--now"]).unwrap();
    assert_eq!(running.finish().status(), 0);
}

/// A guest that does this again and again.
fn working(work: &str, socket: &Path) -> Running {
    let mut running = guest(socket)
        .works(work)
        .cmdline("coopvirt.reps=100000 coopvirt.settle_ms=100 coopvirt.scale=0.5")
        .limit(Duration::from_secs(300))
        .start();
    wait_for_more(&mut running, "\"ok\":true");
    running
}

/// Waits until the guest has said this twice more.
fn wait_for_more(running: &mut Running, text: &str) {
    let count = |running: &Running| running.text().matches(text).count();
    let before = count(running);
    for _ in 0..1200 {
        if count(running) >= before + 2 {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!(
        "{text} came {before} times, and no more: {}",
        running.text()
    );
}

fn end(socket: &Path, running: Running) {
    ctl(socket, &["shutdown", "--now"]).expect("it runs");
    let outcome = running.finish();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    assert!(!outcome.console.contains("Out of memory"));
}

/// `touch` needs 64 MiB to be available, else it is skipped, and checks every word that it wrote.
#[test]
fn memory_that_came_back_is_used_again() {
    let folder = Folder::new();
    let socket = folder.path("vm.sock");
    let mut running = working("touch", &socket);
    ctl(&socket, &["balloon", "176M"]).unwrap();
    // All at least once: a guest that is at work meanwhile runs out, and takes a little back that Linux does not give anew.
    wait_for(&socket, "a full balloon", |state| {
        state.inflated_bytes >= 176 * MIB
    });
    wait_for_more(&mut running, "\"type\":\"skip\"");
    ctl(&socket, &["balloon", "0"]).unwrap();
    wait_for_more(&mut running, "\"ok\":true");
    assert!(!running.text().contains("\"ok\":false"));
    end(&socket, running);
}

#[test]
fn a_guest_asked_for_more_than_it_can_give_goes_on() {
    let folder = Folder::new();
    let socket = folder.path("vm.sock");
    let mut running = working("fork", &socket);
    ctl(&socket, &["balloon", "255M"]).unwrap();
    wait_for(&socket, "a balloon with most of it", |state| {
        state.actual_bytes >= 180 * MIB
    });
    wait_for_more(&mut running, "\"ok\":true");
    let state = balloon(&socket);
    eprintln!("{state:?}");
    assert!(state.actual_bytes < state.target_bytes, "{state:?}");
    ctl(&socket, &["balloon", "0"]).unwrap();
    wait_for(&socket, "an empty balloon", |state| state.actual_bytes == 0);
    wait_for_more(&mut running, "\"ok\":true");
    end(&socket, running);
}

#[test]
fn a_machine_without_a_balloon_says_how_to_have_one() {
    let folder = Folder::new();
    let socket = folder.path("vm.sock");
    let guest = Guest::new().end("hang");
    let guest = guest.arguments(["--control", &socket.display().to_string()]);
    let mut running = guest.start();
    running.wait_for("\"type\":\"done\"");
    for arguments in [&["balloon"][..], &["balloon", "16M"]] {
        let refused = ctl(&socket, arguments).unwrap_err();
        assert!(refused.contains("run it with --balloon"), "{refused}");
    }
    ctl(&socket, &["shutdown", "--now"]).unwrap();
    assert_eq!(running.finish().status(), 0);
}
