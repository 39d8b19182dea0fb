//! Several CPUs, and interrupts between them.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpus::{self, interrupts_of};
use crate::memory;
use crate::params;
use crate::report::value;
use crate::sync::Barrier;
use crate::test::{guest_test, require, Ran};
use crate::x86::{apic, interrupts, tsc};

const PING: u8 = 0x51;
const PONG: u8 = 0x52;
const ROUND_TRIPS: u64 = 200;
const BARRIERS: u64 = 50;

guest_test!("smp_all_cpus_start", "", all_start);
/// Parameter `cpus`: how many the host gave.
fn all_start() -> Ran {
    if let Some(given) = params::number("cpus") {
        assert_eq!(cpus::count() as u64, given);
    }
    let seen = AtomicU64::new(0);
    cpus::on_each(&|cpu| {
        assert_eq!(cpus::this(), cpu);
        assert_eq!(apic::id(), cpus::apic_id(cpu));
        let before = seen.fetch_add(1 << (8 * cpu), Ordering::Relaxed);
        assert_eq!(before >> (8 * cpu) & 0xff, 0, "CPU {cpu} runs twice");
    });
    for chosen in 0..cpus::count() {
        cpus::on(chosen, &|cpu| {
            assert_eq!((cpu, cpus::this()), (chosen, chosen))
        });
    }
    let all = (0..cpus::count()).fold(0, |all, cpu| all | 1 << (8 * cpu));
    assert_eq!(seen.into_inner(), all);
    value("cpus", cpus::count() as u64);
    Ok(())
}

guest_test!("smp_memory_is_the_same_for_all", "", same_memory);
fn same_memory() -> Ran {
    let count = cpus::count();
    require(count > 1, "one CPU")?;
    let barrier = Barrier::new(count);
    let pages = memory::pages(1);
    // Without atomic additions: between two barriers one CPU alone writes.
    let word = &pages.words()[7];
    cpus::on_each(&|cpu| {
        for round in 0..BARRIERS {
            if round % count as u64 == cpu as u64 {
                let old = word.load(Ordering::Relaxed);
                assert_eq!(old, round);
                word.store(old + 1, Ordering::Relaxed);
            }
            barrier.wait();
        }
    });
    assert_eq!(word.load(Ordering::Relaxed), BARRIERS);
    Ok(())
}

guest_test!("smp_ipi_round_trips_are_exact", "", round_trips);
fn round_trips() -> Ran {
    require(cpus::count() > 1, "one CPU")?;
    interrupts::set_callback(PING, |_| apic::send(0, PONG));
    let began = tsc::now();
    let mut sent = 0;
    for cpu in 1..cpus::count() {
        for trip in 1..=ROUND_TRIPS {
            apic::send(cpu, PING);
            sent += 1;
            interrupts::wait_for(PONG, sent);
            // The count follows the callback, which has sent the answer already.
            tsc::spin_until("a count", || interrupts_of(cpu, PING) >= trip);
            assert_eq!(interrupts_of(cpu, PING), trip, "on CPU {cpu}");
            assert_eq!(interrupts_of(0, PONG), sent);
        }
    }
    let ticks = (tsc::now() - began) / sent;
    // Nothing comes late, nothing comes twice, nothing goes astray.
    cpus::on_each(&|_| ());
    for cpu in 1..cpus::count() {
        assert_eq!(interrupts_of(cpu, PING), ROUND_TRIPS, "on CPU {cpu}");
        assert_eq!(interrupts_of(cpu, PONG), 0, "on CPU {cpu}");
    }
    assert_eq!((interrupts_of(0, PING), interrupts_of(0, PONG)), (0, sent));
    value("round_trips", sent);
    value("ticks_per_round_trip", ticks);
    Ok(())
}

guest_test!("smp_ipi_ends_a_halt", "", ends_a_halt);
fn ends_a_halt() -> Ran {
    require(cpus::count() > 1, "one CPU")?;
    static STAGE: AtomicU64 = AtomicU64::new(0);
    STAGE.store(0, Ordering::Relaxed);
    interrupts::set_callback(PING, |_| {
        STAGE.fetch_add(1, Ordering::Release);
    });
    let last = cpus::count() - 1;
    let rounds = 20;
    cpus::on_each(&|cpu| match cpu {
        0 => {
            for round in 0..rounds {
                tsc::wait_us(round * 50);
                apic::send(last, PING);
                tsc::spin_until("a halted CPU wakes up", || {
                    STAGE.load(Ordering::Acquire) > round
                });
            }
        }
        _ if cpu == last => {
            for round in 0..rounds {
                interrupts::halt_until(|| STAGE.load(Ordering::Acquire) > round);
            }
        }
        _ => {}
    });
    assert_eq!(interrupts_of(last, PING), rounds);
    Ok(())
}

guest_test!("machine_ipi_to_self", "", to_self);
fn to_self() -> Ran {
    cpus::on_each(&|cpu| {
        for count in 1..=ROUND_TRIPS {
            apic::send_to_self(PING);
            interrupts::wait_for(PING, count);
            assert_eq!(interrupts_of(cpu, PING), count);
        }
        // Two of one vector while interrupts are off are one.
        interrupts::without(|| {
            apic::send_to_self(PING);
            apic::send_to_self(PING);
        });
        interrupts::wait_for(PING, ROUND_TRIPS + 1);
        tsc::wait_us(100);
        assert_eq!(interrupts_of(cpu, PING), ROUND_TRIPS + 1);
    });
    Ok(())
}
