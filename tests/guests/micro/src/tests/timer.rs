//! The local APIC's timer with TSC deadlines.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpus::{self, interrupts_of};
use crate::report::value;
use crate::test::{guest_test, require, Ran};
use crate::x86::{apic, cpuid, interrupts, msr, tsc};

const TIMER: u8 = 0x60;
/// From sooner than an exit takes to longer than a host's tick.
const DELAYS_US: [u64; 6] = [0, 5, 50, 300, 2_000, 12_000];

/// When each CPU's timer fired last.
static FIRED: [AtomicU64; cpus::MAX_CPUS] = [const { AtomicU64::new(0) }; cpus::MAX_CPUS];

fn note_time(_: u8) {
    FIRED[cpus::this()].store(tsc::now(), Ordering::Release);
}

guest_test!("machine_tsc_deadline_is_never_early", "", never_early);
fn never_early() -> Ran {
    require(cpuid::has_tsc_deadline(), "no TSC deadline")?;
    interrupts::set_callback(TIMER, note_time);
    let latest = AtomicU64::new(0);
    cpus::on_each(&|cpu| {
        apic::use_tsc_deadline(TIMER);
        for (delay, count) in DELAYS_US.into_iter().zip(1..) {
            let deadline = tsc::now() + tsc::ticks(delay);
            apic::set_deadline(deadline);
            interrupts::wait_for(TIMER, count);
            let fired = FIRED[cpu].load(Ordering::Acquire);
            assert!(
                fired >= deadline,
                "{} ticks early on CPU {cpu}",
                deadline - fired
            );
            assert_eq!(interrupts_of(cpu, TIMER), count, "on CPU {cpu}");
            assert_eq!(msr::read(apic::MSR_TSC_DEADLINE), 0, "it is disarmed");
            latest.fetch_max(fired - deadline, Ordering::Relaxed);
        }
    });
    value("latest_us", latest.into_inner() / tsc::ticks(1).max(1));
    Ok(())
}

guest_test!("machine_tsc_deadline_can_be_taken_back", "", taken_back);
fn taken_back() -> Ran {
    require(cpuid::has_tsc_deadline(), "no TSC deadline")?;
    cpus::on_each(&|cpu| {
        apic::use_tsc_deadline(TIMER);
        // Far enough that it cannot pass before it is taken back, on any host.
        let deadline = tsc::now() + tsc::ticks(2_000_000);
        apic::set_deadline(deadline);
        assert_eq!(msr::read(apic::MSR_TSC_DEADLINE), deadline);
        apic::set_deadline(0);
        assert_eq!(msr::read(apic::MSR_TSC_DEADLINE), 0);
        apic::set_deadline(deadline);
        // A new one takes the place of the old one.
        apic::set_deadline(tsc::now() + tsc::ticks(100));
        interrupts::wait_for(TIMER, 1);
        while tsc::now() <= deadline + tsc::ticks(1_000) {
            core::hint::spin_loop();
        }
        assert_eq!(interrupts_of(cpu, TIMER), 1, "on CPU {cpu}");
    });
    Ok(())
}

guest_test!("machine_tsc_deadline_ends_a_halt", "", ends_a_halt);
fn ends_a_halt() -> Ran {
    require(cpuid::has_tsc_deadline(), "no TSC deadline")?;
    cpus::on_each(&|cpu| {
        apic::use_tsc_deadline(TIMER);
        for count in 1..=10 {
            let deadline = tsc::now() + tsc::ticks(1_000);
            apic::set_deadline(deadline);
            interrupts::halt_until(|| interrupts_of(cpu, TIMER) >= count);
            assert!(tsc::now() >= deadline, "on CPU {cpu}");
        }
    });
    Ok(())
}
