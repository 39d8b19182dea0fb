//! Every way in which a machine ends has its exit status and its one line on standard error.

use std::io::{PipeReader, Read, Write};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use coopvirt_tests::files::Folder;
use coopvirt_tests::{kernels, Console, Guest};
use rustix::fs::{fcntl_setfl, OFlags};
use rustix::io::ioctl_fionread;
use rustix::process::{kill_process, Pid, Signal};

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

/// A limit on the size of files is an error of who writes: the report has no room here.
#[test]
fn a_limit_on_files_does_not_kill() {
    let folder = Folder::new();
    // mov al, 42; out 0xf4, al; 1: hlt; jmp 1b
    let code = [0xb0, 42, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd];
    let kernel = folder.file("exit", &kernels::elf(&code, true));
    let exits = folder.path("exits.json").into_os_string();
    let guest = Guest::with_file(&kernel).memory("16M");
    let guest = guest.prefix(["prlimit", "--fsize=64"]);
    let arguments = ["--debug-exit".into(), "--exits".into(), exits];
    let outcome = guest.arguments(arguments).run();
    assert_eq!(outcome.status(), 1, "{}", outcome.stderr);
    let says = "could not write the exit report: File too large";
    assert!(outcome.stderr.contains(says), "{}", outcome.stderr);
}

/// As `nohup` starts it.
#[test]
fn a_signal_that_was_ignored_before_it_started_is_no_end() {
    let guest = Guest::new().end("hang");
    let mut running = guest.prefix(["env", "--ignore-signal=HUP"]).start();
    running.wait_for("\"type\":\"done\"");
    running.signal(Signal::HUP);
    std::thread::sleep(Duration::from_secs(1));
    running.signal(Signal::TERM);
    running.finish().assert_ended(143, "ended by signal 15");
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
    let status = end_of(&mut child, guest.time_limit());
    assert_eq!(status.code(), Some(0));
}

fn end_of(child: &mut Child, limit: Duration) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            return status;
        }
        if started.elapsed() > limit {
            let _ = child.kill();
            panic!("it did not end");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

const PRINTED: usize = 500_000;

/// A guest that prints more on its serial console than the pipe and the buffers before it hold, and then
/// ends with code 42. Returned when it cannot print any more, with its unread console.
#[expect(clippy::zombie_processes, reason = "the callers wait for it")]
fn unread(folder: &Folder) -> (Child, PipeReader) {
    let code = [
        0xfc, // cld
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xbf, 0xf4, 0x01, 0x00, 0x00, // mov edi, 500
        0xbe, 0x00, 0x00, 0x10, 0x00, // 1: mov esi, 0x100000
        0xb9, 0xe8, 0x03, 0x00, 0x00, // mov ecx, 1000
        0xf3, 0x6e, // rep outsb
        0x4f, 0x75, 0xf1, // dec edi; jnz 1b
        0xb0, 42, 0xe6, 0xf4, // mov al, 42; out 0xf4, al
        0xf4, 0xeb, 0xfd, // 1: hlt; jmp 1b
    ];
    let kernel = folder.file("prints", &kernels::elf(&code, true));
    let guest = Guest::with_file(&kernel).memory("16M");
    let guest = guest.console(Console::Serial).arguments(["--debug-exit"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = guest.command();
    command.stdin(Stdio::null()).stdout(writer);
    let child = command.spawn().expect("coopvirt can be started");
    let started = Instant::now();
    let mut before = 0;
    loop {
        let now = ioctl_fionread(&reader).expect("a pipe");
        if now > 0 && now == before {
            return (child, reader);
        }
        assert!(started.elapsed() < guest.time_limit(), "it prints nothing");
        before = now;
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Its reader has stopped: the guest waits for it, whoever wants to end the machine does not.
#[test]
fn sigterm_where_nobody_reads_the_console() {
    let (mut child, _reader) = unread(&Folder::new());
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::TERM).expect("our own child");
    let status = end_of(&mut child, Duration::from_secs(10));
    assert_eq!(status.code(), Some(143));
}

#[test]
fn what_a_guest_printed_before_its_end_waits_for_a_slow_reader() {
    let (mut child, mut reader) = unread(&Folder::new());
    let mut printed = Vec::new();
    // The child has the only other end.
    reader.read_to_end(&mut printed).expect("a pipe");
    assert_eq!(printed.len(), PRINTED);
    let status = end_of(&mut child, Duration::from_secs(10));
    assert_eq!(status.code(), Some(42));
}
