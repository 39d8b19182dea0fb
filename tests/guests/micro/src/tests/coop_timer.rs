//! Deadlines without exits: by a polling host, by a host that predicts, by a host that sleeps.
//!
//! The host's test looks for the phases in the exit report, with what this guest says it fell back.

use core::sync::atomic::{AtomicU64, Ordering};

use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::lease;
use coopvirt_spec::mem::{SharedMem, Store};
use coopvirt_spec::page::at;
use coopvirt_spec::timer::{self, Published};
use coopvirt_spec::version::Features;
use guest_shim::{Cpu, Marker, Session};

use super::marks::Bare;
use crate::coop::{self, Area, Vcpu};
use crate::cpus::{self, interrupts_of};
use crate::params;
use crate::report::value;
use crate::test::{guest_test, require, Ran};
use crate::x86::{apic, cpuid, interrupts, port, tsc};

const WORK_DEADLINES: u8 = 0xea;
const WORK_REARM: u8 = 0xeb;

/// When each CPU's timer fired last.
static FIRED: [AtomicU64; cpus::MAX_CPUS] = [const { AtomicU64::new(0) }; cpus::MAX_CPUS];

/// Lateness: less than so many microseconds, and its name in the report.
const LATE: [(u64, &str); 8] = [
    (64, "late_below_64us"),
    (256, "late_below_256us"),
    (1_000, "late_below_1ms"),
    (4_000, "late_below_4ms"),
    (16_000, "late_below_16ms"),
    (64_000, "late_below_64ms"),
    (256_000, "late_below_256ms"),
    (u64::MAX, "later"),
];

/// What became of the deadlines of all CPUs.
#[derive(Default)]
struct Totals {
    expired: AtomicU64,
    early: AtomicU64,
    extra: AtomicU64,
    latest_us: AtomicU64,
    late: [AtomicU64; LATE.len()],
    elided: AtomicU64,
    fallback: AtomicU64,
    bells: AtomicU64,
}

impl Totals {
    fn late(&self, ticks: u64) {
        let us = ticks / tsc::ticks(1).max(1);
        self.latest_us.fetch_max(us, Ordering::Relaxed);
        let bucket = LATE.iter().position(|(below, _)| us < *below);
        self.late[bucket.unwrap_or(LATE.len() - 1)].fetch_add(1, Ordering::Relaxed);
    }

    fn collect(&self, session: &Session<Vcpu>) {
        let counters = session.counters();
        for (total, of) in [
            (&self.elided, GuestCounter::DeadlineElided),
            (&self.fallback, GuestCounter::DeadlineFallback),
            (&self.bells, GuestCounter::AsyncBell),
        ] {
            total.fetch_add(counters.get(of), Ordering::Relaxed);
        }
    }

    fn say(&self) {
        for (name, total) in [
            ("expired", &self.expired),
            ("elided", &self.elided),
            ("fallback", &self.fallback),
            ("bells", &self.bells),
            ("early", &self.early),
            ("extra", &self.extra),
            ("latest_us", &self.latest_us),
        ] {
            value(name, total.load(Ordering::Relaxed));
        }
        for ((_, name), count) in LATE.iter().zip(&self.late) {
            value(name, count.load(Ordering::Relaxed));
        }
    }
}

/// Sets deadlines on each CPU, one after the other has expired; `next` gives them, from the one
/// before. `is_busy`: the CPU spins until then, else it halts.
fn each_expires(is_busy: bool, next: &(dyn Fn(&mut Random, u64) -> u64 + Sync)) -> Ran {
    require(cpuid::has_tsc_deadline(), "no TSC deadline")?;
    coop::require_offer(Features::RING | Features::TIMER)?;
    let wanted = Features::RING | Features::SIDECORE | Features::TIMER;
    let wanted = coop::offer()?.features.intersection(wanted);
    let number = params::number("deadlines").unwrap_or(1_000);
    interrupts::set_callback(coop::TIMER, |_| {
        FIRED[cpus::this()].store(tsc::now(), Ordering::Release);
    });
    let totals = Totals::default();
    let mut marker = Marker::new(Bare);
    marker.phase(WORK_DEADLINES, || {
        cpus::on_each(&|cpu| {
            apic::use_tsc_deadline(coop::TIMER);
            let mut session = coop::open(wanted);
            let mut random = Random(cpu as u64 + 1);
            let mut deadline = tsc::now();
            for _ in 0..number {
                deadline = next(&mut random, deadline);
                wait_for_deadline(&mut session, cpu, deadline, is_busy, &totals);
            }
            // None: nothing comes any more, but for a stock interrupt under way.
            interrupts::without(|| session.set_deadline(0));
            totals.collect(&session);
            session.close();
        });
    });
    totals.say();
    Ok(())
}

/// Sets a deadline, waits until an interrupt has come at or after it.
#[track_caller]
fn wait_for_deadline(
    session: &mut Session<Vcpu>,
    cpu: usize,
    deadline: u64,
    is_busy: bool,
    totals: &Totals,
) {
    let before = interrupts_of(cpu, coop::TIMER);
    FIRED[cpu].store(0, Ordering::Relaxed);
    interrupts::without(|| session.set_deadline(deadline));
    let mut seen = before;
    let mut has_expired = || {
        let count = interrupts_of(cpu, coop::TIMER);
        if count == seen {
            return false;
        }
        seen = count;
        session.timer_interrupt();
        let fired = FIRED[cpu].load(Ordering::Acquire);
        if fired < deadline {
            totals.early.fetch_add(1, Ordering::Relaxed);
            // As a kernel does: it may have been the one for this deadline, by a clock that is ahead ([TIMER-2]).
            interrupts::without(|| session.set_deadline(deadline));
            return false;
        }
        totals.late(fired - deadline);
        true
    };
    match is_busy {
        true => tsc::spin_until("a deadline", has_expired),
        // If it is lost the machine's own time limit ends it.
        false => interrupts::halt_until(&mut has_expired),
    }
    totals.expired.fetch_add(1, Ordering::Relaxed);
    let extra = (seen - before).saturating_sub(1);
    totals.extra.fetch_add(extra, Ordering::Relaxed);
}

/// Microseconds between the deadlines of a tick.
fn period_us() -> u64 {
    params::number("period_us").unwrap_or(4_000)
}

guest_test!(
    "coop_timer_tick_of_a_busy_cpu",
    "[TIMER-1] [TIMER-2] [TIMER-3] [TIMER-4] [TIMER-5] [TIMER-6] [TIMER-8] [TIMER-10] [LIFE-3]",
    tick
);
/// Parameters `deadlines`, on each CPU; `period_us`. A tick that is late skips those it has missed.
fn tick() -> Ran {
    let period = tsc::ticks(period_us());
    each_expires(true, &|_, last| {
        let now = tsc::now();
        last + ((now - last) / period + 1) * period
    })
}

guest_test!(
    "coop_timer_sleeps_that_are_roughly_periodic",
    "[TIMER-2] [TIMER-5] [TIMER-6] [TIMER-7] [ORDER-5] [ORDER-6]",
    sleeps
);
/// The same as a thread that sleeps and sleeps has it: each counted from when the CPU woke up.
fn sleeps() -> Ran {
    let period = tsc::ticks(period_us());
    each_expires(false, &|random, _| {
        tsc::now() + period + random.below(tsc::ticks(50))
    })
}

guest_test!(
    "coop_timer_random_deadlines",
    "[TIMER-1] [TIMER-2] [TIMER-3] [TIMER-4] [TIMER-7] [TIMER-8] [LIFE-3]",
    random
);
/// From a tenth of a millisecond in the past to three milliseconds ahead.
fn random() -> Ran {
    each_expires(true, &|random, _| {
        tsc::now() + random.below(tsc::ticks(3_100)) - tsc::ticks(100)
    })
}

guest_test!(
    "coop_timer_end_halts",
    "[TIMER-2] [TIMER-5] [TIMER-6] [TIMER-7] [ORDER-5] [ORDER-6]",
    halts
);
/// Random ones while the CPU halts, so long that the host goes to sleep armed.
fn halts() -> Ran {
    each_expires(false, &|random, _| {
        tsc::now() + random.below(tsc::ticks(12_000))
    })
}

guest_test!(
    "coop_timer_moved_on_and_on",
    "[TIMER-2] [TIMER-4] [TIMER-5] [TRUST-4]",
    moved
);
/// Parameter `moves`: how often a deadline is put off before one expires; five times so.
fn moved() -> Ran {
    require(cpuid::has_tsc_deadline(), "no TSC deadline")?;
    let wanted = Features::RING | Features::SIDECORE | Features::TIMER;
    coop::require_offer(wanted)?;
    let moves = params::number("moves").unwrap_or(10_000);
    interrupts::set_callback(coop::TIMER, |_| {
        FIRED[cpus::this()].store(tsc::now(), Ordering::Release);
    });
    apic::use_tsc_deadline(coop::TIMER);
    let mut session = coop::open(wanted);
    let totals = Totals::default();
    let mut marker = Marker::new(Bare);
    for _ in 0..5 {
        listen(session.cpu().area());
        marker.phase(WORK_REARM, || {
            for _ in 0..moves {
                let deadline = tsc::now() + tsc::ticks(20_000);
                interrupts::without(|| session.set_deadline(deadline));
            }
        });
        // None has expired, unless this CPU was kept from running for so long.
        let deadline = tsc::now() + tsc::ticks(1_000);
        wait_for_deadline(&mut session, 0, deadline, true, &totals);
    }
    interrupts::without(|| session.set_deadline(0));
    totals.collect(&session);
    session.close();
    value("moves", moves);
    totals.say();
    Ok(())
}

guest_test!(
    "coop_timer_vector",
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
