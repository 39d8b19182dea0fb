//! Addresses of kernel functions, for filters on timer callbacks.

use std::fs::File;
use std::io::{BufRead, BufReader};

/// The host's tick as a high-resolution timer: `tick_nohz_handler` since Linux 6.9, before that
/// `tick_sched_timer`.
pub const TICK_FUNCTIONS: [&str; 2] = ["tick_sched_timer", "tick_nohz_handler"];
/// KVM's emulation of a guest's local APIC timer.
pub const GUEST_TIMER_FUNCTION: &str = "apic_timer_fn";

/// The timer callbacks that tell interrupts apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimerFunctions {
    /// The host's tick.
    pub host_tick: u64,
    /// The guest's timer.
    pub guest_timer: u64,
}

/// Finds them in `/proc/kallsyms`; the error is a text for reports.
pub fn timer_functions() -> Result<TimerFunctions, String> {
    let file = File::open("/proc/kallsyms").map_err(|e| format!("/proc/kallsyms: {e}"))?;
    find_timer_functions(BufReader::new(file))
}

fn find_timer_functions(symbols: impl BufRead) -> Result<TimerFunctions, String> {
    let mut ticks = [None; TICK_FUNCTIONS.len()];
    let mut guest_timer = None;
    for line in symbols.lines().map_while(Result::ok) {
        // "ffffffff81234560 t apic_timer_fn\t[kvm]"
        let mut words = line.split_ascii_whitespace();
        let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let slot = match TICK_FUNCTIONS.iter().position(|tick| *tick == name) {
            Some(index) => &mut ticks[index],
            None if name == GUEST_TIMER_FUNCTION => &mut guest_timer,
            None => continue,
        };
        *slot = u64::from_str_radix(address, 16).ok();
    }
    // An old kernel has both names, and only the first is a timer callback there.
    let host_tick = ticks.into_iter().flatten().next();
    let host_tick = host_tick.ok_or("the host's tick function is not in /proc/kallsyms")?;
    let guest_timer = guest_timer.ok_or("apic_timer_fn is not in /proc/kallsyms (kvm loaded?)")?;
    if host_tick == 0 || guest_timer == 0 {
        return Err("/proc/kallsyms hides addresses: run as root, kernel.kptr_restrict < 2".into());
    }
    Ok(TimerFunctions {
        host_tick,
        guest_timer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str) -> Result<TimerFunctions, String> {
        find_timer_functions(text.as_bytes())
    }

    #[test]
    fn the_callback_of_this_kernel_is_found_under_either_name() {
        let new = "ffff0010 t tick_nohz_handler\nffff0020 t apic_timer_fn\t[kvm]\n";
        assert_eq!(find(new).unwrap().host_tick, 0xffff_0010);
        let old = "ffff0010 t tick_nohz_handler\nffff0018 t tick_sched_timer\n\
                   ffff0020 t apic_timer_fn\t[kvm]\n";
        let functions = find(old).unwrap();
        assert_eq!(
            functions,
            TimerFunctions {
                host_tick: 0xffff_0018,
                guest_timer: 0xffff_0020
            }
        );
    }

    #[test]
    fn hidden_or_missing_addresses_give_a_reason() {
        let hidden = "0000 t tick_nohz_handler\n0000 t apic_timer_fn\t[kvm]\n";
        assert!(find(hidden).unwrap_err().contains("kptr_restrict"));
        assert!(find("ffff0010 t tick_nohz_handler\n")
            .unwrap_err()
            .contains("apic_timer_fn"));
    }
}
