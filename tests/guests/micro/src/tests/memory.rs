//! Memory where the map says that it is.
#![expect(unsafe_code)]
// UNSAFETY: reads and writes RAM that nobody else uses, by physical address.

use crate::boot_info;
use crate::memory::at;
use crate::params;
use crate::report::value;
use crate::test::{guest_test, Ran};

const ABOVE_4G: u64 = 4 << 30;
/// Steps between the words that are written. Not a power of two, so that all address bits change.
const STEP: usize = (7 << 20) + 0x1008;

guest_test!("machine_memory_map_has_all_memory", "", map_has_all);
/// Parameter `memory_mib`: what the host gave.
fn map_has_all() -> Ran {
    let mut last_end = 0;
    let mut bytes = 0;
    for range in boot_info::usable() {
        assert!(
            last_end <= range.start && range.start < range.end,
            "{range:x?}"
        );
        last_end = range.end;
        bytes += range.end - range.start;
    }
    value("usable_bytes", bytes);
    if let Some(given) = params::number("memory_mib") {
        // What is missing is below 1 MiB.
        assert!(
            bytes <= given << 20 && bytes > (given - 1) << 20,
            "{bytes:#x}"
        );
    }
    Ok(())
}

guest_test!("high_memory", "", above_4g);
/// For a guest with more than 3 GiB.
fn above_4g() -> Ran {
    let words = || {
        boot_info::usable()
            .filter(|range| range.start >= ABOVE_4G)
            .flat_map(|range| {
                let last = range.end - 8;
                (range.start..last).step_by(STEP).chain([last])
            })
    };
    assert!(words().next().is_some(), "no memory above 4 GiB");
    let mut count = 0;
    for address in words() {
        // SAFETY: usable RAM, mapped one to one, and above all that this program uses.
        unsafe { at::<u64>(address).write_volatile(content(address)) };
        count += 1;
    }
    // Only now: two addresses with the same memory behind them would show.
    for address in words() {
        // SAFETY: as above.
        let found = unsafe { at::<u64>(address).read_volatile() };
        assert_eq!(found, content(address), "{address:#x}");
    }
    value("words", count);
    Ok(())
}

fn content(address: u64) -> u64 {
    address.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
