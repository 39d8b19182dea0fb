//! The guest's kernel module under words on the kernel's command line that take away what it works with: CPUs, idle
//! drivers, timers, clocks. Whatever is missing, it does without, the works pass, and nothing is left behind.

use coopvirt_tests::lab::MODULE_KERNEL;
use coopvirt_tests::{Guest, Image, Outcome};

/// Works that one CPU is enough for.
const ONE_CPU: &str = "sleep,fork,busy,touch";
const TWO_CPUS: &str = "pipe,sleep,fork,tlb,busy,touch";

/// Loads, works and unloads in a guest with these words; what the module said of its features when it was loaded.
#[track_caller]
fn under(words: &str, works: &str) -> (Outcome, String) {
    let guest = Guest::with_kernel(MODULE_KERNEL, Image::Vmlinux)
        .cpus(2)
        .arguments(["--mode", "coop"])
        .cmdline("tsc=reliable no_timer_check coopvirt.scale=0.1 coopvirt.settle_ms=20")
        .cmdline(&format!("{words} coopvirt.module="));
    let outcome = guest.works(works).run();
    outcome.assert_powered_off();
    let records: Vec<_> = outcome.records("module").collect();
    for record in &records {
        assert_eq!(record["trouble"], serde_json::json!([]), "{record}");
    }
    let states: Vec<_> = records.iter().map(|record| &record["state"]).collect();
    assert_eq!(states, ["loaded", "unloaded"], "{words}");
    let text = records[0]["text"].as_str().expect("text").to_owned();
    (outcome, text)
}

/// All features are on.
#[track_caller]
fn all_of_it_under(words: &str, works: &str) {
    let (_, text) = under(words, works);
    for feature in ["idle", "timer", "ipi", "populate", "release"] {
        assert!(text.contains(&format!("{feature} on\n")), "{words}: {text}");
    }
}

#[test]
fn one_cpu_of_two() {
    for words in ["maxcpus=1", "nr_cpus=1", "nosmp"] {
        all_of_it_under(words, ONE_CPU);
    }
}

#[test]
fn other_ways_to_wait() {
    for words in ["idle=halt", "idle=nomwait", "idle=poll", "cpuidle.off=1"] {
        let (_, text) = under(words, TWO_CPUS);
        assert!(
            text.contains("idle refused") && text.contains("timer on\nipi on"),
            "{words}: {text}"
        );
    }
}

#[test]
fn other_ticks_and_clocks() {
    for words in ["nohz=off highres=off", "no-kvmclock", "nox2apic"] {
        all_of_it_under(words, TWO_CPUS);
    }
}

#[test]
fn a_kernel_that_uses_nothing_of_its_hypervisor() {
    let (outcome, _) = under("nopv", TWO_CPUS);
    assert_eq!(outcome.platform()["hypervisor"], "none");
}

#[test]
fn a_time_stamp_counter_that_is_not_trusted_is_none_for_deadlines() {
    let (outcome, text) = under("tsc=unstable", TWO_CPUS);
    assert!(text.contains("idle on\ntimer refused"), "{text}");
    let log = outcome
        .records("module")
        .next()
        .map(|record| record["log"].to_string());
    let reason = "timer is off: the time stamp counter is not to be trusted";
    assert!(log.expect("a record").contains(reason));
}
