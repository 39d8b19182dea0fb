//! Ticks that a vCPU takes by itself: which ones, and what becomes of those that it does not.

#[path = "../../spec/tests/support/machine.rs"]
mod machine;
#[path = "support/mock.rs"]
mod mock;

use coopvirt_spec::page::at;
use guest_shim::grace::{Grace, Times};
use mock::{host, interrupts, session, word, Act, OFFERED, TIMER};

const PERIOD: u64 = 4_000_000;
const TIMES: Times = Times {
    exit_tsc: 1_000,
    wake_up_tsc: 10_000,
};

/// Deadlines with the polls that had found work when each was set; what they may be late by.
fn graces(set: &[(u64, u64)]) -> Vec<u64> {
    let mut grace = Grace::new();
    let of = |&(deadline, hits): &(u64, u64)| grace.of(deadline, PERIOD, hits, TIMES);
    set.iter().map(of).collect()
}

/// So many polls between two ticks that four of them take no longer than a wake-up.
const MANY: u64 = 4 * PERIOD / 10_000;

#[test]
fn the_ticks_of_a_vcpu_in_a_quick_exchange_may_be_late_by_a_wake_up() {
    let ticks: Vec<_> = (1..=5)
        .map(|n| (n * PERIOD + n % 2 * 900, n * MANY))
        .collect();
    assert_eq!(graces(&ticks), [0, 10_000, 10_000, 10_000, 10_000]);
}

#[test]
fn in_a_slower_exchange_by_a_few_of_its_polls_and_a_small_part_of_the_period() {
    let late_by = |polls: u64| {
        let ticks: Vec<_> = (1..=3).map(|n| (n * PERIOD, n * polls)).collect();
        graces(&ticks)[2]
    };
    assert_eq!(late_by(MANY / 4), 40_000);
    assert_eq!(late_by(200), 80_000);
    assert_eq!([100, 10, 1].map(late_by), [PERIOD / 32; 3]);
}

#[test]
fn a_vcpu_that_finds_no_work_by_polling_has_its_ticks_in_time() {
    let ticks: Vec<_> = (1..=5).map(|n| (n * PERIOD, n.min(3) * MANY)).collect();
    assert_eq!(graces(&ticks), [0, 10_000, 10_000, 0, 0]);
}

#[test]
fn what_is_no_tick_is_never_late() {
    // A timer in between, the tick after it, the same one again, none, and the next.
    let set = [
        (PERIOD, 1),
        (PERIOD + 500_000, 2),
        (2 * PERIOD, 3),
        (2 * PERIOD, 4),
        (0, 5),
        (PERIOD, 6),
        (2 * PERIOD + 1_001, 7),
        (PERIOD, 8),
    ];
    assert_eq!(graces(&set), [0; 8]);
}

#[test]
fn a_machine_on_which_waking_up_takes_long_keeps_its_ticks_apart() {
    let mut grace = Grace::new();
    let slow = Times {
        wake_up_tsc: 3 * PERIOD,
        ..TIMES
    };
    grace.of(PERIOD, PERIOD, 1, slow);
    assert_eq!(grace.of(2 * PERIOD, PERIOD, 2, slow), PERIOD / 2);
    for value in [0, 1, PERIOD, u64::MAX] {
        grace.of(value, value, value, slow);
        grace.of(u64::MAX - value, PERIOD, 0, slow);
    }
}

#[test]
fn timer_2_a_tick_that_the_vcpu_takes_itself_is_not_raised() {
    let mut session = session(OFFERED);
    host(&session, Act::Poll);
    session.set_deadline_by(500, 100);
    assert_eq!(
        (word(&session, at::DEADLINE), session.interrupt_tsc()),
        (600, 600)
    );
    assert_eq!(session.own_due_tsc(), 500);
    assert_eq!(session.take_due(499), None);
    assert_eq!(session.take_due(500), Some(TIMER));
    assert_eq!(session.take_due(510), None);
    assert_eq!(session.own_due_tsc(), u64::MAX);
    // What its handler does.
    session.set_deadline(4_500);
    session.cpu().world.machine.borrow_mut().advance(700);
    host(&session, Act::Poll);
    assert!(interrupts(&session, 0).is_empty());
    assert!(session.cpu().stock_deadlines.borrow().is_empty());
}

#[test]
fn timer_4_a_tick_that_the_vcpu_does_not_take_is_raised_after_the_grace_and_not_taken_twice() {
    let mut session = session(OFFERED);
    host(&session, Act::Poll);
    session.set_deadline_by(500, 100);
    session.cpu().world.machine.borrow_mut().advance(550);
    host(&session, Act::Poll);
    assert!(interrupts(&session, 0).is_empty());
    session.cpu().world.machine.borrow_mut().advance(60);
    host(&session, Act::Poll);
    assert_eq!(interrupts(&session, 0), [TIMER]);
    session.timer_interrupt();
    assert_eq!(session.take_due(10_000), None);
}

#[test]
fn timer_2_without_a_listener_the_stock_timer_is_set_to_the_deadline_itself() {
    let mut session = session(OFFERED);
    session.set_deadline_by(500, 100);
    assert_eq!(*session.cpu().stock_deadlines.borrow(), [500]);
    assert_eq!(session.take_due(10_000), None);
    session.set_deadline_by(0, 100);
    assert_eq!(word(&session, at::DEADLINE), 0);
}

#[test]
fn life_3_when_the_area_goes_the_stock_timer_is_set_to_the_deadline_itself() {
    let mut session = session(OFFERED);
    host(&session, Act::Poll);
    session.set_deadline_by(500, 100);
    session.close();
    assert_eq!(*session.cpu().stock_deadlines.borrow(), [500]);
}
