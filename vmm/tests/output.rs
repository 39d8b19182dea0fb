//! What becomes of results: nobody to read them, no room for them, an older one in their place.
//!
//! None of these runs comes as far as KVM, so they need no virtualization.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use vmm_sys_util::tempdir::TempDir;

/// Commands that print a result and need nothing for it.
const PRINTING: [&[&str]; 7] = [
    &["hypercalls"],
    &["hypercalls", "--json"],
    &["doctor"],
    &["report", "--schema"],
    &["compare", "--list"],
    &["compare", "quick", "--print-experiment"],
    &["run", "--kernel", "k", "--print-config"],
];

fn with_output(arguments: &[&str], output: impl Into<Stdio>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coopvirt"));
    let command = command.args(arguments).stdin(Stdio::null());
    let child = command.stdout(output).stderr(Stdio::piped()).spawn();
    let child = child.expect("coopvirt has been built");
    child.wait_with_output().expect("a child can be waited for")
}

/// The end of a pipe whose other end is gone.
fn unread_pipe() -> std::io::PipeWriter {
    let (_reader, writer) = std::io::pipe().expect("a pipe");
    writer
}

#[test]
fn a_reader_who_has_had_enough_is_no_failure() {
    for arguments in PRINTING {
        let read = with_output(arguments, Stdio::null());
        let unread = with_output(arguments, unread_pipe());
        let stderr = String::from_utf8_lossy(&unread.stderr).into_owned();
        assert_eq!(unread.status, read.status, "{arguments:?}: {stderr}");
        assert_eq!(unread.stderr, read.stderr, "{arguments:?}: {stderr}");
    }
}

/// Runs it; it has to fail with one line, which is returned.
fn refused(arguments: &[&str]) -> String {
    let output = with_output(arguments, Stdio::piped());
    one_line(arguments, &output)
}

fn one_line(arguments: &[&str], output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
    assert!(stderr.starts_with("coopvirt: "), "{stderr}");
    stderr
}

fn file(folder: &TempDir, name: &str, content: &str) -> PathBuf {
    let path = folder.as_path().join(name);
    fs::write(&path, content).expect("a folder of our own");
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

#[test]
fn a_full_disk_under_a_result_is_one_line() {
    for arguments in PRINTING {
        let full = File::options().write(true).open("/dev/full");
        let output = with_output(arguments, full.expect("Linux has it"));
        let line = one_line(arguments, &output);
        assert!(
            line.contains("could not print the result: No space"),
            "{line}"
        );
    }
}

#[test]
fn a_complaint_that_nobody_reads_ends_as_any_other() {
    for arguments in [&["run", "--kernel", "/no/kernel"][..], &["run", "--cpus"]] {
        let expected = with_output(arguments, Stdio::null()).status;
        let mut command = Command::new(env!("CARGO_BIN_EXE_coopvirt"));
        let status = command.args(arguments).stderr(unread_pipe()).status();
        assert_eq!(status.expect("coopvirt has been built"), expected);
    }
}

#[test]
fn a_machine_that_cannot_start_leaves_an_older_report_as_it_is() {
    let folder = TempDir::new().expect("a folder for this test");
    let report = file(&folder, "exits.json", "{\"older\": 1}");
    refused(&["run", "--kernel", "/no/kernel", "--exits", text(&report)]);
    let left = fs::read_to_string(&report).expect("it is still there");
    assert_eq!(left, "{\"older\": 1}");
}

#[test]
fn what_a_comparison_cannot_write_or_read_is_found_out_before_its_runs() {
    let folder = TempDir::new().expect("a folder for this test");
    let kernel = file(&folder, "kernel", "no kernel");
    let initrd = file(&folder, "initrd", "no initrd");
    let older = file(&folder, "older.csv", "older");
    let files = ["--kernel", text(&kernel), "--initrd", text(&initrd)];
    let nowhere = folder.as_path().join("no/such/page.html");
    for (option, path) in [
        ("--html", &nowhere),
        ("--csv", &nowhere),
        ("--disk", &nowhere),
        ("--disk", &folder.as_path().to_owned()),
    ] {
        let arguments = ["compare", "--arms", "kvm", option, text(path)];
        let line = refused(&[&arguments[..], &files].concat());
        assert!(line.contains(text(path)), "{line}");
    }
    let arguments = ["compare", "--arms", "kvm", "--html", text(&nowhere)];
    refused(&[&arguments[..], &files, &["--csv", text(&older)]].concat());
    assert_eq!(fs::read_to_string(&older).expect("it is there"), "older");
}
