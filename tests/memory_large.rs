//! A guest with more memory than the other tests' host has: run it where there are 8 GiB.

use coopvirt_tests::Guest;

#[test]
fn six_gib() {
    let guest = Guest::new().cpus(2).memory("6G").works("touch,refill");
    // Without --overcommit: this host does have it.
    let outcome = guest.cmdline("coopvirt.scale=4").run();
    outcome.assert_powered_off();
    let found = outcome.platform()["memory_kib"]
        .as_u64()
        .expect("the guest knows");
    let all = 6 << 20;
    assert!(
        (all / 100 * 93..=all).contains(&found),
        "{found} of {all} KiB"
    );
}
