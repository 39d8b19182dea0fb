//! `coopvirt top` beside real guests: on a terminal, as CSV, for Prometheus; and what it says where it
//! can see nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use coopvirt::account::report::ExitReport;
use coopvirt_tests::files::Folder;
use coopvirt_tests::lab::MODULE_KERNEL;
use coopvirt_tests::pty::Terminal;
use coopvirt_tests::{Guest, Image, Lab, Running};
use rustix::process::Signal;

fn top() -> Command {
    let mut command = Command::new(Lab::find().program);
    command.arg("top");
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("coopvirt can be started")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A guest of two vCPUs that works again and again, with what `arguments` add.
fn start(socket: &Path, arguments: &[&str]) -> Running {
    let mut running = Guest::with_kernel(MODULE_KERNEL, Image::Vmlinux)
        .cpus(2)
        .works("sleep,pipe")
        .cmdline("coopvirt.scale=0.1 coopvirt.settle_ms=0 coopvirt.reps=100000")
        .arguments(["--control".as_ref(), socket.as_os_str()])
        .arguments(arguments)
        .limit(Duration::from_secs(300))
        .start();
    running.wait_for("\"work\":\"pipe\"");
    running
}

fn end(socket: &Path, running: Running) {
    let mut ctl = Command::new(Lab::find().program);
    ctl.arg("ctl").arg(socket).args(["shutdown", "--now"]);
    assert!(run(&mut ctl).status.success());
    assert_eq!(running.finish().status(), 0);
}

fn socket() -> (Folder, PathBuf) {
    let folder = Folder::new();
    let socket = folder.path("vm.sock");
    (folder, socket)
}

/// The rows of a CSV, by column.
fn rows(csv: &str) -> Vec<BTreeMap<String, String>> {
    let mut lines = csv.lines();
    let names: Vec<&str> = lines.next().expect("a head").split(',').collect();
    let row = |line: &str| {
        let values = line.split(',').map(str::to_owned);
        names
            .iter()
            .map(|name| (*name).to_owned())
            .zip(values)
            .collect()
    };
    lines.map(row).collect()
}

/// Runs until the machine is gone, and its last totals are at most what the report says.
#[test]
fn rates_agree_with_counts_at_the_end() {
    let (folder, socket) = socket();
    let exits = folder.path("exits.json");
    let exits_text = exits.display().to_string();
    let running = start(&socket, &["--exits", &exits_text, "--accounting", "stats"]);
    let child = top()
        .args(["--csv", "--every", "0.5"])
        .arg(&socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("coopvirt can be started");
    thread::sleep(Duration::from_secs(8));
    // Whatever happens between the last row and the end happens while nothing runs.
    let mut ctl = Command::new(Lab::find().program);
    assert!(run(ctl.arg("ctl").arg(&socket).arg("pause"))
        .status
        .success());
    thread::sleep(Duration::from_secs(3));
    end(&socket, running);
    let output = child.wait_with_output().expect("our own child");
    let (csv, said) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success() && said.contains("is gone"),
        "{said}"
    );

    let report: ExitReport = serde_json::from_slice(&std::fs::read(&exits).unwrap()).unwrap();
    let rows = rows(&csv);
    let number = |row: &BTreeMap<String, String>, name: &str| row[name].parse::<f64>().unwrap();
    for (vcpu, stats) in report.vcpu_stats.iter().enumerate() {
        let of_this = |row: &&BTreeMap<String, String>| {
            row["group"] == "exits" && row["vcpu"] == vcpu.to_string()
        };
        let rows: Vec<_> = rows.iter().filter(of_this).collect();
        assert!(rows.len() > 3, "{csv}");
        let (first, last) = (rows[0], rows[rows.len() - 1]);
        assert_eq!(number(last, "total"), stats.exits().unwrap() as f64);
        assert_eq!(number(last, "per_second"), 0.0, "it was paused");
        // What the rates say together is what the totals grew by.
        let grown: f64 = rows[1..]
            .iter()
            .map(|row| number(row, "per_second") * number(row, "seconds"))
            .sum();
        let wanted = number(last, "total") - number(first, "total");
        eprintln!(
            "vCPU {vcpu}: {} rows, grew by {wanted}, rates say {grown:.2}",
            rows.len()
        );
        assert!(
            wanted > 0.0 && (grown - wanted).abs() < 1.0,
            "{grown} {wanted}"
        );
    }
}

#[test]
fn a_live_view_shows_the_machine_until_q_and_restores_the_terminal() {
    let (_folder, socket) = socket();
    let running = start(&socket, &["--mode", "coop"]);
    let terminal = Terminal::new();
    terminal.resize(80, 24);
    let before = terminal.settings();
    let mut command = top();
    // None is named: it finds the machine.
    let mut live = terminal.run(&mut command, Duration::from_secs(120));
    live.wait_for("exits/s");
    live.wait_for("sidecore");
    // Its module is not loaded. The terminal gets words, and moves in between.
    live.wait_for("cooperate");
    assert!(terminal.mode().is_raw);
    terminal.resize(100, 40);
    terminal.resize(30, 5);
    terminal.resize(80, 24);
    terminal.type_keys(b"\t");
    thread::sleep(Duration::from_secs(2));
    terminal.type_keys(b"q");
    let outcome = live.finish();
    assert_eq!(outcome.status(), 0, "{}", outcome.console);
    assert_eq!(terminal.settings(), before);
    // The other screen was left again.
    assert!(
        outcome.console.contains("\u{1b}[?1049l"),
        "{}",
        outcome.console
    );
    end(&socket, running);
}

#[test]
fn a_signal_restores_the_terminal_and_a_machine_that_goes_away_is_told_of() {
    let (_folder, socket) = socket();
    let running = start(&socket, &[]);
    let terminal = Terminal::new();
    terminal.resize(80, 24);
    let before = terminal.settings();
    let mut command = top();
    let mut live = terminal.run(command.arg(&socket), Duration::from_secs(120));
    live.wait_for("exits/s");
    end(&socket, running);
    live.wait_for("the machine is gone");
    live.signal(Signal::TERM);
    let outcome = live.finish();
    assert_eq!(outcome.status(), 143, "{}", outcome.console);
    assert_eq!(terminal.settings(), before);
}

#[test]
fn once_and_prometheus_say_the_same_machine() {
    let (folder, socket) = socket();
    let exits = folder.path("exits.json").display().to_string();
    // Where tracepoints may be read, all causes are known.
    let running = start(&socket, &["--exits", &exits]);
    let output = run(top().arg("--once").arg(&socket));
    let once = text(&output.stdout);
    eprintln!("{once}{}", text(&output.stderr));
    assert!(output.status.success());
    for wanted in [
        "2 vCPUs",
        "exits/s",
        "by cause, all exits",
        "by hardware reason",
    ] {
        assert!(once.contains(wanted), "{wanted}");
    }
    let output = run(top().arg("--prometheus"));
    let page = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let exits = page
        .lines()
        .filter(|line| line.starts_with("coopvirt_vcpu_exits_total{pid="));
    assert_eq!(exits.count(), 2, "{page}");
    assert!(page.contains("source=\"tracepoints\""), "{page}");
    let csv = text(&run(top().args(["--csv", "--once", "--every", "0.2"])).stdout);
    assert!(csv.lines().count() > 10, "{csv}");
    end(&socket, running);
}

#[test]
fn where_there_is_nothing_to_see_it_says_what_to_do() {
    let refused = |command: &mut Command| {
        let output = run(command);
        assert_eq!(output.status.code(), Some(1));
        let line = text(&output.stderr);
        assert_eq!(line.lines().count(), 1, "{line}");
        line
    };
    let line = refused(&mut top());
    assert!(
        line.contains("no machine of yours") && line.contains("--control"),
        "{line}"
    );
    let line = refused(top().arg("/nowhere/vm.sock"));
    assert!(line.contains("/nowhere/vm.sock"), "{line}");

    let (_folder, socket) = socket();
    let running = start(&socket, &[]);
    // Not a terminal.
    let line = refused(top().arg(&socket));
    assert!(line.contains("--once"), "{line}");
    // Somebody else.
    let mut other = Command::new("setpriv");
    other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    let top = top();
    other
        .arg(top.get_program())
        .args(top.get_args())
        .arg(&socket);
    let line = refused(&mut other);
    assert!(
        line.contains("no permission") && line.contains("its owner's alone"),
        "{line}"
    );
    end(&socket, running);
}
