//! Guest memory on both sides of the PCI hole. The host may have less: it is only touched in part.

use coopvirt_tests::{Guest, Image, Outcome};

const MIB: u64 = 1 << 10;

/// Checks that the guest has nearly all of its memory: its kernel keeps some for itself.
fn assert_memory(outcome: &Outcome, mib: u64) {
    let found = outcome.platform()["memory_kib"]
        .as_u64()
        .expect("the guest knows");
    let all = mib * MIB;
    assert!(
        (all / 100 * 93..=all).contains(&found),
        "{found} of {all} KiB"
    );
}

fn has_memory(image: Image, mib: u64) {
    let guest = Guest::with_kernel("6.12-cloud", image).memory(&format!("{mib}M"));
    // Fresh memory is taken from the top, so this touches what lies highest.
    let outcome = guest.arguments(["--overcommit"]).works("touch").run();
    outcome.assert_powered_off();
    assert_eq!(outcome.work("touch")["ok"], true);
    assert_memory(&outcome, mib);
}

#[test]
fn three_gib_end_at_the_pci_hole() {
    has_memory(Image::Vmlinux, 3 << 10);
}

#[test]
fn four_gib_go_around_the_pci_hole_by_pvh() {
    has_memory(Image::Vmlinux, 4 << 10);
}

#[test]
fn four_gib_go_around_the_pci_hole_by_bzimage() {
    has_memory(Image::Vmlinuz, 4 << 10);
}

#[test]
fn a_little_memory_is_enough() {
    let outcome = Guest::new().memory("96M").run();
    outcome.assert_powered_off();
    let found = outcome.platform()["memory_kib"]
        .as_u64()
        .expect("the guest knows");
    assert!(found < 96 * MIB, "{found}");
}
