//! Keeps the drain thread off the CPUs that are set apart for vCPUs.
//!
//! On a CPU in `nohz_full` a second runnable thread brings the tick back, so draining there would
//! cause the very exits that are counted.
#![expect(unsafe_code)]
// UNSAFETY: sched_setaffinity is a foreign function that reads a plain bit set.

use std::mem;

/// Binds the calling thread to the online CPUs that are not in `nohz_full`, if there are both
/// kinds. Failure is harmless: the thread then runs where the scheduler puts it.
pub(super) fn avoid_nohz_full_cpus() {
    let list = |path: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        super::rings::parse_cpu_list(text.trim()).unwrap_or_default()
    };
    let apart = list("/sys/devices/system/cpu/nohz_full");
    if apart.is_empty() {
        return;
    }
    let mut cpus = list("/sys/devices/system/cpu/online");
    cpus.retain(|cpu| !apart.contains(cpu));
    bind_to(&cpus);
}

fn bind_to(cpus: &[usize]) {
    // SAFETY: cpu_set_t is a plain array of integers, for which all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    let capacity = mem::size_of::<libc::cpu_set_t>() * 8;
    let mut is_empty = true;
    for cpu in cpus.iter().filter(|cpu| **cpu < capacity) {
        // SAFETY: CPU_SET writes one bit, and `cpu` is below the number of bits.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
        is_empty = false;
    }
    if is_empty {
        return;
    }
    // SAFETY: `set` is a valid set of the size given; pid 0 is the calling thread.
    unsafe { libc::sched_setaffinity(0, mem::size_of::<libc::cpu_set_t>(), &set) };
}
