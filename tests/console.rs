//! The user's terminal: raw while a guest runs and as it was afterwards, keys to the guest, Ctrl-A.

use coopvirt_tests::pty::Terminal;
use coopvirt_tests::{Console, Guest, Running};
use rustix::process::Signal;

const QUIT: &[u8] = b"\x01x";
const CTRL_C: &[u8] = b"\x03";

/// A guest that is up and does nothing, its console open: the guest's own terminal layer then
/// echoes what is typed.
fn start(terminal: &Terminal, console: Console) -> Running {
    let guest = Guest::new().console(console).end("hang");
    let mut running = terminal.start(&guest);
    running.wait_for("\"type\":\"done\"");
    running
}

/// Runs a guest, ends it by `end`, and checks the terminal before, in between and after.
fn is_restored(end: impl FnOnce(&Terminal, &Running), status: i32, line: &str) {
    let terminal = Terminal::new();
    let before = terminal.settings();
    assert!(!terminal.mode().is_raw);
    let running = start(&terminal, Console::Virtio);
    let during = terminal.mode();
    assert!(during.is_raw && during.has_line_ends, "{during:?}");
    end(&terminal, &running);
    let outcome = running.finish();
    assert_eq!(outcome.status(), status);
    assert!(outcome.console.contains(line), "{line:?} is not said");
    assert_eq!(terminal.settings(), before);
}

#[test]
fn ctrl_a_x_ends_the_machine_and_restores_the_terminal() {
    is_restored(
        |terminal, _| terminal.type_keys(QUIT),
        0,
        "stopped by the user",
    );
}

#[test]
fn sigterm_restores_the_terminal() {
    is_restored(
        |_, running| running.signal(Signal::TERM),
        143,
        "ended by signal 15",
    );
}

#[test]
fn sigsegv_restores_the_terminal() {
    is_restored(|_, running| running.signal(Signal::SEGV), 139, "");
}

#[test]
fn power_off_restores_the_terminal() {
    let terminal = Terminal::new();
    let before = terminal.settings();
    let outcome = terminal.start(&Guest::new()).finish();
    assert_eq!(outcome.status(), 0);
    outcome.done();
    assert!(outcome.console.contains("the guest powered off"));
    assert_eq!(terminal.settings(), before);
}

fn takes_keys(console: Console) {
    let terminal = Terminal::new();
    let mut running = start(&terminal, console);
    terminal.type_keys(b"hello, guest\r");
    running.wait_for("hello, guest");
    // Ctrl-C is a key for the guest as well, and no end.
    terminal.type_keys(CTRL_C);
    running.wait_for("^C");
    // As is Ctrl-A when it is typed twice.
    terminal.type_keys(b"\x01\x01");
    running.wait_for("^A");
    terminal.type_keys(QUIT);
    let outcome = running.finish();
    assert_eq!(outcome.status(), 0);
    let echoes = outcome.console.matches("hello, guest").count();
    assert_eq!(echoes, 1, "echoed by the guest, and by nobody else");
}

#[test]
fn keys_reach_the_guest_by_virtio() {
    takes_keys(Console::Virtio);
}

#[test]
fn keys_reach_the_guest_by_serial() {
    takes_keys(Console::Serial);
}

#[test]
fn more_keys_than_the_device_holds_wait_for_it() {
    let terminal = Terminal::new();
    let mut running = start(&terminal, Console::Serial);
    terminal.type_keys(&[b'k'; 1000]);
    terminal.type_keys(b"\rend of keys\r");
    running.wait_for("end of keys");
    assert!(running.text().contains(&"k".repeat(1000)));
    terminal.type_keys(QUIT);
    assert_eq!(running.finish().status(), 0);
}
