//! Every way in which a machine ends has its exit status and its one line on standard error.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use coopvirt_tests::files::Folder;
use coopvirt_tests::{kernels, Console, Guest};
use rustix::fs::{fcntl_setfl, OFlags};
use rustix::process::Signal;

#[test]
fn power_off() {
    let outcome = Guest::new().run();
    outcome.assert_ended(0, "powered off");
    assert_eq!(outcome.done(), 0);
}

#[test]
fn reboot() {
    let outcome = Guest::new().end("reboot").run();
    outcome.assert_ended(0, "restarted");
    outcome.done();
}

#[test]
fn reboot_by_triple_fault() {
    let outcome = Guest::new().cpus(2).end("reboot").cmdline("reboot=t").run();
    outcome.assert_ended(0, "restarted");
    outcome.done();
}

#[test]
fn reboot_by_keyboard_controller() {
    let outcome = Guest::new().end("reboot").cmdline("reboot=k").run();
    outcome.assert_ended(0, "restarted");
}

#[test]
fn kernel_panic() {
    let outcome = Guest::new().end("panic").run();
    outcome.assert_ended(3, "guest panic");
    outcome.done();
}

#[test]
fn kernel_panic_that_resets_by_triple_fault() {
    let guest = Guest::new().cpus(2).end("panic").cmdline("reboot=t");
    // As to the machine, nothing tells it from a triple fault in good faith but the missing
    // shutdown: it must not pass for a restart.
    let status = guest.run().status();
    assert!([3, 4].contains(&status), "{status}");
}

/// Without the I/O APIC, whose masked lines would say that it has shut down.
#[test]
fn kernel_panic_and_reboot_with_the_old_interrupt_controllers() {
    let guest = |how| Guest::new().end(how).cmdline("noapic");
    guest("panic").run().assert_ended(3, "guest panic");
    guest("reboot").run().assert_ended(0, "restarted");
}

#[test]
fn init_that_exits() {
    let outcome = Guest::new().end("exit").run();
    outcome.assert_ended(3, "guest panic");
}

#[test]
fn no_root_file_system() {
    let guest = Guest::new().console(Console::Serial).without_initrd();
    let outcome = guest.run();
    outcome.assert_ended(3, "guest panic");
    let says = "Kernel panic - not syncing: VFS: Unable to mount root fs";
    assert!(outcome.console.contains(says), "{}", outcome.console);
}

#[test]
fn triple_fault() {
    let folder = Folder::new();
    // In 32-bit mode: an interrupt table without entries, and an interrupt.
    let code = [
        0x0f, 0x01, 0x1d, 0x0c, 0x00, 0x10, 0x00, // lidt [0x10000c]
        0x0f, 0x0b, // ud2
        0xf4, 0xeb, 0xfd, // 1: hlt; jmp 1b
        0, 0, 0, 0, 0, 0, // limit 0, base 0
    ];
    let kernel = folder.file("triple", &kernels::elf(&code, true));
    let outcome = Guest::with_file(&kernel).memory("16M").run();
    outcome.assert_ended(4, "triple fault");
}

#[test]
fn a_guest_that_ends_with_a_code_of_its_own() {
    let folder = Folder::new();
    // mov al, 42; out 0xf4, al; 1: hlt; jmp 1b
    let code = [0xb0, 42, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd];
    let kernel = folder.file("exit", &kernels::elf(&code, true));
    let guest = Guest::with_file(&kernel).memory("16M");
    let outcome = guest.arguments(["--debug-exit"]).run();
    outcome.assert_ended(42, "code 42");
}

fn ends_by(signal: Signal, status: i32) {
    let mut running = Guest::new().end("hang").start();
    running.wait_for("\"type\":\"done\"");
    running.signal(signal);
    let outcome = running.finish();
    outcome.assert_ended(status, &format!("ended by signal {}", status - 128));
}

#[test]
fn sigterm() {
    ends_by(Signal::TERM, 143);
}

#[test]
fn sigint_while_it_boots() {
    let mut running = Guest::new()
        .console(Console::Serial)
        .cmdline("loglevel=7")
        .start();
    running.wait_for("Linux version");
    running.signal(Signal::INT);
    running.finish().assert_ended(130, "ended by signal 2");
}

/// Its reader has stopped, and the pipe is full: whoever has something to say, the end above all, goes on.
#[test]
fn power_off_where_nobody_empties_standard_error() {
    let (_reader, mut writer) = std::io::pipe().expect("a pipe");
    fcntl_setfl(&writer, OFlags::NONBLOCK).expect("our own pipe");
    while writer.write(&[b'.'; 4096]).is_ok() {}
    while writer.write(b".").is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).expect("our own pipe");
    let guest = Guest::new();
    let mut command = guest.command();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer);
    let mut child = command.spawn().expect("coopvirt can be started");
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            break status;
        }
        if started.elapsed() > guest.time_limit() {
            let _ = child.kill();
            panic!("it did not end");
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(status.code(), Some(0));
}
