//! Halts by the doorbell: the deadline comes by the local APIC's timer, and no interrupt is lost on the way to sleep.
//!
//! The host's test counts what was written and handed over.

use core::sync::atomic::{AtomicU64, Ordering};

use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::doorbell;
use coopvirt_spec::version::Features;
use guest_shim::{Marker, Session};

use super::marks::Bare;
use crate::coop::{self, Vcpu};
use crate::cpus::{self, interrupts_of};
use crate::params;
use crate::report::value;
use crate::test::{guest_test, require, Ran};
use crate::x86::{apic, cpuid, interrupts, tsc};

const WORK_HALTS: u8 = 0xed;
/// What wakes the other CPU.
const CALL: u8 = 0x56;

static FIRED: AtomicU64 = AtomicU64::new(0);
static ASKED: AtomicU64 = AtomicU64::new(0);
static SEEN: AtomicU64 = AtomicU64::new(0);

fn open() -> Result<Session<Vcpu>, crate::test::Skip> {
    require(cpuid::has_tsc_deadline(), "no TSC deadline")?;
    let wanted = Features::RING | Features::TIMER | Features::HALT;
    coop::require_offer(wanted)?;
    apic::use_tsc_deadline(coop::TIMER);
    Ok(coop::open(wanted))
}

/// Waits until `is_done`, halting as an idle loop does.
fn idle_until(session: &mut Session<Vcpu>, mut is_done: impl FnMut(&mut Session<Vcpu>) -> bool) {
    loop {
        interrupts::disable();
        if is_done(session) {
            break interrupts::enable();
        }
        match session.halt_port() {
            Some(port) => interrupts::halt_by_port(port, doorbell::HALT),
            None => interrupts::halt(),
        }
    }
}

guest_test!(
    "coop_halt_until_deadlines",
    "[HALT-1] [HALT-2] [HALT-3] [HALT-4] [BELL-7] [TIMER-2] [TIMER-8]",
    until_deadlines
);
/// Parameters `deadlines`; `period_us`, counted from when the CPU woke up.
fn until_deadlines() -> Ran {
    let mut session = open()?;
    let number = params::number("deadlines").unwrap_or(1_000);
    let period = tsc::ticks(params::number("period_us").unwrap_or(1_000));
    interrupts::set_callback(coop::TIMER, |_| {
        FIRED.store(tsc::now(), Ordering::Release);
    });
    let (mut early, mut latest) = (0_u64, 0_u64);
    Marker::new(Bare).phase(WORK_HALTS, || {
        for _ in 0..number {
            let deadline = tsc::now() + period;
            let mut seen = interrupts_of(0, coop::TIMER);
            interrupts::without(|| session.set_deadline(deadline));
            idle_until(&mut session, |session| {
                let count = interrupts_of(0, coop::TIMER);
                if count == seen {
                    return false;
                }
                seen = count;
                session.timer_interrupt();
                let fired = FIRED.load(Ordering::Acquire);
                if fired < deadline {
                    early += 1;
                    session.set_deadline(deadline);
                    return false;
                }
                latest = latest.max(fired - deadline);
                true
            });
        }
    });
    interrupts::without(|| session.set_deadline(0));
    value("early", early);
    value("latest_us", latest / tsc::ticks(1).max(1));
    let counters = session.counters();
    value("fallback", counters.get(GuestCounter::DeadlineFallback));
    value("rung", counters.get(GuestCounter::IdleRung));
    session.close();
    Ok(())
}

guest_test!("coop_halt_is_ended_by_what_is_pending", "[HALT-1]", pending);
/// Parameter `rounds`: the other CPU is interrupted at any point of its way to sleep, and of its waking up. It never has
/// a timer to wake it in time, so one that is lost stops both.
fn pending() -> Ran {
    require(cpus::count() > 1, "one CPU")?;
    require(cpuid::has_tsc_deadline(), "no TSC deadline")?;
    coop::require_offer(Features::RING | Features::TIMER | Features::HALT)?;
    let rounds = params::number("rounds").unwrap_or(2_000);
    interrupts::set_callback(CALL, |_| {
        SEEN.store(ASKED.load(Ordering::Acquire), Ordering::Release);
    });
    cpus::on_each(&|cpu| match cpu {
        0 => {
            for round in 1..=rounds {
                ASKED.store(round, Ordering::Release);
                apic::send(1, CALL);
                tsc::spin_until("the other CPU", || SEEN.load(Ordering::Acquire) == round);
                // Where on its way back to sleep it is then differs from round to round.
                let until = tsc::now() + round * 37 % tsc::ticks(40).max(1);
                while tsc::now() < until {}
            }
        }
        1 => {
            let mut session = open().unwrap_or_else(|_| panic!("asked before"));
            let mut ahead = 0;
            idle_until(&mut session, |session| {
                // A new deadline each time, so that each halt is one by the doorbell; too far away to help.
                ahead += 1;
                session.set_deadline(tsc::now() + tsc::ticks(60_000_000) + ahead);
                SEEN.load(Ordering::Acquire) == rounds
            });
            let rung = session.counters().get(GuestCounter::IdleRung);
            interrupts::without(|| session.set_deadline(0));
            session.close();
            assert!(rung > rounds / 4, "{rung} halts by the doorbell");
        }
        _ => {}
    });
    Ok(())
}
