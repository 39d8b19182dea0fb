//! The works as an ordinary process on the machine that runs the tests.

use coopvirt_spec::record::find_in_line;
use serde_json::Value;
use std::process::{Command, Output};

fn run(arguments: &[&str]) -> (Output, Vec<Value>) {
    let output = Command::new(env!("CARGO_BIN_EXE_coopvirt-work"))
        .args(arguments)
        .output()
        .expect("the program has been built");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let records = text.lines().filter_map(find_in_line);
    let records = records
        .map(|record| serde_json::from_str(record).expect("a record is JSON"))
        .collect();
    (output, records)
}

fn of_type<'a>(records: &'a [Value], kind: &str) -> Vec<&'a Value> {
    records
        .iter()
        .filter(|record| record["type"] == kind)
        .collect()
}

/// A host may have one CPU only; then the works that need two say so.
fn has_two_cpus() -> bool {
    std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1)
}

#[test]
fn rec_3_each_work_is_ok_on_this_machine() {
    let list = "sleep,pipe,tlb,touch,refill,fork";
    let (output, records) = run(&[
        "--works",
        list,
        "--scale",
        "0.05",
        "--settle-ms",
        "5",
        "--no-marks",
    ]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(records[0]["type"], "platform");
    for member in [
        "kernel",
        "clocksource",
        "clockevent",
        "apic",
        "idle",
        "hypervisor",
    ] {
        assert!(records[0][member].is_string(), "{member}");
    }
    let works = of_type(&records, "work");
    let skips = of_type(&records, "skip");
    assert_eq!(skips.len(), if has_two_cpus() { 0 } else { 2 }, "{skips:?}");
    assert_eq!(works.len() + skips.len(), list.split(',').count());
    for work in &works {
        assert_eq!(work["ok"], true, "{work}");
        assert_eq!(work["latency_ns"]["n"], work["ops"], "{work}");
        assert!(work["elapsed_ns"].as_u64().unwrap() > 0, "{work}");
        let [min, median, p99, max] =
            ["min", "median", "p99", "max"].map(|key| work["latency_ns"][key].as_u64().unwrap());
        assert!(min <= median && median <= p99 && p99 <= max, "{work}");
    }
    let last = records.last().unwrap();
    assert_eq!(
        (&last["type"], &last["works"]),
        (&"done".into(), &works.len().into())
    );
}

#[test]
fn works_that_last_report_whole_seconds() {
    let (output, records) = run(&[
        "--works",
        "idle,busy",
        "--scale",
        "0.05",
        "--settle-ms",
        "0",
        "--no-marks",
    ]);
    assert!(output.status.success(), "{output:?}");
    for work in of_type(&records, "work") {
        assert_eq!(
            (&work["ok"], &work["ops"]),
            (&true.into(), &1.into()),
            "{work}"
        );
        assert!(
            work["elapsed_ns"].as_u64().unwrap() >= 1_000_000_000,
            "{work}"
        );
    }
}

#[test]
fn reads_check_what_the_disk_holds() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("disk.img");
    let name = path.to_str().unwrap();
    let arguments = [
        "--works",
        "read1,read32",
        "--scale",
        "0.2",
        "--settle-ms",
        "0",
        "--no-marks",
    ];
    let arguments = [&arguments[..], &["--disk", name]].concat();
    let mut disk = vec![0u8; 64 * 4096];
    for (block, bytes) in disk.chunks_exact_mut(4096).enumerate() {
        bytes[..8].copy_from_slice(&(block as u64).to_le_bytes());
    }

    std::fs::write(&path, &disk).unwrap();
    let (output, records) = run(&arguments);
    if of_type(&records, "skip").len() == 2 {
        eprintln!("SKIP: no O_DIRECT here: {records:?}");
        return;
    }
    assert!(output.status.success(), "{output:?}");
    assert!(
        of_type(&records, "work")
            .iter()
            .all(|work| work["note"].is_null()),
        "{records:?}"
    );

    // Blocks 0 and 1 still promise a pattern that no other block keeps.
    disk[2 * 4096..].fill(0xff);
    std::fs::write(&path, &disk).unwrap();
    let (output, records) = run(&arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let works = of_type(&records, "work");
    assert_eq!(works.len(), 2);
    assert!(works
        .iter()
        .all(|work| work["ok"] == false && work["error"].is_string()));

    std::fs::write(&path, vec![0u8; 64 * 4096]).unwrap();
    let (output, records) = run(&arguments);
    assert!(output.status.success(), "{output:?}");
    let works = of_type(&records, "work");
    assert!(works
        .iter()
        .all(|work| work["note"].as_str().unwrap().contains("pattern absent")));
}

/// A file is none; guests that have one are in `tests/polled.rs` of the project.
#[test]
fn a_disk_without_a_poll_queue_is_not_read_by_polling() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-queue.img");
    std::fs::write(&path, vec![0u8; 4 * 4096]).unwrap();
    let name = path.to_str().unwrap();
    let (output, records) = run(&["--works", "readpoll", "--no-marks", "--disk", name]);
    // Everything was skipped.
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let skips = of_type(&records, "skip");
    let reason = skips[0]["reason"].as_str().unwrap();
    let is_told = reason.contains("virtio_blk.poll_queues=1") || reason.contains("O_DIRECT");
    assert!(is_told && of_type(&records, "work").is_empty(), "{reason}");
}

#[test]
fn a_missing_disk_is_skipped_and_repetitions_are_numbered() {
    let (output, records) = run(&[
        "--works",
        "fork,read1",
        "--scale",
        "0.05",
        "--reps",
        "2",
        "--settle-ms",
        "0",
        "--no-marks",
        "--disk",
        "/nowhere/disk",
    ]);
    assert!(output.status.success(), "{output:?}");
    let numbers: Vec<&Value> = of_type(&records, "work")
        .into_iter()
        .map(|work| &work["rep"])
        .collect();
    assert_eq!(numbers, [&Value::from(0), &Value::from(1)]);
    let skips = of_type(&records, "skip");
    assert_eq!(skips.len(), 2);
    assert!(skips[0]["reason"]
        .as_str()
        .unwrap()
        .contains("/nowhere/disk"));
}

#[test]
fn a_work_that_takes_too_long_is_interrupted_and_not_ok() {
    let (output, records) = run(&[
        "--works",
        "idle,busy,sleep",
        "--scale",
        "20",
        "--settle-ms",
        "0",
        "--timeout-s",
        "1",
        "--no-marks",
    ]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let works = of_type(&records, "work");
    assert_eq!(works.len(), 3);
    for work in works {
        assert_eq!(work["ok"], false, "{work}");
        assert!(
            work["error"].as_str().unwrap().contains("timed out"),
            "{work}"
        );
    }
    assert_eq!(records.last().unwrap()["type"], "done");
}

#[test]
fn wrong_settings_are_refused_before_anything_runs() {
    let (output, records) = run(&["--works", "sleeep"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(records.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("sleeep"));
    let (output, _) = run(&["--help"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("--works LIST"));
}
