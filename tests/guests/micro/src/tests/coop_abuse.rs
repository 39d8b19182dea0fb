//! What a guest must not do, while the host looks: words that change under its eyes, areas that go
//! away, clocks that jump. Each has a defined answer, and the next honest call works.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use coopvirt_spec::code::{BrokenReason, Status};
use coopvirt_spec::lease;
use coopvirt_spec::mem::{Load, SharedMem, Store};
use coopvirt_spec::op::{EchoArgs, IpiArgs, LogArgs, NopArgs};
use coopvirt_spec::page::at;
use coopvirt_spec::version::Features;
use guest_shim::batch::{BatchError, Flush};
use guest_shim::{Cpu, Session};

use crate::coop::{self, Area, SetUp, Vcpu};
use crate::cpus::{self, interrupts_of};
use crate::memory;
use crate::report::value;
use crate::test::{guest_test, require, Ran};
use crate::x86::{apic, cpuid, interrupts, msr, port, tsc};

const MSR_TSC: u32 = 0x10;

/// A session with these features, as far as they are offered.
fn open(wanted: Features) -> Result<Session<Vcpu>, crate::test::Skip> {
    let wanted = coop::offer()?.features.intersection(wanted);
    Ok(coop::open(wanted))
}

#[track_caller]
fn assert_echo(session: &mut Session<Vcpu>, value: u64) {
    let done = coop::answer(session, EchoArgs { value }.submission(0));
    assert_eq!((done.status(), done.result), (Status::OK, value));
}

guest_test!(
    "coop_abuse_doorbell_storms",
    "[BELL-1] [BELL-3] [BELL-4] [TRUST-4]",
    doorbell_storms
);
fn doorbell_storms() -> Ran {
    let offer = coop::offer()?;
    let mut session = open(Features::RING | Features::SIDECORE | Features::TIMER)?;
    for round in 0..20 {
        for _ in 0..100 {
            port::write_u32(offer.async_port, 0);
        }
        for _ in 0..20 {
            port::write_u32(offer.sync_port, 0);
        }
        assert_echo(&mut session, round);
    }
    session.close();
    Ok(())
}

guest_test!(
    "coop_abuse_pages_reused_at_once",
    "[LIFE-2] [LIFE-3] [REG-5] [TRUST-1]",
    pages_reused
);
/// Unregistered while the host has work from it in hand; used for something else at once.
fn pages_reused() -> Ran {
    let offer = coop::offer()?;
    let wanted = Features::RING | Features::SIDECORE | Features::TIMER | Features::LOG;
    let text_gpa = memory::pages(1).start();
    let mut session = open(wanted)?;
    for round in 0..100_u64 {
        let mut staged = 0;
        for _ in 0..16 {
            let args = LogArgs {
                text_gpa,
                len_bytes: 1,
                level: 7,
            };
            let call = match round % 3 {
                0 => NopArgs {}.submission(0),
                1 => EchoArgs { value: round }.submission(0),
                _ => args.submission(0),
            };
            staged += u64::from(session.stage(call).is_ok());
        }
        assert_eq!(staged, 16);
        let mem = session.cpu().area();
        mem.store_u64(at::DEADLINE, tsc::now(), Store::Release);
        session.flush(Flush::Soon);
        // Not as the shim closes: nothing is waited for.
        SetUp(offer).write_area(0);
        let mem = session.cpu().area();
        let pattern = !round << 32 | round;
        for offset in (0..4096).step_by(8) {
            mem.store_u64(offset, pattern, Store::Relaxed);
        }
        tsc::wait_us(300);
        for offset in (0..4096).step_by(8) {
            let found = mem.load_u64(offset, Load::Relaxed);
            assert_eq!(found, pattern, "byte {offset} in round {round}");
        }
        assert!(session.open().is_ok());
        assert_echo(&mut session, round);
    }
    session.close();
    Ok(())
}

guest_test!(
    "coop_abuse_completions_never_drained",
    "[RING-9] [RING-10] [BELL-3] [TRUST-6]",
    never_drained
);
fn never_drained() -> Ran {
    let offer = coop::offer()?;
    let entries = u64::from(offer.layout.ring_entries());
    let mut session = open(Features::RING | Features::SIDECORE)?;
    // As many as have room for their answers are taken, and as many more wait in their own ring.
    for value in 0..2 * entries {
        if value == entries {
            session.flush(Flush::Now);
        }
        let call = EchoArgs { value }.submission(0);
        assert!(session.stage(call).is_ok(), "call {value}");
    }
    let mem = session.cpu().area();
    for _ in 0..100 {
        port::write_u32(offer.sync_port, 0);
        port::write_u32(offer.async_port, 0);
    }
    tsc::wait_us(2_000);
    let head = mem.load_u32(at::SUBMISSION_HEAD, Load::Acquire);
    assert_eq!(u64::from(head), entries);
    assert_eq!(mem.load_u32(at::BROKEN, Load::Acquire), 0);
    let one_more = EchoArgs { value: 0 }.submission(0);
    assert_eq!(session.stage(one_more), Err(BatchError::Full));
    if cpus::count() > 1 {
        cpus::on(1, &|_| {
            let mut other = coop::open(Features::RING);
            (0..20).for_each(|value| assert_echo(&mut other, value));
            other.close();
        });
    }
    // Nothing is lost for having waited.
    let mut next = 0;
    while next < 2 * entries {
        match session.take() {
            Some(done) => {
                assert_eq!(done.result, next);
                next += 1;
            }
            None => session.flush(Flush::Now),
        }
    }
    session.close();
    Ok(())
}

guest_test!(
    "coop_abuse_smp_entries_rewritten_while_read",
    "[RING-7] [TRUST-2] [TRUST-4] [ORDER-1]",
    rewritten_entries
);
/// Another CPU writes the entries of this one's ring all the time.
fn rewritten_entries() -> Ran {
    require(cpus::count() > 1, "one CPU")?;
    let wanted = Features::RING | Features::SIDECORE;
    let wanted = coop::offer()?.features.intersection(wanted);
    let (place, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    cpus::on_each(&|cpu| match cpu {
        0 => {
            let mut session = coop::open(wanted);
            place.store(session.cpu().area_gpa(), Ordering::Release);
            for _ in 0..100 {
                answers_to_anything(&mut session);
            }
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(session.take(), None);
            session.close();
        }
        1 => {
            tsc::spin_until("an area", || place.load(Ordering::Acquire) != 0);
            let area = Area::of_another(place.load(Ordering::Acquire));
            let mut turn = 0;
            while !is_over.load(Ordering::Relaxed) {
                turn += 1;
                rewrite(&area, turn);
            }
        }
        _ => {}
    });
    let mut session = coop::open(wanted);
    assert_echo(&mut session, 7);
    session.close();
    Ok(())
}

/// Writes what calls begin with over all slots: good ones, unknown ones, reserved bits.
fn rewrite(area: &Area, turn: usize) {
    let words = [0x0001, 0x0002, 0, 0xdead, 1 << 32 | 1, 0x0101, 1 << 20 | 2];
    for (number, slot) in (1024..1024 + 32 * 64).step_by(64).enumerate() {
        let word = words[(turn + number) % words.len()];
        area.store_u64(slot, word, Store::Relaxed);
        area.store_u64(slot + 16, number as u64, Store::Relaxed);
    }
}

/// One answer for each of 32 calls, no more and no less, whatever has become of them.
fn answers_to_anything(session: &mut Session<Vcpu>) {
    for value in 0..32 {
        let call = EchoArgs { value }.submission(0);
        assert!(session.stage(call).is_ok());
    }
    let end = tsc::now() + tsc::ticks(tsc::LIMIT_US);
    let mut answers = 0;
    while answers < 32 {
        assert!(tsc::now() < end, "{answers} answers");
        session.flush(Flush::Now);
        while let Some(done) = session.take() {
            let known = [
                Status::OK,
                Status::UNKNOWN_OPCODE,
                Status::NOT_NEGOTIATED,
                Status::RESERVED_BITS,
            ];
            assert!(known.contains(&done.status()), "{}", done.status());
            answers += 1;
        }
    }
}

guest_test!(
    "coop_abuse_deadlines_rewritten",
    "[TIMER-4] [TIMER-8] [TRUST-4]",
    deadlines_rewritten
);
/// A million times; then each odd value by itself.
fn deadlines_rewritten() -> Ran {
    require(cpuid::has_tsc_deadline(), "no TSC deadline")?;
    let wanted = Features::RING | Features::SIDECORE | Features::TIMER;
    coop::require_offer(wanted)?;
    let mut session = coop::open(wanted);
    apic::mask_timer();
    let area = session.cpu().area();
    let start = tsc::now();
    for turn in 0..1_000_000_u64 {
        let deadline = match turn % 5 {
            0 => 0,
            1 => u64::MAX,
            2 => 1 + turn,
            3 => start + turn,
            _ => u64::MAX - turn,
        };
        area.store_u64(at::DEADLINE, deadline, Store::Release);
    }
    area.store_u64(at::DEADLINE, 0, Store::Release);
    let raised = count_settled();
    value("raised", raised);
    value("microseconds", (tsc::now() - start) / tsc::ticks(1).max(1));
    assert!(raised <= 1_000_000);
    // Never due, and none.
    for deadline in [u64::MAX, u64::MAX - 1, 0] {
        listen(area);
        area.store_u64(at::DEADLINE, deadline, Store::Release);
        tsc::wait_us(5_000);
        assert_eq!(interrupts_of(0, coop::TIMER), raised, "{deadline:#x}");
    }
    // Due at the next look, and once only.
    for (number, deadline) in (1..).zip([1, tsc::now() - tsc::ticks(1_000), 2]) {
        area.store_u64(at::DEADLINE, deadline, Store::Release);
        listen(area);
        tsc::spin_until("a deadline in the past", || {
            interrupts_of(0, coop::TIMER) >= raised + number
        });
        listen(area);
        tsc::wait_us(3_000);
        assert_eq!(interrupts_of(0, coop::TIMER), raised + number);
    }
    assert_echo(&mut session, 3);
    session.close();
    Ok(())
}

/// Interrupts of the timer, when no more come.
fn count_settled() -> u64 {
    let mut count = interrupts_of(0, coop::TIMER);
    loop {
        tsc::wait_us(20_000);
        match interrupts_of(0, coop::TIMER) {
            same if same == count => return count,
            more => count = more,
        }
    }
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

guest_test!(
    "coop_abuse_tsc_rewritten",
    "[LEASE-7] [TIMER-9] [TIMER-4]",
    tsc_rewritten
);
fn tsc_rewritten() -> Ran {
    let wanted = Features::RING | Features::SIDECORE | Features::TIMER;
    coop::require_offer(wanted)?;
    let mut session = coop::open(wanted);
    apic::mask_timer();
    let area = session.cpu().area();
    let jump = tsc::ticks(10_000_000);
    let soon = tsc::ticks(1_000_000);
    for round in 0..10 {
        let before = interrupts_of(0, coop::TIMER);
        // Far away by the old clock, passed by the new one.
        listen(area);
        let deadline = tsc::now() + jump / 2;
        area.store_u64(at::DEADLINE, deadline, Store::Release);
        tsc::wait_us(500);
        assert_eq!(interrupts_of(0, coop::TIMER), before, "round {round}");
        let there = tsc::now() + jump;
        msr::write(MSR_TSC, there);
        tsc::spin_until("a deadline that the clock has jumped over", || {
            interrupts_of(0, coop::TIMER) > before
        });
        assert!(tsc::now() >= there && tsc::now() < there + soon + jump);
        // And back: a lease by the clock of before would be held for ten seconds, by nobody.
        listen(area);
        area.store_u64(at::DEADLINE, 0, Store::Release);
        let back = tsc::now() - jump;
        interrupts::without(|| msr::write(MSR_TSC, back));
        let lease = area.load_u64(at::LEASE, Load::Relaxed);
        assert!(lease < tsc::now() + soon, "round {round}: {lease}");
        let armed = area.load_u64(at::ARMED, Load::Relaxed);
        assert!(armed < tsc::now() + soon, "round {round}: {armed}");
        let before = count_settled();
        listen(area);
        area.store_u64(at::DEADLINE, tsc::now() + tsc::ticks(300), Store::Release);
        listen(area);
        tsc::spin_until("a deadline by the new clock", || {
            interrupts_of(0, coop::TIMER) > before
        });
        area.store_u64(at::DEADLINE, 0, Store::Release);
    }
    session.close();
    Ok(())
}

guest_test!("coop_abuse_last_vector", "[IPI-2]", last_vector);
fn last_vector() -> Ran {
    let wanted = Features::RING | Features::IPI;
    coop::require_offer(wanted)?;
    let mut session = coop::open(wanted);
    let done = coop::answer(&mut session, IpiArgs::one(0, 255).submission(0));
    assert_eq!((done.status(), done.result), (Status::OK, 1));
    tsc::spin_until("vector 255", || interrupts_of(0, 255) == 1);
    // The handler takes that vector for the spurious one, which has no end; this one has.
    apic::end_of_interrupt();
    let state = SetUp(coop::offer()?).state();
    assert_eq!(state.broken, BrokenReason(0));
    session.close();
    Ok(())
}
