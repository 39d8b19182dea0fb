//! The time-stamp counter, as clock and for limits.

use core::sync::atomic::{AtomicU64, Ordering};

use super::cpuid;

/// Taken where nobody says the frequency: then only limits depend on it.
const GUESS_HZ: u64 = 1_000_000_000;

static HZ: AtomicU64 = AtomicU64::new(GUESS_HZ);

/// Reads the counter; not before what comes before it.
#[allow(unused_unsafe, unsafe_code, reason = "safe in some releases of Rust")]
pub fn now() -> u64 {
    // SAFETY: every CPU with 64-bit mode has both instructions.
    unsafe {
        core::arch::x86_64::_mm_lfence();
        core::arch::x86_64::_rdtsc()
    }
}

/// Finds the frequency: CPUID leaf 0x15, else what the VMM put on the command line.
pub fn find_frequency(cmdline_khz: Option<u64>) {
    let crystal = cpuid::leaf(0x15, 0);
    let max_leaf = cpuid::leaf(0, 0).eax;
    let from_leaf = (max_leaf >= 0x15 && crystal.eax != 0)
        .then(|| u64::from(crystal.ecx) * u64::from(crystal.ebx) / u64::from(crystal.eax))
        .filter(|&hz| hz != 0);
    if let Some(hz) = from_leaf.or(cmdline_khz.map(|khz| khz.saturating_mul(1000))) {
        HZ.store(hz, Ordering::Relaxed);
    }
}

/// Ticks in a second.
pub fn hz() -> u64 {
    HZ.load(Ordering::Relaxed)
}

/// Ticks in so many microseconds.
pub fn ticks(us: u64) -> u64 {
    let ticks = u128::from(us) * u128::from(hz()) / 1_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// Waits so long, busily.
pub fn wait_us(us: u64) {
    let end = now().saturating_add(ticks(us));
    while now() < end {
        core::hint::spin_loop();
    }
}

/// How long a guest waits for something that has to come: long for one vCPU of many on a busy,
/// emulated host, and shorter than the host's own time limit.
pub const LIMIT_US: u64 = 20_000_000;

/// Spins until `is_done`; panics at the caller's place when [`LIMIT_US`] is over.
#[track_caller]
pub fn spin_until(what: &str, mut is_done: impl FnMut() -> bool) {
    let end = now().saturating_add(ticks(LIMIT_US));
    while !is_done() {
        assert!(now() < end, "waited in vain: {what}");
        core::hint::spin_loop();
    }
}
