//! Timer and interrupts: elided when somebody listens, by the stock path otherwise, never lost.

#[path = "../../spec/tests/support/machine.rs"]
mod machine;
#[path = "support/mock.rs"]
mod mock;

use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::op::IpiArgs;
use coopvirt_spec::page::at;
use coopvirt_spec::timer;
use coopvirt_spec::version::Features;
use guest_shim::{Cpu, Session};
use mock::{
    host, interrupts, script, session, tail, word, Act, Mock, OFFERED, OTHER, RESCHEDULE, TIMER,
};

fn stock_deadlines(session: &Session<Mock>) -> Vec<u64> {
    session.cpu().stock_deadlines.borrow().clone()
}

fn stock_ipis(session: &Session<Mock>) -> Vec<(u32, u8)> {
    session.cpu().stock_ipis.borrow().clone()
}

fn advance(session: &Session<Mock>, by: u64) {
    session.cpu().world.machine.borrow_mut().advance(by);
}

#[test]
fn level_1_without_a_host_everything_takes_the_stock_path_at_no_extra_exit() {
    let mut mock = Mock::new(OFFERED);
    mock.has_host = false;
    let mut session = Session::new(mock, mock::options());
    assert!(session.open().is_err());
    session.set_deadline(500);
    session.send_ipi(&IpiArgs::one(1, RESCHEDULE));
    session.timer_interrupt();
    session.close();
    assert_eq!(
        (stock_deadlines(&session), stock_ipis(&session)),
        (vec![500], vec![(1, RESCHEDULE)])
    );
    assert_eq!(session.cpu().bells.get(), 0);
}

#[test]
fn level_1_while_nobody_listens_the_stock_path_is_all_that_happens() {
    let mut session = session(OFFERED);
    session.set_deadline(500);
    session.send_ipi(&IpiArgs::one(1, RESCHEDULE));
    assert_eq!(
        (stock_deadlines(&session), stock_ipis(&session)),
        (vec![500], vec![(1, RESCHEDULE)])
    );
    // Nothing is left for a host that wakes up later to do a second time.
    assert_eq!((word(&session, at::DEADLINE), tail(&session)), (0, 0));
    advance(&session, 1000);
    host(&session, Act::Poll);
    assert!(interrupts(&session, 0).is_empty() && interrupts(&session, 1).is_empty());
    assert_eq!(session.cpu().bells.get(), 0);
}

#[test]
fn lease_3_while_the_host_listens_nothing_exits() {
    let mut session = session(OFFERED);
    host(&session, Act::Poll);
    session.set_deadline(500);
    session.send_ipi(&IpiArgs::one(1, RESCHEDULE));
    assert!(stock_deadlines(&session).is_empty() && stock_ipis(&session).is_empty());
    host(&session, Act::Poll);
    assert_eq!(interrupts(&session, 1), [RESCHEDULE]);
    advance(&session, 500);
    host(&session, Act::Poll);
    assert_eq!(interrupts(&session, 0), [TIMER]);
    let counters = session.counters();
    assert_eq!(counters.get(GuestCounter::DeadlineElided), 1);
    assert_eq!(counters.get(GuestCounter::IpiElided), 1);
    assert_eq!(word(&session, GuestCounter::IpiElided.offset()), 1);
    assert_eq!(session.cpu().bells.get(), 0);
}

#[test]
fn lease_3_when_the_host_falls_asleep_in_between_the_stock_path_is_taken_too() {
    let mut session = session(OFFERED);
    host(&session, Act::Poll);
    script(&session, &[Act::Sleep]);
    session.send_ipi(&IpiArgs::one(1, RESCHEDULE));
    // Both did it, which an idempotent vector allows.
    assert_eq!(stock_ipis(&session), [(1, RESCHEDULE)]);
    assert_eq!(interrupts(&session, 1), [RESCHEDULE]);
    host(&session, Act::Poll);
    script(&session, &[Act::Sleep]);
    session.set_deadline(500);
    // The host found the deadline in its last look and is armed: it is kept without a stock write.
    assert!(stock_deadlines(&session).is_empty());
    advance(&session, 500);
    assert_eq!(interrupts(&session, 0), [TIMER]);
}

#[test]
fn lease_5_only_vectors_that_may_come_twice_are_elided() {
    let mut session = session(OFFERED);
    host(&session, Act::Poll);
    session.send_ipi(&IpiArgs::one(1, OTHER));
    session.send_ipi(&IpiArgs::one(1, 3));
    assert_eq!(stock_ipis(&session), [(1, OTHER), (1, 3)]);
    assert_eq!(tail(&session), 0);
}

#[test]
fn ring_10_a_full_ring_sends_interrupts_by_the_stock_path() {
    let mut session = session(OFFERED);
    host(&session, Act::Poll);
    for _ in 0..32 {
        session.send_ipi(&IpiArgs::one(1, RESCHEDULE));
    }
    assert!(stock_ipis(&session).is_empty());
    session.send_ipi(&IpiArgs::one(2, RESCHEDULE));
    assert_eq!(stock_ipis(&session), [(2, RESCHEDULE)]);
    host(&session, Act::Poll);
    host(&session, Act::Poll);
    assert_eq!(interrupts(&session, 1).len(), 32);
    assert!(interrupts(&session, 2).is_empty());
}

#[test]
fn level_1_features_that_are_not_offered_leave_the_stock_path() {
    let mut session = session(Features::RING | Features::SIDECORE);
    host(&session, Act::Poll);
    session.set_deadline(500);
    session.send_ipi(&IpiArgs::one(1, RESCHEDULE));
    assert_eq!(
        (stock_deadlines(&session), stock_ipis(&session)),
        (vec![500], vec![(1, RESCHEDULE)])
    );
}

#[test]
fn timer_8_an_early_interrupt_is_counted_and_served_again() {
    let mut session = session(OFFERED);
    host(&session, Act::Poll);
    session.set_deadline(500);
    session.timer_interrupt();
    assert_eq!(session.counters().get(GuestCounter::TimerSpurious), 1);
    advance(&session, 500);
    host(&session, Act::Poll);
    session.timer_interrupt();
    assert_eq!(session.counters().get(GuestCounter::TimerSpurious), 1);
    // The handler asks for the same deadline again, which the host takes for done.
    session.set_deadline(500);
    assert_eq!(stock_deadlines(&session), [500]);
}

#[test]
fn timer_10_a_stock_deadline_that_is_replaced_before_it_is_due_is_none_to_learn_from() {
    let noted = |session: &Session<Mock>| timer::stock_deadline(session.cpu().area());
    for (wait, left) in [(0, timer::NONE), (600, 500)] {
        let mut session = session(OFFERED);
        session.set_deadline(500);
        assert_eq!(
            (stock_deadlines(&session), noted(&session)),
            (vec![500], 500)
        );
        advance(&session, wait);
        host(&session, Act::Poll);
        session.set_deadline(2_000);
        assert_eq!(
            (stock_deadlines(&session), noted(&session)),
            (vec![500], left)
        );
    }
}

/// A tick that is stopped and set going again before it was due is still in the local APIC.
#[test]
fn timer_2_a_deadline_that_the_stock_timer_still_has_is_not_written_again() {
    let mut session = session(OFFERED);
    session.cpu().stock_write_tsc.set(10);
    let mut written = Vec::new();
    let mut set = |session: &mut Session<Mock>, deadline: u64, is_written: bool| {
        // A write before may have rung.
        host(session, Act::Sleep);
        session.set_deadline(deadline);
        written.extend(is_written.then_some(deadline));
        assert_eq!(stock_deadlines(session), written, "{deadline}");
        // Either way the local APIC keeps it, and the host knows.
        assert_eq!(word(session, at::DEADLINE), 0);
        assert_eq!(word(session, at::STOCK_DEADLINE), deadline);
    };
    // What a write takes is not known before the fourth.
    for deadline in [8_000, 8_001, 8_000, 9_000] {
        set(&mut session, deadline, true);
    }
    for deadline in [9_000, 9_010, 8_990] {
        session.set_deadline(0);
        set(&mut session, deadline, false);
    }
    // Further away than a write takes.
    for deadline in [9_011, 9_000, 8_989] {
        set(&mut session, deadline, true);
    }
    assert_eq!(session.counters().get(GuestCounter::DeadlineFallback), 7);
    assert_eq!(session.counters().get(GuestCounter::DeadlineElided), 3);
    // Once it was due, it is there no more.
    advance(&session, 9_000);
    set(&mut session, 8_989, true);
    // A write that others asked for is known, too.
    set(&mut session, 20_000, true);
    session.write_stock_deadline(15_000);
    session.set_deadline(20_000);
    assert_eq!(stock_deadlines(&session).last(), Some(&20_000));
    assert_eq!(stock_deadlines(&session).len(), 11);
}

/// Sets a deadline, and says whether that took a stock write.
fn is_written(session: &mut Session<Mock>, deadline_tsc: u64) -> bool {
    let before = stock_deadlines(session).len();
    session.set_deadline(deadline_tsc);
    stock_deadlines(session).len() > before
}

fn advance_to(session: &Session<Mock>, tsc: u64) {
    advance(session, tsc - session.cpu().read_tsc());
}

/// The stock timer runs by the host's clock, which may be slewed: it can fire before the TSC has come so far. The
/// kernel then sets the same deadline again, and nothing but a write keeps it.
#[test]
fn timer_2_a_stock_timer_that_fired_early_is_set_again() {
    for fired_tsc in [60_000, 99_900, 99_998] {
        let mut session = session(OFFERED);
        session.cpu().stock_write_tsc.set(10);
        for _ in 0..4 {
            assert!(is_written(&mut session, 100_000));
            host(&session, Act::Sleep);
        }
        assert!(!is_written(&mut session, 100_005));
        advance_to(&session, fired_tsc);
        session.timer_interrupt();
        assert!(is_written(&mut session, 100_001), "{fired_tsc}");
    }
}

/// The host's interrupts leave the stock timer alone, but for one that it may have raised as well.
#[test]
fn timer_2_an_interrupt_of_the_host_ends_a_stock_deadline_only_if_that_was_near() {
    for (host_tsc, is_near) in [(300_000, false), (999_000, true)] {
        let mut session = session(OFFERED);
        session.cpu().stock_write_tsc.set(10);
        for _ in 0..4 {
            assert!(is_written(&mut session, 1_000_000));
            host(&session, Act::Sleep);
        }
        host(&session, Act::Poll);
        assert!(!is_written(&mut session, host_tsc));
        advance_to(&session, host_tsc + 5);
        host(&session, Act::Sleep);
        assert_eq!(interrupts(&session, 0), [TIMER]);
        session.timer_interrupt();
        assert_eq!(is_written(&mut session, 1_000_003), is_near, "{host_tsc}");
    }
}

#[test]
fn life_3_closing_writes_the_deadline_to_the_stock_timer() {
    let mut session = session(OFFERED);
    host(&session, Act::Poll);
    session.set_deadline(500);
    session.close();
    assert_eq!(stock_deadlines(&session), [500]);
    assert!(!session.cpu().world.machine.borrow().status(0).is_registered);
    session.set_deadline(700);
    session.send_ipi(&IpiArgs::one(1, RESCHEDULE));
    assert_eq!(
        (stock_deadlines(&session), stock_ipis(&session)),
        (vec![500, 700], vec![(1, RESCHEDULE)])
    );
    // And it can come back.
    assert!(session.open().is_ok());
    host(&session, Act::Poll);
    session.set_deadline(900);
    assert_eq!(stock_deadlines(&session).len(), 2);
}

#[test]
fn life_6_a_broken_area_is_left_for_good_and_its_deadline_kept() {
    let mut session = session(OFFERED);
    host(&session, Act::Poll);
    session.set_deadline(500);
    host(&session, Act::Break);
    assert_eq!(interrupts(&session, 0), [TIMER]);
    session.timer_interrupt();
    assert_eq!(stock_deadlines(&session), [500]);
    assert_eq!(session.features(), Features::NONE);
    assert_eq!(session.counters().get(GuestCounter::Broken), 1);
    session.send_ipi(&IpiArgs::one(1, RESCHEDULE));
    session.set_deadline(600);
    assert_eq!(
        (stock_deadlines(&session), stock_ipis(&session)),
        (vec![500, 600], vec![(1, RESCHEDULE)])
    );
}

/// Whatever the host does at whatever point, each deadline and each interrupt is served by one side
/// at least: all scripts of four actions.
#[test]
fn level_1_no_script_of_the_host_loses_anything() {
    let acts = [Act::Wait, Act::Poll, Act::Sleep, Act::Break];
    for choice in 0..4_usize.pow(4) {
        let mut session = session(OFFERED);
        host(&session, Act::Poll);
        let plan: Vec<Act> = (0..4)
            .map(|place| acts[choice >> (2 * place) & 3])
            .collect();
        script(&session, &plan);
        session.send_ipi(&IpiArgs::one(1, RESCHEDULE));
        session.set_deadline(800);
        session.send_ipi(&IpiArgs::one(2, RESCHEDULE));
        // Time goes on; a polling host polls, the guest takes its timer interrupts.
        for _ in 0..10 {
            let is_polling = session.cpu().world.machine.borrow().is_polling;
            host(&session, if is_polling { Act::Poll } else { Act::Wait });
            advance(&session, 100);
            session.timer_interrupt();
        }
        for cpu in [1, 2] {
            let is_stock = stock_ipis(&session).contains(&(cpu, RESCHEDULE));
            let is_sent = is_stock || interrupts(&session, cpu as usize).contains(&RESCHEDULE);
            assert!(is_sent, "{plan:?}: interrupt to {cpu} is lost");
        }
        let is_kept =
            interrupts(&session, 0).contains(&TIMER) || stock_deadlines(&session).contains(&800);
        assert!(is_kept, "{plan:?}: deadline is lost");
        assert_eq!(session.cpu().bells.get(), 0, "{plan:?}: an exit too many");
        assert_eq!(session.cpu().area_bytes(), 4096);
    }
}

#[test]
fn timer_11_a_host_that_does_not_expect_deadlines_is_woken() {
    let mut session = session(OFFERED);
    for turn in 1..=10 {
        session.set_deadline(turn * 500);
    }
    // The second rang, and from then on the host polls.
    assert_eq!(session.cpu().bells.get(), 1);
    assert_eq!(stock_deadlines(&session), [500, 1_000]);
    assert_eq!(session.counters().get(GuestCounter::AsyncBell), 1);
    // The last one of those was replaced before it was due.
    assert_eq!(word(&session, at::STOCK_DEADLINE), 0);
    assert_eq!(word(&session, at::DEADLINE), 5_000);
}

/// A host that is armed for what lies far ahead, in a guest that sleeps for less: as it wakes up, that is what the
/// kernel publishes first, and it is never reached.
#[test]
fn timer_11_a_deadline_that_is_elided_and_replaced_does_not_keep_a_guest_from_ringing() {
    let mut session = session(OFFERED);
    let mut rung_at = Vec::new();
    for turn in 1..=20 {
        let bells = session.cpu().bells.get();
        // What the host is armed for, and two that it does not expect.
        host(&session, Act::Poll);
        session.set_deadline(90_000);
        host(&session, Act::Sleep);
        for deadline in [turn * 500 + 100, turn * 500 + 50] {
            session.set_deadline(deadline);
        }
        if session.cpu().bells.get() > bells {
            rung_at.push(turn);
        }
    }
    assert!(!stock_deadlines(&session).contains(&90_000));
    assert_eq!(rung_at, [1, 3, 7, 15]);
    host(&session, Act::Poll);
    session.set_deadline(90_000);
    host(&session, Act::Sleep);
    // One that the host has served shows that it expects them.
    advance(&session, 90_000);
    assert_eq!(interrupts(&session, 0), [TIMER]);
    session.timer_interrupt();
    host(&session, Act::Sleep);
    session.set_deadline(91_000);
    assert_eq!(session.cpu().bells.get(), 4);
    session.set_deadline(92_000);
    assert_eq!(session.cpu().bells.get(), 5);
}
