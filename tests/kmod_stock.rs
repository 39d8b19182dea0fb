//! The guest's kernel module in Debian's own kernels, as their packages have them: built without Rust, which the module
//! brings itself (`guest-kmod/stock.mk`). It loads, its tests pass, its hooks are used, it goes and leaves nothing behind.
//!
//! What the module does beyond that is the same code as in `kmod`, `kmod_hooks` and `kmod_life`.

use std::time::Duration;

use coopvirt_tests::lab::Lab;
use coopvirt_tests::{Guest, Image, Outcome};
use serde_json::Value;

const CLOUD: &str = "6.12-cloud";
const AMD64: &str = "6.12-amd64";
/// The error number of a device that is not there.
const ENODEV: i32 = 19;
/// Time limit of a guest that does much more than boot.
const LONG: Duration = Duration::from_secs(300);
/// All that can be switched.
const HOOKS: [&str; 5] = ["idle", "timer", "ipi", "populate", "release"];

fn guest(kernel: &str, mode: &str, params: &str) -> Guest {
    Guest::with_kernel(kernel, Image::Vmlinuz)
        .cpus(2)
        .memory("512M")
        .arguments(["--mode", mode])
        .cmdline("tsc=reliable no_timer_check coopvirt.scale=0.1 coopvirt.settle_ms=20")
        .cmdline(&format!("coopvirt.module={params}"))
}

/// The module's records: when it was loaded, and when it was unloaded; the kernel had nothing to complain of.
#[track_caller]
fn modules(outcome: &Outcome) -> [&Value; 2] {
    let records: Vec<_> = outcome.records("module").collect();
    let [loaded, unloaded] = records[..] else {
        panic!("two records of the module expected: {records:?}");
    };
    for record in [loaded, unloaded] {
        assert_eq!(record["trouble"], serde_json::json!([]), "{record}");
    }
    assert_eq!(loaded["state"], "loaded");
    assert_eq!(unloaded["state"], "unloaded");
    assert_eq!(unloaded["idle"], "none/menu");
    [loaded, unloaded]
}

/// The sum of a counter over all CPUs.
#[track_caller]
fn counter(record: &Value, name: &str) -> u64 {
    let groups = record["counters"]
        .as_object()
        .expect("counters by CPU")
        .values();
    let found: Vec<u64> = groups.filter_map(|group| group[name].as_u64()).collect();
    assert!(!found.is_empty(), "no counter {name} in {record}");
    found.iter().sum()
}

/// Loads it into this kernel, tests it, lets works use all hooks, unloads it.
fn all_of_it(kernel: &str, works: &str) -> Outcome {
    let guest = guest(kernel, "coop", "selftest=1").arguments(["--sidecore", "always"]);
    let outcome = guest.works(works).limit(LONG).run();
    outcome.assert_powered_off();
    assert_eq!(outcome.platform()["kernel"], Lab::find().release(kernel));
    assert_eq!(outcome.platform()["module"], "loaded");
    assert_eq!(outcome.platform()["idle"], "coopvirt/menu");
    let [loaded, unloaded] = modules(&outcome);

    let text = loaded["selftest"].as_str().expect("text");
    let results: Vec<_> = text.lines().skip(2).collect();
    assert!(results.len() >= 6, "{text}");
    assert!(results.iter().all(|line| line.starts_with("ok ")), "{text}");

    let state = loaded["text"].as_str().expect("text");
    for hook in HOOKS {
        let line = format!("{hook} on");
        assert!(state.lines().any(|found| found == line), "{line}: {state}");
    }
    let own = loaded["log"].to_string();
    assert!(own.contains("coopvirt: loaded: host "), "{own}");

    let [published, elided, fallback] =
        ["deadline_published", "deadline_elided", "deadline_fallback"]
            .map(|name| counter(unloaded, name));
    assert!(published > 0, "{unloaded}");
    assert_eq!(published, elided + fallback);
    let ipis = ["ipi_elided", "ipi_fallback", "ipi_skipped"].map(|name| counter(unloaded, name));
    assert!(ipis.iter().sum::<u64>() > 0, "{unloaded}");
    assert!(counter(unloaded, "idle_polls") > 0, "{unloaded}");
    assert!(counter(unloaded, "idle_halts") > 0, "{unloaded}");
    for name in ["broken", "timer_lost", "populate_failed", "release_failed"] {
        assert_eq!(counter(unloaded, name), 0, "{name}: {unloaded}");
    }
    outcome
}

#[test]
fn debians_cloud_kernel_is_enlightened() {
    all_of_it(CLOUD, "pipe,sleep,fork,tlb,busy,touch");
}

#[test]
fn debians_other_kernel_is_enlightened() {
    all_of_it(AMD64, "pipe,sleep");
}

/// Free memory is given back and asked for again, in blocks; nobody is refused.
#[test]
fn memory_comes_and_goes_in_blocks() {
    let guest = guest(CLOUD, "coop", "idle=0,timer=0,ipi=0");
    // Long enough that the kernel reports much of what is free, a part of it each two seconds.
    let guest = guest.cmdline("coopvirt.scale=1 coopvirt.reps=2 coopvirt.settle_ms=15000");
    let outcome = guest.works("touch").limit(LONG).run();
    outcome.assert_powered_off();
    let [_, unloaded] = modules(&outcome);
    for name in ["blocks_released", "blocks_misses", "populate_pieces"] {
        assert!(counter(unloaded, name) > 0, "{name}: {unloaded}");
    }
    for name in ["populate_failed", "release_failed"] {
        assert_eq!(counter(unloaded, name), 0, "{name}: {unloaded}");
    }
}

/// Where there is no host for it: refused with a reason, and nothing is left.
#[test]
fn other_hosts_are_refused() {
    for mode in ["kvm", "hvm"] {
        let outcome = guest(CLOUD, mode, "").works("pipe").run();
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

/// It comes and goes under load, and so does a CPU while it is there; each time the kernel's own functions are back.
#[test]
fn it_comes_and_goes_under_load() {
    let cycles = 10;
    let guest = guest(CLOUD, "coop", "").cmdline(&format!("coopvirt.module_cycles={cycles}"));
    let outcome = guest.works("pipe,sleep").limit(LONG).run();
    outcome.assert_powered_off();
    let record = outcome.record("module_cycles");
    assert_eq!(record["ok"], true, "{record}");
    assert_eq!(record["cycles"], cycles);
    modules(&outcome);
}
