//! The guest's kernel module (`guest-kmod/`) in a Linux guest: it loads, the works pass, it goes and
//! leaves nothing behind. What it saves is `coopvirt compare`'s matter.
//!
//! Init loads it before the works and unloads it behind them, and reports what the kernel said
//! meanwhile (`benches/work/src/module.rs`).

use std::time::Duration;

use coopvirt_tests::lab::MODULE_KERNEL;
use coopvirt_tests::{Guest, Image, Outcome};
use serde_json::Value;

/// The error number of a device that is not there.
const ENODEV: i32 = 19;
/// Time limit of a guest that does much more than boot.
const LONG: Duration = Duration::from_secs(300);

fn guest(mode: &str, params: &str) -> Guest {
    Guest::with_kernel(MODULE_KERNEL, Image::Vmlinux)
        .cpus(2)
        .arguments(["--mode", mode])
        .cmdline("tsc=reliable no_timer_check coopvirt.scale=0.1 coopvirt.settle_ms=20")
        .cmdline(&format!("coopvirt.module={params}"))
}

/// The module's records: when it was loaded, and when it was unloaded.
#[track_caller]
fn modules(outcome: &Outcome) -> [&Value; 2] {
    let records: Vec<_> = outcome.records("module").collect();
    let [loaded, unloaded] = records[..] else {
        panic!("two records of the module expected: {records:?}");
    };
    for record in [loaded, unloaded] {
        assert_eq!(record["trouble"], serde_json::json!([]), "{record}");
    }
    [loaded, unloaded]
}

fn counter(record: &Value, cpu: &str, name: &str) -> u64 {
    let value = record["counters"][cpu][name].as_u64();
    value.unwrap_or_else(|| panic!("no counter {name} of {cpu} in {record}"))
}

/// Loads, works, unloads; with both records.
#[track_caller]
fn run(params: &str, works: &str) -> Outcome {
    let outcome = guest("coop", params).works(works).run();
    outcome.assert_powered_off();
    assert_eq!(outcome.platform()["module"], "loaded");
    let [loaded, unloaded] = modules(&outcome);
    assert_eq!(loaded["state"], "loaded");
    assert_eq!(unloaded["state"], "unloaded");
    assert_eq!(unloaded["idle"], "none/menu");
    outcome
}

#[test]
fn works_pass_with_it_and_it_leaves_nothing_behind() {
    let outcome = run("", "pipe,sleep,fork,tlb,busy,touch");
    assert_eq!(outcome.platform()["idle"], "coopvirt/menu");
    let [_, unloaded] = modules(&outcome);
    for cpu in ["cpu0", "cpu1"] {
        assert!(counter(unloaded, cpu, "idle_halts") > 0, "{unloaded}");
        assert_eq!(counter(unloaded, cpu, "broken"), 0);
    }
    let polls: u64 = ["cpu0", "cpu1"]
        .map(|cpu| counter(unloaded, cpu, "idle_polls"))
        .iter()
        .sum();
    assert!(
        polls > 0,
        "two threads that wait for each other: {unloaded}"
    );
}

#[test]
fn each_feature_can_be_switched_off() {
    let outcome = run("idle=0", "pipe");
    assert_eq!(outcome.platform()["idle"], "none/menu");
    let [loaded, unloaded] = modules(&outcome);
    assert!(loaded["text"].as_str().unwrap_or("").contains("idle off"));
    assert_eq!(counter(unloaded, "cpu0", "idle_halts"), 0);
    let outcome = run("level=0", "none");
    assert_eq!(outcome.platform()["idle"], "none/menu");
}

#[test]
fn its_own_tests_pass() {
    let outcome = run("selftest=1", "none");
    let [loaded, _] = modules(&outcome);
    let text = loaded["selftest"].as_str().expect("text");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("KTAP version 1"));
    let plan = lines.next().and_then(|line| line.strip_prefix("1.."));
    let planned: usize = plan.and_then(|n| n.parse().ok()).expect("a plan");
    let results: Vec<_> = lines.collect();
    assert!(results.iter().all(|line| line.starts_with("ok ")), "{text}");
    assert!(planned >= 6 && results.len() == planned, "{text}");
}

/// Where somebody else has the idle slot, only that feature is off.
#[test]
fn a_taken_idle_slot_leaves_the_rest() {
    let outcome = guest("coop", "").cmdline("cpuidle_haltpoll.force=1");
    let outcome = outcome.works("pipe").run();
    outcome.assert_powered_off();
    assert_eq!(outcome.platform()["module"], "loaded");
    assert_eq!(outcome.platform()["idle"], "haltpoll/haltpoll");
    let [loaded, unloaded] = modules(&outcome);
    let log = loaded["log"].to_string();
    assert!(
        log.contains("idle is off: the kernel has the idle driver"),
        "{log}"
    );
    assert_eq!(unloaded["idle"], "haltpoll/haltpoll");
    assert_eq!(unloaded["state"], "unloaded");
}

/// Where there is no host for it: refused with a reason, and nothing is left.
#[test]
fn other_hosts_are_refused() {
    for mode in ["kvm", "hvm"] {
        let outcome = guest(mode, "").works("pipe").run();
        outcome.assert_powered_off();
        assert_eq!(outcome.platform()["module"], format!("refused: {ENODEV}"));
        assert_eq!(outcome.platform()["idle"], "none/menu");
        let record = outcome.record("module");
        let reason = "not loaded: this machine's hypervisor is not Coopvirt";
        assert!(record["log"].to_string().contains(reason), "{record}");
        assert_eq!(record["text"], "", "files are left: {record}");
        assert_eq!(record["trouble"], serde_json::json!([]));
    }
}

/// It comes and goes under load, and so does a CPU while it is there; the works still pass.
#[test]
fn it_comes_and_goes_under_load() {
    let cycles = 25;
    let guest = guest("coop", "").cmdline(&format!("coopvirt.module_cycles={cycles}"));
    let outcome = guest.works("pipe,sleep").limit(LONG).run();
    outcome.assert_powered_off();
    let record = outcome.record("module_cycles");
    assert_eq!(record["ok"], true, "{record}");
    assert_eq!(record["cycles"], cycles);
    modules(&outcome);
}
