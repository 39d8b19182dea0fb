//! What each way out of a guest costs: the exits of each door are exact, its time is there.

use std::process::Command;

use coopvirt_tests::Lab;
use serde_json::Value;

/// Doors whose exits per operation are exact: returns to userspace of one iteration.
const EXACT: [(&str, f64); 9] = [
    ("port, to userspace", 1.0),
    ("port, ioeventfd (asynchronous doorbell)", 0.0),
    ("MMIO, to userspace", 1.0),
    ("RDMSR in the kernel (APICBASE)", 0.0),
    ("WRMSR in the kernel (TSC_DEADLINE)", 0.0),
    ("WRMSR to userspace", 1.0),
    ("hypercall, unknown number", 0.0),
    ("CPUID", 0.0),
    ("ring, synchronous doorbell", 1.0),
];

#[test]
fn each_door_exits_as_often_as_it_must() {
    let mut command = Command::new(Lab::find().program);
    let arguments = "doors -n 128 --duration 20 --timeout 60 --pin 1-2 --json";
    let output = command.args(arguments.split(' ')).output();
    let output = output.expect("coopvirt can be started");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["backend"]["hardware_assisted"], true, "{report}");
    assert_eq!(report["not_traced"], Value::Null);
    let rows = report["rows"].as_array().expect("a list");
    assert_eq!(rows.len(), 17);
    let mut exact = 0;
    for row in rows {
        let batch = row["batch"].as_f64().expect("a number");
        if batch > 32.0 {
            assert_eq!(row["not_measured"], "the ring holds 32", "{row}");
            assert_eq!(row["exits"], Value::Null, "{row}");
            continue;
        }
        let figure = |figure: &Value| figure.as_f64().unwrap_or_else(|| panic!("{row}"));
        assert!(figure(&row["time"]["p99_ns"]) >= figure(&row["time"]["median_ns"]));
        // Sums of powers of two: exact as they are.
        let exits = figure(&row["exits"]) * batch;
        let userspace = figure(&row["userspace_exits"]) * batch;
        if let Some((_, expected)) = EXACT.iter().find(|(name, _)| row["name"] == *name) {
            exact += 1;
            assert_eq!((exits, userspace), (1.0, *expected), "{row}");
            assert!(figure(&row["time"]["median_ns"]) > 0.0, "{row}");
        } else if row["name"] == "ring, sidecore polls" {
            // It rings where no lease is held, which a busy machine decides.
            assert!(exits <= 1.5 && userspace <= 1.5, "{row}");
        } else {
            // HLT: at least the timer's write and the HLT itself, none to userspace.
            assert!(exits >= 2.0 && userspace == 0.0, "{row}");
        }
    }
    assert_eq!(exact, 11);
}
