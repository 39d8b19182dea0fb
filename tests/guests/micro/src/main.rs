//! A bare-metal guest that tests the machine it runs on.
//!
//! No operating system: started by PVH, it brings up all CPUs (`cpus`, `x86`), runs the tests that
//! its command line names (`test`, `params`), says what came of them through the serial port as
//! typed records (`report`, and the crate `micro_protocol`), and ends the machine through the
//! debug-exit port. `tests/src/micro.rs` starts it and reads the records; the parameters of a test
//! are in its documentation.
//!
//! To add a test: one function in `tests/`, registered with `guest_test!`.
#![no_std]
#![no_main]

mod acpi;
mod boot_info;
mod coop;
mod cpus;
mod memory;
mod params;
mod report;
mod sync;
mod test;
mod tests;
mod x86;

/// Where Rust begins, on the first CPU. Called by `entry.s` only.
#[expect(unsafe_code, reason = "UNSAFETY: assembly calls it by its name")]
#[unsafe(no_mangle)]
extern "C" fn micro_main(start_info: u64) -> ! {
    boot_info::copy(start_info);
    memory::set_up();
    x86::tsc::find_frequency(params::number("tsc_early_khz"));
    for range in boot_info::usable().filter(|range| range.end > 4 << 30) {
        x86::paging::map(&range);
    }
    x86::mask_pics();
    cpus::set_up_first();
    cpus::start_others();
    test::run_all()
}
