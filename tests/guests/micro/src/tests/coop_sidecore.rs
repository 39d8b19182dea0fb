//! What costs no exit on the asking side while the host polls under a lease.
//!
//! The host's test looks for the phases in the exit report, with what this guest says it fell back.

use coopvirt_spec::code::Status;
use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::op::{IpiArgs, NopArgs};
use coopvirt_spec::version::Features;
use guest_shim::batch::Flush;
use guest_shim::{Marker, Session, VectorSet};

use super::marks::Bare;
use crate::coop::{self, Vcpu};
use crate::cpus::{self, interrupts_of};
use crate::params;
use crate::report::value;
use crate::test::{guest_test, require, Ran};
use crate::x86::tsc;

const WORK_CALLS: u8 = 0xe8;
const WORK_IPIS: u8 = 0xe9;
const BATCH: u64 = 32;
const PING: u8 = 0x53;

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
