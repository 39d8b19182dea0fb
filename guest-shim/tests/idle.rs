//! The idle policy on a vCPU without hardware: what it learns, and what it may cost.

use guest_shim::idle::{Hints, IdleCounters, IdlePolicy, Plan, NO_TIMER};

/// A vCPU whose halts cost a certain time.
struct Vcpu {
    policy: IdlePolicy,
    now: u64,
    halt_cost: u64,
    hints: Hints,
}

impl Vcpu {
    fn new(halt_cost: u64) -> Self {
        let mut policy = IdlePolicy::new();
        policy.guess(halt_cost / 4);
        Self {
            policy,
            now: 1_000_000,
            halt_cost,
            hints: Hints::default(),
        }
    }

    /// Waits for work that comes after `wait`; by a timer if `is_timer`. Whether it halted.
    fn wait(&mut self, wait: u64, is_timer: bool) -> bool {
        let work_at = self.now + wait;
        let due = if is_timer { work_at } else { NO_TIMER };
        for _ in 0..3 {
            match self.policy.enter(self.now, due, self.hints) {
                Plan::Poll { until_tsc } => {
                    let has_work = until_tsc >= work_at;
                    self.now = until_tsc.min(work_at).max(self.now);
                    self.policy.polled(self.now, has_work);
                    if has_work {
                        return false;
                    }
                }
                Plan::Halt => {
                    self.now = work_at.max(self.now) + self.halt_cost;
                    self.policy.halted(self.now, true);
                    return true;
                }
            }
        }
        panic!("polls and polls: {:?}", self.policy);
    }

    fn waits(&mut self, count: u32, wait: u64) -> u32 {
        (0..count).map(|_| u32::from(self.wait(wait, false))).sum()
    }
}

/// The same on a fast and on a slow machine: nothing in it is a time.
const COSTS: [u64; 3] = [2_000, 40_000, 3_000_000];

#[test]
fn short_waits_are_polled_after_the_first_few() {
    for cost in COSTS {
        for wait in [cost / 10, cost, 7 * cost] {
            let mut vcpu = Vcpu::new(cost);
            assert!(vcpu.waits(100, wait) <= 5, "{wait} of {cost}");
        }
    }
}

#[test]
fn long_waits_are_not_polled() {
    for cost in COSTS {
        let mut vcpu = Vcpu::new(cost);
        assert_eq!(vcpu.waits(100, 40 * cost), 100);
        assert_eq!(vcpu.policy.counters().polled_tsc, 0);
    }
}

#[test]
fn a_change_from_short_to_long_waits_costs_a_bounded_time() {
    for cost in COSTS {
        let mut vcpu = Vcpu::new(cost);
        vcpu.waits(1_000, cost);
        vcpu.waits(1_000, 1_000 * cost);
        let vain = vcpu.policy.counters().vain_tsc;
        assert!(vain <= 64 * cost + 16 * cost, "{vain} of {cost}");
        // And back again.
        assert!(vcpu.waits(100, cost) <= 5);
    }
}

#[test]
fn an_exchange_after_a_pause_is_polled_for_from_its_second_wait_on() {
    let mut vcpu = Vcpu::new(10_000);
    // Nothing is known of exchanges: the wait after a long one halts.
    assert_eq!((vcpu.waits(1, 1_000_000), vcpu.waits(1, 5_000)), (1, 1));
    vcpu.waits(100, 5_000);
    vcpu.waits(20, 1_000_000);
    assert_eq!(vcpu.policy.window_tsc(), 0);
    // One guess too many in the pause, of one halt's cost, and no other.
    let before = vcpu.policy.counters();
    vcpu.waits(20, 1_000_000);
    assert_eq!(
        vcpu.policy.counters(),
        IdleCounters {
            halts: before.halts + 20,
            ..before
        }
    );
    // The first short wait is not known to be one; after it there are more.
    vcpu.waits(1, 5_000);
    assert_eq!(vcpu.waits(50, 5_000), 0);
    while vcpu.policy.window_tsc() > 0 {
        vcpu.waits(1, 1_000_000);
    }
    assert_eq!(vcpu.waits(50, 5_000), 0);
}

/// In an exchange whose other side now and then has a tick to handle first, the window stays as long as that takes.
#[test]
fn a_rare_longer_wait_is_remembered() {
    for cost in COSTS {
        let mut vcpu = Vcpu::new(cost);
        let mut halts = 0;
        for round in 1..=20_000 {
            let wait = if round % 1_000 == 0 {
                5 * cost
            } else {
                cost / 5
            };
            halts += vcpu.waits(1, wait);
        }
        // The first waits of either kind.
        assert!(halts <= 4, "{halts} of {cost}");
    }
}

/// A timer's work is no beginning of an exchange.
#[test]
fn the_wait_after_a_timer_is_not_polled_for_an_answer() {
    let mut vcpu = Vcpu::new(10_000);
    vcpu.waits(100, 5_000);
    vcpu.waits(20, 1_000_000);
    vcpu.waits(1, 5_000);
    while vcpu.policy.window_tsc() > 0 {
        vcpu.wait(1_000_000, true);
    }
    let polls = vcpu.policy.counters().polls;
    for _ in 0..20 {
        assert!(vcpu.wait(1_000_000, true));
    }
    assert_eq!(vcpu.policy.counters().polls, polls);
}

/// Polling in vain never costs more than a few halts for each short wait, in whatever order.
#[test]
fn vain_polling_is_paid_for_by_short_waits() {
    for cost in COSTS {
        for long_per_short in [1, 3, 10, 100] {
            let mut vcpu = Vcpu::new(cost);
            let mut short = 0;
            for round in 0..2_000 {
                let is_short = round % (long_per_short + 1) == 0;
                short += u64::from(is_short);
                vcpu.wait(if is_short { 3 * cost } else { 500 * cost }, false);
            }
            let vain = vcpu.policy.counters().vain_tsc;
            // The last poll may go beyond what was left by as much as the window.
            assert!(vain <= (4 * short + 16) * cost, "{vain} of {cost}");
        }
    }
}

#[test]
fn nothing_is_polled_while_others_want_the_cpu() {
    let mut vcpu = Vcpu::new(10_000);
    vcpu.waits(100, 10_000);
    vcpu.hints.contention_permille = 500;
    let before = vcpu.policy.counters().polled_tsc;
    assert_eq!(vcpu.waits(100, 10_000), 100);
    vcpu.hints.io_in_flight = 3;
    assert_eq!(vcpu.waits(100, 10_000), 100);
    let counters = vcpu.policy.counters();
    assert_eq!((counters.polled_tsc, counters.contended), (before, 200));
    vcpu.hints = Hints::default();
    assert_eq!(vcpu.waits(100, 10_000), 0);
}

#[test]
fn timers_are_waited_for_by_halting_unless_they_are_due_at_once() {
    let mut vcpu = Vcpu::new(10_000);
    for _ in 0..100 {
        assert!(vcpu.wait(100_000, true));
        assert!(!vcpu.wait(4_000, true));
    }
}

#[test]
fn requests_in_flight_are_worth_one_halts_cost() {
    let mut vcpu = Vcpu::new(10_000);
    vcpu.hints.io_in_flight = 1;
    assert!(!vcpu.wait(9_000, false));
    let mut vcpu = Vcpu::new(10_000);
    assert!(vcpu.wait(9_000, false));
}

#[test]
fn the_cost_of_a_halt_is_learnt_from_timers() {
    let mut vcpu = Vcpu::new(10_000);
    vcpu.halt_cost = 500_000;
    for _ in 0..100 {
        vcpu.wait(50_000_000, true);
    }
    let cost = vcpu.policy.halt_cost_tsc();
    assert!((400_000..=500_000).contains(&cost), "{cost}");
    vcpu.halt_cost = 20_000;
    for round in 0..80 {
        // Two in five are disturbed by something else.
        vcpu.halt_cost = if round % 5 < 2 { 2_000_000 } else { 20_000 };
        vcpu.wait(50_000_000, true);
    }
    let cost = vcpu.policy.halt_cost_tsc();
    assert!((20_000..=30_000).contains(&cost), "{cost}");
    // Slower again, for good.
    vcpu.halt_cost = 100_000;
    for _ in 0..500 {
        vcpu.wait(50_000_000, true);
    }
    let cost = vcpu.policy.halt_cost_tsc();
    assert!((50_000..=100_000).contains(&cost), "{cost}");
}

#[test]
fn a_wait_with_interrupts_in_between_polls_once() {
    let mut vcpu = Vcpu::new(10_000);
    vcpu.waits(10, 10_000);
    let Vcpu {
        mut policy, now, ..
    } = vcpu;
    let Plan::Poll { until_tsc } = policy.enter(now, NO_TIMER, Hints::default()) else {
        panic!("{policy:?}");
    };
    policy.polled(until_tsc, false);
    for tick in 1..5 {
        let now = until_tsc + tick * 100_000;
        assert_eq!(policy.enter(now, NO_TIMER, Hints::default()), Plan::Halt);
        policy.halted(now + 90_000, false);
    }
}

#[test]
fn the_host_polls_again_when_this_vcpu_has_given_up() {
    let mut vcpu = Vcpu::new(10_000);
    assert!(!vcpu.policy.wants_host_polling());
    vcpu.waits(63, 10_000_000);
    assert!(!vcpu.policy.wants_host_polling());
    vcpu.waits(1, 10_000_000);
    assert!(vcpu.policy.wants_host_polling());
    // Polling that finds work takes nothing from the host, and a change is an exit.
    assert!(vcpu.waits(100, 10_000) < 100);
    assert!(vcpu.policy.wants_host_polling());
    // Where it finds none, both would poll.
    vcpu.waits(1, 10_000_000);
    assert!(!vcpu.policy.wants_host_polling());
    // And not again before as many halts without.
    while vcpu.policy.window_tsc() > 0 {
        vcpu.waits(1, 10_000_000);
    }
    vcpu.waits(62, 10_000_000);
    assert!(!vcpu.policy.wants_host_polling());
    vcpu.waits(2, 10_000_000);
    assert!(vcpu.policy.wants_host_polling());
}
