//! Boots Debian's kernels to their init: every kernel, both boot protocols, 1 to 8 vCPUs, every
//! mode. Without `COOPVIRT_LONG` each kernel by each protocol once; `disk.rs` has four vCPUs. The guest itself says what it found (its `platform` record) and powers off.

use coopvirt::kvm::features;
use coopvirt_tests::{Console, Guest, Image, Lab, Outcome};

/// KVM features as the guest read them from its CPUID.
fn kvm_features(outcome: &Outcome) -> u32 {
    let text = outcome.platform()["kvm_features"]
        .as_str()
        .expect("KVM's leaf is there");
    u32::from_str_radix(text.trim_start_matches("0x"), 16).expect("a hexadecimal number")
}

fn boots(kernel: &str, image: Image, cpus: u32) {
    let outcome = Guest::with_kernel(kernel, image).cpus(cpus).run();
    outcome.assert_powered_off();
    let platform = outcome.platform();
    assert_eq!(platform["kernel"], Lab::find().release(kernel));
    assert_eq!(platform["cpus"], cpus);
    assert_eq!(platform["hypervisor"], "KVM");
    assert_eq!(platform["clocksource"], "kvm-clock");
    assert_eq!(platform["x2apic"], true);
    assert_eq!(platform["rng"], "virtio_rng.0");
}

macro_rules! matrix {
    ($($kernel:ident = $name:literal),*) => {$(
        mod $kernel {
            use super::{boots, Image};

            #[test]
            #[ignore = "with COOPVIRT_LONG"]
            fn vmlinuz_1_vcpu() {
                boots($name, Image::Vmlinuz, 1);
            }

            #[test]
            fn vmlinuz_2_vcpus() {
                boots($name, Image::Vmlinuz, 2);
            }

            #[test]
            #[ignore = "with COOPVIRT_LONG"]
            fn vmlinuz_4_vcpus() {
                boots($name, Image::Vmlinuz, 4);
            }

            #[test]
            fn vmlinux_1_vcpu() {
                boots($name, Image::Vmlinux, 1);
            }

            #[test]
            #[ignore = "with COOPVIRT_LONG"]
            fn vmlinux_2_vcpus() {
                boots($name, Image::Vmlinux, 2);
            }

            #[test]
            #[ignore = "with COOPVIRT_LONG"]
            fn vmlinux_4_vcpus() {
                boots($name, Image::Vmlinux, 4);
            }
        }
    )*};
}

matrix!(
    linux_6_12 = "6.12-amd64",
    linux_6_12_cloud = "6.12-cloud",
    linux_6_1 = "6.1-amd64",
    linux_6_1_cloud = "6.1-cloud"
);

#[test]
fn eight_vcpus() {
    let outcome = Guest::new().cpus(8).memory("512M").run();
    outcome.assert_powered_off();
    assert_eq!(outcome.platform()["cpus"], 8);
}

#[test]
fn serial_console() {
    let outcome = Guest::new()
        .console(Console::Serial)
        .cmdline("loglevel=7")
        .run();
    outcome.assert_powered_off();
    let banner = format!("Linux version {}", Lab::find().release("6.12-cloud"));
    assert!(
        outcome.console.contains(&banner),
        "messages from the first on"
    );
}

/// Devices have no other interrupts than MSI-X: without it there are none, and the user is told instead of a console.
#[test]
fn a_guest_without_msi_is_told_of() {
    let outcome = Guest::new().cmdline("pci=nomsi").run();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    let line = "coopvirt: the guest's driver gave up on virtio-console: it never enabled MSI-X";
    assert!(outcome.stderr.contains(line), "{}", outcome.stderr);
}

// --- hvm: plain hardware-assisted virtualization ---

/// What a guest needs on its command line where no hypervisor vouches for its clock.
const HVM_CMDLINE: &str = "tsc=reliable no_timer_check";

fn hvm(cpus: u32) {
    let guest = Guest::new().cpus(cpus).cmdline(HVM_CMDLINE);
    let outcome = guest.arguments(["--mode", "hvm"]).run();
    outcome.assert_powered_off();
    let platform = outcome.platform();
    assert_eq!(platform["cpus"], cpus);
    assert_eq!(platform["clocksource"], "tsc");
    assert_eq!(platform["hypervisor"], "none");
    assert_eq!(platform["x2apic"], false);
    let apic = platform["apic"].as_str().expect("a name");
    assert!(!apic.contains("x2apic"), "{apic}");
    assert!(platform["kvm_features"].is_null(), "no KVM leaf");
}

#[test]
fn hvm_1_vcpu() {
    hvm(1);
}

#[test]
fn hvm_2_vcpus() {
    hvm(2);
}

#[test]
fn hvm_with_x2apic_shows_kvm_without_features() {
    let guest = Guest::new().cpus(2).cmdline(HVM_CMDLINE);
    let outcome = guest.arguments(["--mode", "hvm", "--x2apic"]).run();
    outcome.assert_powered_off();
    let platform = outcome.platform();
    assert_eq!(platform["clocksource"], "tsc");
    assert_eq!(platform["hypervisor"], "KVM");
    assert_eq!(platform["x2apic"], true);
    let apic = platform["apic"].as_str().expect("a name");
    assert!(apic.contains("x2apic"), "{apic}");
    assert_eq!(kvm_features(&outcome), 0);
}

// --- what the guest may know of KVM ---

#[test]
fn all_kvm_features_are_the_default() {
    let outcome = Guest::new().run();
    outcome.assert_powered_off();
    let known = features::parse("all").expect("a valid list");
    let shown = kvm_features(&outcome);
    assert_eq!(shown & !known, 0, "{shown:#x} has bits without a name");
    let needed = features::parse("clock,pv-eoi,pv-send-ipi,pv-tlb-flush").expect("a valid list");
    assert_eq!(shown & needed, needed, "{shown:#x}");
}

#[test]
fn the_guest_sees_only_the_kvm_features_asked_for() {
    let outcome = Guest::new()
        .arguments(["--kvm-features", "clock,pv-eoi"])
        .run();
    outcome.assert_powered_off();
    let expected = features::parse("clock,pv-eoi").expect("a valid list");
    assert_eq!(kvm_features(&outcome), expected);
    assert_eq!(outcome.platform()["clocksource"], "kvm-clock");
}

#[test]
fn a_guest_without_kvm_features_uses_none() {
    let guest = Guest::new().cmdline(HVM_CMDLINE);
    let outcome = guest.arguments(["--kvm-features", "none"]).run();
    outcome.assert_powered_off();
    assert_eq!(kvm_features(&outcome), 0);
    assert_eq!(outcome.platform()["clocksource"], "tsc");
}

// --- how it runs ---

#[test]
fn hlt_without_exits() {
    let folder = coopvirt_tests::files::Folder::new();
    let report = folder.path("exits.json");
    let guest = Guest::new().arguments(["--disable-exits", "hlt", "--exits"]);
    let outcome = guest.arguments([&report]).run();
    assert_eq!(outcome.status(), 0, "{}", outcome.stderr);
    outcome.done();
    let text = std::fs::read(&report).expect("a report");
    let report: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let reasons = report["whole"]["by_reason"].as_object().expect("traced");
    assert!(
        !reasons.is_empty() && !reasons.contains_key("HLT"),
        "{reasons:?}"
    );
}

#[test]
fn no_halt_polling_and_memory_populated_first() {
    let outcome = Guest::new()
        .arguments(["--halt-poll", "0", "--prefault"])
        .run();
    outcome.assert_powered_off();
}

#[test]
fn small_pages_and_pinned_threads() {
    let guest = Guest::new().cpus(2).arguments(["--no-huge-pages", "--pin"]);
    guest.arguments(["1,2,0"]).run().assert_powered_off();
}
