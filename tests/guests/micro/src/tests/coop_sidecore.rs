//! What costs no exit on the asking side while the host polls under a lease.
//!
//! The host's test looks for the phases in the exit report, with what this guest says it fell back.

use core::sync::atomic::{AtomicU64, Ordering};

use coopvirt_spec::code::Status;
use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::lease;
use coopvirt_spec::mem::{SharedMem, Store};
use coopvirt_spec::op::{IpiArgs, NopArgs};
use coopvirt_spec::page::at;
use coopvirt_spec::timer::{self, Published};
use coopvirt_spec::version::Features;
use guest_shim::batch::Flush;
use guest_shim::{Cpu, Marker, Session, VectorSet};

use super::marks::Bare;
use crate::coop::{self, Area, Vcpu};
use crate::cpus::{self, interrupts_of};
use crate::params;
use crate::report::value;
use crate::test::{guest_test, require, Ran};
use crate::x86::{apic, cpuid, interrupts, port, tsc};

const WORK_CALLS: u8 = 0xe8;
const WORK_IPIS: u8 = 0xe9;
const WORK_DEADLINES: u8 = 0xea;
const BATCH: u64 = 32;
const PING: u8 = 0x53;

/// When each CPU's timer fired last.
static FIRED: [AtomicU64; cpus::MAX_CPUS] = [const { AtomicU64::new(0) }; cpus::MAX_CPUS];

guest_test!(
    "coop_sidecore_calls_without_exits",
    "[LEASE-2] [LEASE-3] [BELL-1] [BELL-2] [OP-3] [OP-5]",
    calls
);
/// Parameter `calls`: how many no-ops, a multiple of 32.
fn calls() -> Ran {
    let wanted = Features::RING | Features::SIDECORE;
    coop::require_offer(wanted)?;
    let calls = params::number("calls").unwrap_or(32_000);
    let mut session = coop::open(wanted);
    // The first doorbell wakes the host, which then finds out how long to stay awake.
    nops(&mut session, 1_000 * BATCH);
    let before = bells(&session);
    let mut marker = Marker::new(Bare);
    marker.phase(WORK_CALLS, || nops(&mut session, calls));
    value("calls", calls);
    value("bells", bells(&session) - before);
    session.close();
    Ok(())
}

fn bells(session: &Session<Vcpu>) -> u64 {
    let counters = session.counters();
    counters.get(GuestCounter::AsyncBell) + counters.get(GuestCounter::SyncBell)
}

fn nops(session: &mut Session<Vcpu>, calls: u64) {
    for _ in 0..calls / BATCH {
        for _ in 0..BATCH {
            let call = NopArgs {}.submission(0);
            session.stage(call).expect("room for a batch");
        }
        session.flush(Flush::Soon);
        let mut answers = 0;
        tsc::spin_until("answers of the polling host", || {
            while let Some(done) = session.take() {
                assert_eq!(done.status(), Status::OK);
                answers += 1;
            }
            answers == BATCH
        });
    }
}

guest_test!(
    "coop_sidecore_smp_ipis",
    "[LEASE-2] [LEASE-3] [LEASE-5] [LEASE-6] [IPI-1]",
    ipis
);
/// Parameter `ipis`: how many to each other CPU.
fn ipis() -> Ran {
    require(cpus::count() > 1, "one CPU")?;
    let wanted = Features::RING | Features::SIDECORE | Features::IPI;
    coop::require_offer(wanted)?;
    let rounds = params::number("ipis").unwrap_or(500);
    let mut session = coop::elidable_session(wanted, VectorSet::new().with(PING));
    assert_eq!(session.open(), Ok(wanted));
    nops(&mut session, 200 * BATCH);
    let count = |session: &Session<Vcpu>| {
        let counters = session.counters();
        [GuestCounter::IpiElided, GuestCounter::IpiFallback].map(|of| counters.get(of))
    };
    let (mut marker, mut sent) = (Marker::new(Bare), 0);
    let mut elided_but_lost = 0;
    marker.phase(WORK_IPIS, || {
        for _ in 0..rounds {
            for cpu in 1..cpus::count() {
                let before = interrupts_of(cpu, PING);
                session.send_ipi(&IpiArgs::one(cpus::apic_id(cpu), PING));
                sent += 1;
                let end = tsc::now() + tsc::ticks(5_000_000);
                while interrupts_of(cpu, PING) == before {
                    if tsc::now() > end {
                        elided_but_lost += 1;
                        break;
                    }
                    core::hint::spin_loop();
                }
            }
        }
    });
    let [elided, fallback] = count(&session);
    value("sent", sent);
    value("elided", elided);
    value("fallback", fallback);
    value("lost", elided_but_lost);
    assert_eq!(elided + fallback, sent);
    assert_eq!(elided_but_lost, 0);
    // Twice is allowed where the stock path was taken as well; nobody else got any.
    let received: u64 = (1..cpus::count()).map(|cpu| interrupts_of(cpu, PING)).sum();
    assert!((sent..=sent + fallback).contains(&received), "{received}");
    assert_eq!(interrupts_of(0, PING), 0);
    // A vector that may not come twice takes the stock path, always.
    let exact = PING + 1;
    for number in 1..=20 {
        session.send_ipi(&IpiArgs::one(cpus::apic_id(1), exact));
        tsc::spin_until("a stock interrupt", || interrupts_of(1, exact) >= number);
    }
    assert_eq!(interrupts_of(1, exact), 20);
    assert_eq!(count(&session), [elided, fallback + 20]);
    session.close();
    Ok(())
}

/// What became of deadlines.
#[derive(Default)]
struct Deadlines {
    early: u64,
    extra: u64,
    latest_ticks: u64,
}

guest_test!(
    "coop_sidecore_deadlines",
    "[TIMER-1] [TIMER-2] [TIMER-3] [TIMER-4] [TIMER-7] [TIMER-8] [LIFE-3]",
    deadlines
);
/// Parameters `deadlines`: how many, on each CPU; half of them periodic, half at random.
fn deadlines() -> Ran {
    require(cpuid::has_tsc_deadline(), "no TSC deadline")?;
    let wanted = Features::RING | Features::SIDECORE | Features::TIMER;
    let wanted = coop::offer()?.features.intersection(wanted);
    coop::require_offer(Features::RING | Features::TIMER)?;
    let number = params::number("deadlines").unwrap_or(1_000);
    interrupts::set_callback(coop::TIMER, |_| {
        FIRED[cpus::this()].store(tsc::now(), Ordering::Release);
    });
    let totals = [const { AtomicU64::new(0) }; 5];
    let mut marker = Marker::new(Bare);
    marker.phase(WORK_DEADLINES, || {
        cpus::on_each(&|cpu| {
            apic::use_tsc_deadline(coop::TIMER);
            let mut session = coop::open(wanted);
            let mut found = Deadlines::default();
            let mut random = Random(cpu as u64 + 1);
            let period = tsc::ticks(1_000);
            let mut next = tsc::now() + period;
            for round in 0..number {
                let deadline = if round < number / 2 {
                    next = (next + period).max(tsc::now());
                    next
                } else {
                    // From the past to three milliseconds ahead.
                    (tsc::now() + random.below(tsc::ticks(3_100))) - tsc::ticks(100)
                };
                wait_for_deadline(&mut session, cpu, deadline, &mut found);
            }
            // None: nothing comes any more, but for a stock interrupt under way.
            interrupts::without(|| session.set_deadline(0));
            let counters = session.counters();
            let elided = counters.get(GuestCounter::DeadlineElided);
            let fallback = counters.get(GuestCounter::DeadlineFallback);
            assert_eq!(elided + fallback, number, "on CPU {cpu}");
            // What came twice or too early can only be a superseded stock write.
            assert!(found.early + found.extra <= fallback, "on CPU {cpu}");
            let figures = [elided, fallback, found.early, found.extra];
            for (total, figure) in totals.iter().zip(figures) {
                total.fetch_add(figure, Ordering::Relaxed);
            }
            totals[4].fetch_max(found.latest_ticks, Ordering::Relaxed);
            session.close();
        });
    });
    let [elided, fallback, early, extra, latest] = totals.map(AtomicU64::into_inner);
    value("deadlines", number * cpus::count() as u64);
    value("elided", elided);
    value("fallback", fallback);
    value("early", early);
    value("extra", extra);
    value("latest_us", latest / tsc::ticks(1).max(1));
    Ok(())
}

/// Sets a deadline, waits until an interrupt has come at or after it.
#[track_caller]
fn wait_for_deadline(
    session: &mut Session<Vcpu>,
    cpu: usize,
    deadline: u64,
    found: &mut Deadlines,
) {
    let before = interrupts_of(cpu, coop::TIMER);
    FIRED[cpu].store(0, Ordering::Relaxed);
    interrupts::without(|| session.set_deadline(deadline));
    let mut seen = before;
    // Halting is left to another test: here the CPU spins, as a busy guest does.
    tsc::spin_until("a deadline", || {
        let count = interrupts_of(cpu, coop::TIMER);
        if count == seen {
            return false;
        }
        seen = count;
        let fired = FIRED[cpu].load(Ordering::Acquire);
        if fired < deadline {
            found.early += 1;
            return false;
        }
        found.latest_ticks = found.latest_ticks.max(fired - deadline);
        true
    });
    found.extra += (seen - before).saturating_sub(1);
}

guest_test!(
    "coop_sidecore_deadlines_end_halts",
    "[TIMER-2] [TIMER-5] [TIMER-6] [TIMER-7] [ORDER-5] [ORDER-6]",
    halts
);
/// The same while the CPU halts, so that the host goes to sleep armed.
fn halts() -> Ran {
    require(cpuid::has_tsc_deadline(), "no TSC deadline")?;
    coop::require_offer(Features::RING | Features::TIMER)?;
    let wanted = Features::RING | Features::SIDECORE | Features::TIMER;
    let wanted = coop::offer()?.features.intersection(wanted);
    let totals = [const { AtomicU64::new(0) }; 2];
    cpus::on_each(&|cpu| {
        apic::use_tsc_deadline(coop::TIMER);
        let mut session = coop::open(wanted);
        let mut random = Random(cpu as u64 + 77);
        for _ in 0..100 {
            let deadline = tsc::now() + random.below(tsc::ticks(12_000));
            interrupts::without(|| session.set_deadline(deadline));
            let end = deadline + tsc::ticks(2_000_000);
            interrupts::halt_until(|| {
                interrupts_of(cpu, coop::TIMER) > 0 && tsc::now() >= deadline
            });
            assert!(tsc::now() < end, "lost and found on CPU {cpu}");
        }
        interrupts::without(|| session.set_deadline(0));
        let counters = session.counters();
        for (total, of) in totals
            .iter()
            .zip([GuestCounter::DeadlineElided, GuestCounter::DeadlineFallback])
        {
            total.fetch_add(counters.get(of), Ordering::Relaxed);
        }
        session.close();
    });
    let [elided, fallback] = totals.map(AtomicU64::into_inner);
    value("elided", elided);
    value("fallback", fallback);
    Ok(())
}

guest_test!(
    "coop_sidecore_timer_vector",
    "[TIMER-1] [TIMER-4] [ORDER-1]",
    timer_vector
);
/// The vector is the guest's word, whatever the local APIC's timer is told.
fn timer_vector() -> Ran {
    require(cpuid::has_tsc_deadline(), "no TSC deadline")?;
    let wanted = Features::RING | Features::SIDECORE | Features::TIMER;
    coop::require_offer(wanted)?;
    const OTHER: u8 = coop::TIMER + 1;
    let mut session = coop::open(wanted);
    let area = session.cpu().area();
    apic::mask_timer();
    // Masked: what comes, the host has raised.
    for vector in [coop::TIMER, OTHER] {
        timer::set_vector(area, vector);
        for count in 1..=20 {
            listen(area);
            let deadline = tsc::now() + tsc::ticks(500);
            let _: Published = timer::publish(area, deadline, tsc::now);
            // A host that fell asleep meanwhile does it when it looks again.
            tsc::spin_until("the host's interrupt", || interrupts_of(0, vector) >= count);
            assert!(tsc::now() >= deadline);
            assert_eq!(interrupts_of(0, vector), count);
        }
    }
    // Words that are no vector: nothing is raised, and nothing else happens.
    let before = [coop::TIMER, OTHER].map(|vector| interrupts_of(0, vector));
    for bad in [0, 15, 256, 0x100 | u32::from(OTHER), u32::MAX] {
        area.store_u32(at::TIMER_VECTOR, bad, Store::Relaxed);
        listen(area);
        let _: Published = timer::publish(area, tsc::now(), tsc::now);
        tsc::wait_us(3_000);
    }
    let after = [coop::TIMER, OTHER].map(|vector| interrupts_of(0, vector));
    assert_eq!(before, after);
    session.close();
    Ok(())
}

/// Waits until the host listens: rings until there is a lease.
fn listen(area: &Area) {
    let port = coop::offer().expect("asked before").async_port;
    tsc::spin_until("a lease", || {
        port::write_u32(port, 0);
        tsc::wait_us(50);
        lease::seems_held(area, tsc::now())
    });
}

/// Numbers that look random, the same in each run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        for shift in [13, -7, 17] {
            self.0 ^= match shift {
                right @ ..0 => self.0 >> -right,
                left => self.0 << left,
            };
        }
        self.0 % end.max(1)
    }
}
