//! What the guest really runs on: clock, timer, APIC driver, idle driver, hypervisor.
//!
//! A comparison is void if its arms did not run on what they claim, so this is read inside the
//! guest, once, before the works. Missing sources read as "unknown", never as an error.

use crate::sys;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// Where the first lines of the kernel's log say which APIC driver it switched to.
const APIC_SWITCH: &str = "Switched APIC routing to";
/// The lowest address that a kernel's image can have (`__START_KERNEL_map`).
const KERNEL_IMAGE: u64 = 0xffff_ffff_8000_0000;
const HYPERVISOR: &str = "Hypervisor detected:";
/// The kernel's log has a line per paravirtual feature that it uses; these begin them.
const KVM_LINES: [&str; 3] = ["kvm-guest:", "kvm-clock:", "KVM setup"];

/// What the kernel calls the TSC until it has measured it once more, for a second or two behind its
/// boot: a fast init is there before.
const CLOCK_FOR_NOW: &str = "tsc-early";
const CLOCK_LOOKS: u32 = 200;
const CLOCK_LOOK_EVERY: Duration = Duration::from_millis(50);

/// All that a `platform` record says.
#[derive(Debug)]
pub(crate) struct Platform {
    pub(crate) kernel: String,
    pub(crate) clocksource: String,
    pub(crate) clockevent: String,
    pub(crate) apic: String,
    pub(crate) idle: String,
    pub(crate) hypervisor: String,
    pub(crate) cpus: usize,
    pub(crate) has_x2apic: bool,
    /// EAX of KVM's feature leaf, in hex; `None` without one.
    pub(crate) kvm_features: Option<String>,
    /// The kernel's own words about paravirtual features.
    pub(crate) kvm_log: Vec<String>,
    /// All memory that the kernel can use.
    pub(crate) memory_kib: Option<u64>,
    /// Where the kernel's text begins, in hex, so that the host can name what lies in it.
    pub(crate) kernel_text: Option<String>,
    /// The random number generator behind /dev/hwrng.
    pub(crate) rng: String,
}

impl Platform {
    /// Reads everything; `cpus` is known already.
    pub(crate) fn read(cpus: usize) -> Platform {
        let log = sys::boot::read_kernel_log().ok();
        let cpu = Path::new("/sys/devices/system");
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Platform {
            kernel: first_line(Path::new("/proc/sys/kernel/osrelease")),
            clocksource: clocksource(&cpu.join("clocksource/clocksource0/current_clocksource")),
            clockevent: first_line(&cpu.join("clockevents/clockevent0/current_device")),
            apic: log.as_deref().map_or_else(unknown, apic_driver),
            idle: idle_driver(),
            hypervisor: log.as_deref().map_or_else(unknown, hypervisor),
            cpus,
            has_x2apic: has_flag(&cpuinfo, "x2apic"),
            kvm_features: find_kvm_features(sys::cpu::read_cpuid).map(|eax| format!("{eax:#010x}")),
            kvm_log: log.as_deref().map_or_else(Vec::new, kvm_lines),
            memory_kib: fs::read_to_string("/proc/meminfo")
                .ok()
                .and_then(|text| memory_kib(&text)),
            kernel_text: fs::File::open("/proc/kallsyms")
                .ok()
                .and_then(|file| kernel_text(BufReader::new(file))),
            rng: first_line(Path::new("/sys/class/misc/hw_random/rng_current")),
        }
    }
}

/// The address of `_text` or `_stext`. Symbols come in the order of addresses, those of CPUs' own
/// data first, so that little is read; all are zero where the kernel hides them.
fn kernel_text(symbols: impl BufRead) -> Option<String> {
    for line in symbols.lines().map_while(Result::ok) {
        let mut words = line.split_ascii_whitespace();
        let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let address = u64::from_str_radix(address, 16).ok()?;
        if address >= KERNEL_IMAGE {
            // Every kernel begins so; some symbols share the address.
            let is_first = matches!(name, "_text" | "_stext" | "startup_64");
            return is_first.then(|| format!("{address:#x}"));
        }
    }
    None
}

/// The clock that the works will run on; the one for now is waited out, at most ten seconds.
fn clocksource(path: &Path) -> String {
    let mut name = first_line(path);
    for _ in 0..CLOCK_LOOKS {
        if name != CLOCK_FOR_NOW {
            break;
        }
        sleep(CLOCK_LOOK_EVERY);
        name = first_line(path);
    }
    name
}

/// The idle driver and governor, as `driver/governor`.
pub(crate) fn idle_driver() -> String {
    let folder = Path::new("/sys/devices/system/cpu/cpuidle");
    format!(
        "{}/{}",
        first_line(&folder.join("current_driver")),
        first_line(&folder.join("current_governor"))
    )
}

/// The driver named last; the kernel says nothing if it stays with the one that it began with.
fn apic_driver(log: &str) -> String {
    log.lines()
        .filter_map(|line| line.split_once(APIC_SWITCH))
        .map(|(_, name)| name.trim_matches(|c: char| c == ':' || c == '.' || c.is_whitespace()))
        .next_back()
        .unwrap_or("flat (default)")
        .to_string()
}

fn hypervisor(log: &str) -> String {
    let found = log.lines().find_map(|line| line.split_once(HYPERVISOR));
    found.map_or("none", |(_, name)| name.trim()).to_string()
}

fn kvm_lines(log: &str) -> Vec<String> {
    let from = |line: &str| {
        let at = KVM_LINES
            .iter()
            .filter_map(|start| line.find(start))
            .min()?;
        line.get(at..).map(|text| text.trim().to_string())
    };
    log.lines().filter_map(from).collect()
}

fn memory_kib(meminfo: &str) -> Option<u64> {
    let mut lines = meminfo.lines();
    let total = lines.find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().trim_end_matches("kB").trim().parse().ok()
}

fn has_flag(cpuinfo: &str, flag: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| line.split_whitespace().any(|word| word == flag))
}

/// Looks for KVM's block of hypervisor leaves, which need not be the first.
fn find_kvm_features(cpuid: impl Fn(u32) -> [u32; 4]) -> Option<u32> {
    const HYPERVISOR_BIT: u32 = 1 << 31;
    let signature = [b"KVMK", b"VMKV", b"M\0\0\0"].map(|part| u32::from_le_bytes(*part));
    if cpuid(1)[2] & HYPERVISOR_BIT == 0 {
        return None;
    }
    let base = (0x4000_0000u32..0x4001_0000).step_by(0x100).find(|&base| {
        let [_, ebx, ecx, edx] = cpuid(base);
        [ebx, ecx, edx] == signature
    })?;
    Some(cpuid(base + 1)[0])
}

fn first_line(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    match text.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() => line.to_string(),
        _ => unknown(),
    }
}

fn unknown() -> String {
    "unknown".to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_text_begins_at_the_first_symbol_of_its_image() {
        let text = |symbols: &str| kernel_text(symbols.as_bytes());
        let good = "0000000000000000 D __per_cpu_start\nffffffff9ae00000 T startup_64\n";
        assert_eq!(text(good).as_deref(), Some("0xffffffff9ae00000"));
        assert_eq!(text("0000000000000000 T _text\n"), None);
        assert_eq!(text("ffffffff9ae00000 T late\n"), None);
        assert_eq!(text("x y z\n"), None);
    }

    #[test]
    fn the_apic_driver_is_found_in_both_kernels_words() {
        let old = "<6>[    0.1] x\n<6>[    0.2] Switched APIC routing to physical flat.\n";
        let new = "<6>[    0.2] APIC: Switched APIC routing to: cluster x2apic\n";
        assert_eq!(apic_driver(old), "physical flat");
        assert_eq!(apic_driver(new), "cluster x2apic");
        assert_eq!(apic_driver(&format!("{old}{new}")), "cluster x2apic");
        assert_eq!(apic_driver("nothing"), "flat (default)");
    }

    #[test]
    fn the_hypervisor_and_its_features_are_found_in_the_log() {
        let log = "<6>[ 0.0] Hypervisor detected: KVM\n<6>[ 0.0] kvm-clock: Using msrs 4b564d01\n\
                   <6>[ 0.1] kvm-guest: KVM setup pv remote TLB flush\n<6>[ 0.1] other\n";
        assert_eq!(hypervisor(log), "KVM");
        assert_eq!(
            kvm_lines(log),
            [
                "kvm-clock: Using msrs 4b564d01",
                "kvm-guest: KVM setup pv remote TLB flush"
            ]
        );
        assert_eq!(hypervisor("bare"), "none");
    }

    #[test]
    fn memory_is_read_from_meminfo() {
        let text = "MemTotal:        2036448 kB\nMemFree: 1 kB\n";
        assert_eq!(memory_kib(text), Some(2_036_448));
        assert_eq!(memory_kib("MemFree: 1 kB"), None);
    }

    #[test]
    fn cpu_flags_match_as_whole_words() {
        assert!(has_flag(
            "processor : 0\nflags\t\t: fpu x2apic pge\n",
            "x2apic"
        ));
        assert!(!has_flag("flags : fpu x2apicv\nbugs : x2apic\n", "x2apic"));
    }

    #[test]
    fn kvm_leaves_are_found_behind_another_block() {
        let cpuid = |leaf| match leaf {
            1 => [0, 0, 1 << 31, 0],
            0x4000_0100 => [0, 0x4b4d_564b, 0x564b_4d56, 0x4d],
            0x4000_0101 => [0x0100_7efb, 0, 0, 0],
            _ => [0; 4],
        };
        assert_eq!(find_kvm_features(cpuid), Some(0x0100_7efb));
        assert_eq!(find_kvm_features(|_| [0; 4]), None);
        assert_eq!(
            find_kvm_features(|leaf| [0, 0, u32::from(leaf == 1) << 31, 0]),
            None
        );
    }
}
