//! Comparisons that do not go well: arms that end badly or cannot run, a user who may not trace, a
//! program that is killed. What they measure is their own matter.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use coopvirt::compare::journal;
use coopvirt::compare::json;
use coopvirt::compare::model::{Report, Run};
use coopvirt_tests::files::Folder;
use coopvirt_tests::lab::{Lab, KERNEL};

/// `coopvirt compare` with a guest that sleeps a little; `before` goes in front of the program.
fn compare(before: &[&str], json: &Path, words: &[&str]) -> Command {
    let lab = Lab::find();
    let program = lab.program.display().to_string();
    let line: Vec<&str> = before.iter().copied().chain([program.as_str()]).collect();
    let mut command = Command::new(line[0]);
    command.args(&line[1..]).arg("compare").args(words);
    command.arg("--json").arg(json);
    command
        .arg("--kernel")
        .arg(lab.kernel_file(KERNEL, "vmlinuz"));
    command.arg("--initrd").arg(lab.initrd(KERNEL));
    command.args(["--works", "sleep", "--scale", "0.1", "--warm-up", "0"]);
    command.stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    let text = [&output.stderr[..], &output.stdout[..]].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    println!("{text}");
    text
}

fn run_of<'a>(report: &'a Report, arm: &str) -> &'a Run {
    let runs = report.counted_runs();
    let mut runs = runs.filter(|run| run.arm == arm);
    runs.next().unwrap_or_else(|| panic!("no run of {arm}"))
}

#[test]
fn arms_that_end_badly_or_cannot_run_are_marked_and_the_others_go_on() {
    let folder = Folder::new();
    let json = folder.path("report.json");
    let experiment = "\
        arms = ['qemu-pci', 'panics', 'hangs', 'kvm']\n\
        repetitions = 1\n\
        qemu = '/nowhere/qemu'\n\
        [[arm]]\nname = 'panics'\nbase = 'kvm'\ncmdline = 'coopvirt.end=panic'\n\
        [[arm]]\nname = 'hangs'\nbase = 'kvm'\ncmdline = 'coopvirt.end=hang'\n";
    let file = folder.file("bad.toml", experiment.as_bytes());
    let output = compare(&[], &json, &[&file.display().to_string()]).output();
    let output = output.expect("the program runs");
    let text = said(&output);
    assert!(!output.status.success());
    let report = json::read(&json).expect("the report was written");

    let good = run_of(&report, "kvm");
    assert_eq!(good.failure, None);
    assert_eq!(good.samples.len(), 1);
    // The first arm that can run takes the place of a reference that nobody asked for.
    assert_eq!(report.params.reference, "panics");

    let panics = run_of(&report, "panics")
        .failure
        .as_ref()
        .expect("it panicked");
    assert!(panics.reason.contains("exit status: 3"), "{panics:?}");
    let tail = panics.tail.join("\n");
    assert!(tail.contains("vmm: coopvirt: guest panic"), "{tail}");
    assert!(tail.contains("Kernel panic - not syncing"), "{tail}");
    let hangs = run_of(&report, "hangs").failure.as_ref().expect("it hung");
    assert!(hangs.reason.contains("did not power off"), "{hangs:?}");

    let note = report.arms.iter().find(|note| note.name == "qemu-pci");
    let gap = note
        .and_then(|note| note.gap.as_deref())
        .unwrap_or_default();
    assert!(gap.contains("/nowhere/qemu"), "{gap}");
    assert!(text.contains("gap: qemu-pci: "), "{text}");
}

#[test]
fn a_user_who_may_not_trace_gets_kvms_statistics_and_is_told_what_is_lost() {
    let folder = Folder::new();
    let json = folder.path("report.json");
    // Without the capabilities of root, and with tracepoints that nobody may look at: alone, the first is not
    // enough where /proc/sys/kernel/perf_event_paranoid is -1, as in the lab.
    let hide = "mount -t tmpfs -o mode=000 none /sys/kernel/tracing; \
        exec setpriv --bounding-set=-all --inh-caps=-all \"$@\"";
    let before = ["unshare", "-m", "sh", "-ec", hide, "sh"];
    let output = compare(&before, &json, &["--arms", "kvm,qemu-pci", "-n", "1"]).output();
    let text = said(&output.expect("the program runs"));
    let report = json::read(&json).expect("the report was written");
    let run = run_of(&report, "kvm");
    assert_eq!(run.failure, None);
    assert!(run.degraded.is_some());
    let sample = &run.samples[0];
    let per_sleep = sample.counts.total as f64 / sample.ops as f64;
    // A timer is armed and the CPU halted for each sleep; the host's own interrupts come on top.
    assert!((1.0..100.0).contains(&per_sleep), "{per_sleep}");
    assert!(text.contains("not traced: "), "nobody was told why");
    assert!(
        text.contains("no reasons, no causes"),
        "nobody was told what is lost"
    );
    let peer = report.arms.iter().find(|note| note.name == "qemu-pci");
    let gap = peer
        .and_then(|note| note.gap.as_deref())
        .unwrap_or_default();
    assert!(
        gap.contains("only tracepoints count a peer's exits"),
        "{gap}"
    );
}

#[test]
fn a_comparison_that_was_killed_goes_on_and_another_one_is_refused() {
    let folder = Folder::new();
    let json = folder.path("report.json");
    let journal = journal::path_of(&json);
    let words = ["--arms", "kvm", "-n", "3"];
    let mut child = compare(&[], &json, &words)
        .stdout(Stdio::null())
        .spawn()
        .expect("the program runs");
    wait_for_a_run(&journal);
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
    assert!(!json.exists());
    let begun = journal::read(&journal)
        .expect("the journal can be read")
        .runs;
    assert!(!begun.is_empty() && begun.len() < 3, "{} runs", begun.len());

    let other = compare(
        &[],
        &json,
        &["--arms", "kvm", "-n", "3", "--cpus", "1", "--resume"],
    );
    let output = run(other);
    assert!(!output.status.success());
    let text = said(&output);
    assert!(text.contains("cannot resume: the earlier comparison was another experiment"));
    assert!(
        text.contains("cpus was 2, is 1"),
        "the difference is not named"
    );

    let output = run(compare(&[], &json, &[&words[..], &["--resume"]].concat()));
    said(&output);
    assert!(output.status.success());
    let report = json::read(&json).expect("the report was written");
    assert_eq!(report.runs[..begun.len()], begun);
    assert_eq!(
        report
            .runs
            .iter()
            .filter(|run| run.failure.is_none())
            .count(),
        3
    );
    assert!(!journal.exists());
}

fn run(mut command: Command) -> Output {
    command.output().expect("the program runs")
}

/// Until the journal has a line for what is compared and one for a run.
fn wait_for_a_run(journal: &PathBuf) {
    let limit = Instant::now() + Duration::from_secs(300);
    loop {
        let text = std::fs::read_to_string(journal).unwrap_or_default();
        if text.matches('\n').count() >= 2 {
            return;
        }
        assert!(Instant::now() < limit, "no run has ended in five minutes");
        std::thread::sleep(Duration::from_millis(50));
    }
}
