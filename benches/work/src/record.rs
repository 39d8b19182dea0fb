//! Records as console lines (`[REC-1]`): pure formatting, nothing is sent here.

use crate::latency::{Latency, CURVE_PER_MILLE};
use crate::platform::Platform;
use crate::works::Measured;
use coopvirt_spec::record::PREFIX;
use coopvirt_spec::work::Work;
use serde_json::{json, Value};

/// What the guest really runs on; `module` is what became of the guest's kernel module.
pub(crate) fn platform(platform: &Platform, module: &str) -> String {
    line(&json!({
        "type": "platform",
        "kernel": platform.kernel,
        "clocksource": platform.clocksource,
        "clockevent": platform.clockevent,
        "apic": platform.apic,
        "idle": platform.idle,
        "hypervisor": platform.hypervisor,
        "cpus": platform.cpus,
        "x2apic": platform.has_x2apic,
        "kvm_features": platform.kvm_features,
        "kvm_log": platform.kvm_log,
        "memory_kib": platform.memory_kib,
        "kernel_text": platform.kernel_text,
        "rng": platform.rng,
        "module": module,
    }))
}

/// What the guest's kernel module or its network did, as `module` or `net` puts it.
pub(crate) fn module(record: &Value) -> String {
    line(record)
}

/// A record that its maker has put together.
pub(crate) fn other(record: &Value) -> String {
    line(record)
}

/// What one repetition of a work did. `rep` counts from zero.
pub(crate) fn work(work: Work, rep: u32, measured: &Measured) -> String {
    let mut record = json!({
        "type": "work",
        "work": work.name(),
        "rep": rep,
        "ops": measured.ops,
        "ok": measured.check.is_ok(),
        "elapsed_ns": measured.elapsed_ns,
        "latency_ns": measured.latency.map(latency),
    });
    if let Err(error) = &measured.check {
        record["error"] = json!(error);
    }
    if let Some(detail) = &measured.detail {
        record["detail"] = detail.clone();
    }
    if let Some(note) = &measured.note {
        record["note"] = json!(note);
    }
    line(&record)
}

/// A work that cannot be done here.
pub(crate) fn skip(work: Work, rep: u32, reason: &str) -> String {
    line(&json!({ "type": "skip", "work": work.name(), "rep": rep, "reason": reason }))
}

/// The end of a run.
pub(crate) fn done(works: u64) -> String {
    line(&json!({ "type": "done", "works": works }))
}

/// Why there is no `done` record.
pub(crate) fn error(error: &str) -> String {
    line(&json!({ "type": "error", "error": error }))
}

fn latency(latency: Latency) -> Value {
    let Latency {
        n,
        min,
        median,
        p99,
        max,
        curve,
    } = latency;
    let curve: Vec<_> = CURVE_PER_MILLE.into_iter().zip(curve).collect();
    json!({ "n": n, "min": min, "median": median, "p99": p99, "max": max, "curve": curve })
}

fn line(record: &Value) -> String {
    format!("{PREFIX}{record}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use coopvirt_spec::record::find_in_line;

    fn parse(line: &str) -> Value {
        assert!(!line.contains('\n'), "a record is one line");
        serde_json::from_str(find_in_line(line).unwrap()).unwrap()
    }

    #[test]
    fn rec_1_a_work_record_has_the_documented_members() {
        let measured = Measured {
            ops: 3,
            elapsed_ns: 9,
            latency: Some(Latency {
                n: 3,
                min: 1,
                median: 2,
                p99: 3,
                max: 3,
                curve: [2; CURVE_PER_MILLE.len()],
            }),
            check: Ok(()),
            note: None,
            detail: None,
        };
        let curve: Vec<_> = CURVE_PER_MILLE.iter().map(|n| (n, 2)).collect();
        let expected = json!({
            "type": "work", "work": "sleep", "rep": 1, "ops": 3, "ok": true, "elapsed_ns": 9,
            "latency_ns": { "n": 3, "min": 1, "median": 2, "p99": 3, "max": 3,
                "curve": curve },
        });
        assert_eq!(parse(&work(Work::Sleep, 1, &measured)), expected);
    }

    #[test]
    fn rec_1_a_failed_work_says_why_in_one_line() {
        let measured = Measured {
            ops: 0,
            elapsed_ns: 0,
            latency: None,
            check: Err("page 3 holds\n\"4\"".to_string()),
            note: Some("n".to_string()),
            detail: Some(json!({ "lost": 0 })),
        };
        let record = parse(&work(Work::Touch, 0, &measured));
        assert_eq!(record["ok"], json!(false));
        assert_eq!(record["latency_ns"], Value::Null);
        assert_eq!(record["detail"]["lost"], json!(0));
        assert_eq!(record["error"], json!("page 3 holds\n\"4\""));
        assert_eq!(record["note"], json!("n"));
    }

    #[test]
    fn rec_1_the_other_types_have_their_members() {
        let record = parse(&skip(Work::Read1, 0, "no disk"));
        assert_eq!(
            (&record["type"], &record["reason"]),
            (&json!("skip"), &json!("no disk"))
        );
        assert_eq!(parse(&done(2)), json!({ "type": "done", "works": 2 }));
        assert_eq!(parse(&error("x"))["type"], json!("error"));
    }
}
