//! Interrupts for many, and storms of them while the host is disturbed.
//!
//! The sender waits for each target as `smp_call_function` does: it counts up a word, sends, and
//! goes on when the target's handler has seen that value. So an interrupt that is lost stops it.

use core::sync::atomic::{AtomicU64, Ordering};

use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::lease;
use coopvirt_spec::op::{IpiArgs, NopArgs};
use coopvirt_spec::version::Features;
use guest_shim::batch::Flush;
use guest_shim::{Cpu, Marker, Session, VectorSet};

use super::marks::Bare;
use crate::coop::{self, Vcpu};
use crate::cpus::{self, interrupts_of};
use crate::params;
use crate::report::value;
use crate::test::{guest_test, require, Ran};
use crate::x86::{interrupts, tsc};

const WORK_BROADCAST: u8 = 0xeb;
const WORK_STOCK: u8 = 0xec;
/// May come twice, so it may be elided.
const CALL: u8 = 0x54;
/// The same handler, never elided.
const STOCK: u8 = 0x55;
/// Calls of which figures are given together.
const BLOCK: u64 = 50;
const MOST_BLOCKS: u64 = 16;
const SLICE_US: u64 = 200_000;
const MAX_SLICES: usize = 64;

static ASKED: AtomicU64 = AtomicU64::new(0);
static SEEN: [AtomicU64; cpus::MAX_CPUS] = [const { AtomicU64::new(0) }; cpus::MAX_CPUS];

/// An open session with what is offered of these features, and the handlers in place.
fn sender() -> Result<Session<Vcpu>, crate::test::Skip> {
    require(cpus::count() > 1, "one CPU")?;
    coop::require_offer(Features::RING | Features::IPI)?;
    let wanted = Features::RING | Features::SIDECORE | Features::IPI;
    let wanted = coop::offer()?.features.intersection(wanted);
    for vector in [CALL, STOCK] {
        interrupts::set_callback(vector, |_| {
            let asked = ASKED.load(Ordering::Acquire);
            SEEN[cpus::this()].store(asked, Ordering::Release);
        });
    }
    let mut session = coop::elidable_session(wanted, VectorSet::new().with(CALL));
    assert_eq!(session.open(), Ok(wanted));
    Ok(session)
}

/// All other CPUs.
fn others(vector: u8) -> IpiArgs {
    let mask_low = (1..cpus::count()).fold(0, |mask, cpu| mask | 1 << cpus::apic_id(cpu));
    IpiArgs {
        mask_low,
        ..IpiArgs::one(0, vector)
    }
}

/// What the other CPUs were asked to see.
struct Asked {
    value: u64,
    start: u64,
}

impl Asked {
    #[track_caller]
    fn assert_in_time(&self) {
        let waited = tsc::now() - self.start;
        assert!(waited < tsc::ticks(tsc::LIMIT_US), "an interrupt is lost");
        core::hint::spin_loop();
    }
}

/// Sends to every other CPU.
fn ask_others(session: &mut Session<Vcpu>, vector: u8) -> Asked {
    let value = ASKED.fetch_add(1, Ordering::Release) + 1;
    let start = tsc::now();
    interrupts::without(|| session.send_ipi(&others(vector)));
    Asked { value, start }
}

fn have_seen(value: u64) -> bool {
    let mut others = SEEN[1..cpus::count()].iter();
    others.all(|seen| seen.load(Ordering::Acquire) == value)
}

/// Sends to every other CPU and waits for all; the time until the last one came, in ticks.
#[track_caller]
fn call_others(session: &mut Session<Vcpu>, vector: u8) -> u64 {
    let asked = ask_others(session, vector);
    while !have_seen(asked.value) {
        asked.assert_in_time();
    }
    tsc::now() - asked.start
}

fn counts(session: &Session<Vcpu>) -> [u64; 3] {
    let counters = session.counters();
    [
        GuestCounter::IpiElided,
        GuestCounter::IpiFallback,
        GuestCounter::AsyncBell,
    ]
    .map(|of| counters.get(of))
}

guest_test!(
    "coop_ipi_to_all_others",
    "[IPI-1] [LEASE-2] [LEASE-3] [LEASE-5] [BELL-2] [BELL-6] [LEVEL-1]",
    to_all_others
);
/// Parameters `ipis`: how many to all others, by each way, a multiple of 50 (or more, by the ring);
/// `awake`: 1 keeps the
/// host awake by other calls.
fn to_all_others() -> Ran {
    let mut session = sender()?;
    let rounds = params::number("ipis").unwrap_or(200);
    let is_kept_awake = params::number("awake") == Some(1);
    let mut marker = Marker::new(Bare);
    marker.phase(WORK_STOCK, || {
        for _ in 0..rounds {
            call_others(&mut session, STOCK);
        }
    });
    let mut company = Company::default();
    let mut unheard = 0;
    let mut call = |session: &mut Session<Vcpu>| {
        if is_kept_awake {
            company.keep(session);
        }
        let is_promised =
            |session: &Session<Vcpu>| lease::seems_held(session.cpu().area(), tsc::now());
        let (before, was_promised) = (counts(session)[1], is_promised(session));
        let asked = ask_others(session, CALL);
        // A promise that held all the time, and yet the stock path.
        unheard += u64::from(counts(session)[1] > before && was_promised && is_promised(session));
        while !have_seen(asked.value) {
            asked.assert_in_time();
            if is_kept_awake {
                company.keep(session);
            }
        }
    };
    // The host has to be asked, and to find out how long to listen.
    for _ in 0..100 {
        call(&mut session);
    }
    let is_heard = session.features().contains(Features::SIDECORE);
    let (mut blocks, mut best, mut totals) = (0, BLOCK, [0; 3]);
    // On a machine that is busy with other things: until it was left alone for the time of a block.
    while blocks < rounds / BLOCK || (is_heard && best > BLOCK / 50 && blocks < MOST_BLOCKS) {
        let before = counts(&session);
        marker.phase(WORK_BROADCAST, || {
            for _ in 0..BLOCK {
                call(&mut session);
            }
        });
        let after = counts(&session);
        let [elided, fallback, bells] = [0, 1, 2].map(|of| after[of] - before[of]);
        assert_eq!(elided + fallback, BLOCK);
        value("fallback", fallback);
        value("bells", bells);
        (blocks, best, totals) = (blocks + 1, best.min(fallback), after);
    }
    value("unheard", unheard);
    for cpu in 1..cpus::count() {
        // By the stock path none came twice; by the other only what was sent by both.
        assert_eq!(interrupts_of(cpu, STOCK), rounds);
        let received = interrupts_of(cpu, CALL);
        let most = blocks * BLOCK + 100 + totals[1];
        assert!(received <= most, "{received} on CPU {cpu}");
    }
    assert_eq!(interrupts_of(0, CALL) + interrupts_of(0, STOCK), 0);
    session.close();
    Ok(())
}

/// Other calls beside the interrupts, one at a time: what keeps a host awake.
#[derive(Default)]
struct Company {
    is_under_way: bool,
}

impl Company {
    /// Makes a call if the last one is done and somebody listens. No doorbell for that.
    fn keep(&mut self, session: &mut Session<Vcpu>) {
        if self.is_under_way && session.take().is_none() {
            return;
        }
        self.is_under_way = false;
        if lease::seems_held(session.cpu().area(), tsc::now()) {
            let nop = NopArgs {}.submission(0);
            self.is_under_way = session.stage(nop).is_ok();
            session.flush(Flush::Soon);
        }
    }
}

/// What happened in a while.
#[derive(Clone, Copy, Default)]
struct Slice {
    elided: u64,
    fallback: u64,
    longest_ticks: u64,
}

guest_test!(
    "coop_ipi_storm",
    "[LEASE-2] [LEASE-5] [LEASE-6] [LEVEL-1] [BELL-6]",
    storm
);
/// Parameter `slices`: how long, in fifths of a second, one half of each by the stock path alone.
/// The host disturbs its polling thread meanwhile and judges the figures; that none is lost is seen
/// here.
fn storm() -> Ran {
    let mut session = sender()?;
    let wanted = params::number("slices").unwrap_or(5);
    let wanted = usize::try_from(wanted).map_or(MAX_SLICES, |wanted| wanted.min(MAX_SLICES));
    for _ in 0..100 {
        call_others(&mut session, CALL);
    }
    value("storm_begins", 1);
    let mut found = [[Slice::default(); 2]; MAX_SLICES];
    let found = &mut found[..wanted];
    for [ours, stock] in &mut *found {
        *ours = slice(&mut session, CALL);
        *stock = slice(&mut session, STOCK);
    }
    let micros = tsc::ticks(1).max(1);
    for [ours, stock] in found {
        value("elided", ours.elided);
        value("fallback", ours.fallback);
        value("longest_us", ours.longest_ticks / micros);
        value("stock", stock.fallback);
        value("stock_longest_us", stock.longest_ticks / micros);
    }
    session.close();
    Ok(())
}

/// Calls all others again and again for a tenth of a second.
fn slice(session: &mut Session<Vcpu>, vector: u8) -> Slice {
    let end = tsc::now() + tsc::ticks(SLICE_US / 2);
    let mut longest_ticks = 0;
    let before = counts(session);
    while tsc::now() < end {
        longest_ticks = call_others(session, vector).max(longest_ticks);
    }
    let after = counts(session);
    Slice {
        elided: after[0] - before[0],
        fallback: after[1] - before[1],
        longest_ticks,
    }
}
