//! The real threads against a guest whose TSC is the host's, without KVM.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coopvirt_spec::code::{SetupStatus, Status};
use coopvirt_spec::lease;
use coopvirt_spec::mem::{Load, SharedMem, Store};
use coopvirt_spec::op::{EchoArgs, IpiArgs, LogArgs};
use coopvirt_spec::page::at;
use coopvirt_spec::setup::AREA_MSR;
use coopvirt_spec::timer::{self, Published};
use coopvirt_spec::version::Features;

use super::Sidecore;
use crate::coop::testing::{area_gpa, host_with, write, Done, Guest, Recorder, KHZ, TIMER_VECTOR};
use crate::coop::{Coop, CoopOptions, SidecoreOptions, SidecorePolicy};
use crate::kvm::tsc;
use crate::mem::GuestRam;

const ALL: Features = Features(0x73f);
/// Longest wait for something that takes microseconds: the machine may be busy.
const LIMIT: Duration = Duration::from_secs(20);

fn start(policy: SidecorePolicy) -> (Arc<Coop>, GuestRam, Arc<Recorder>, Sidecore) {
    let sidecore = SidecoreOptions {
        policy,
        host_cpu: None,
    };
    let (coop, ram, recorder) = host_with(CoopOptions {
        sidecore,
        ..CoopOptions::default()
    });
    let threads = Sidecore::spawn(Arc::clone(&coop), KHZ, Vec::new()).expect("two threads");
    (coop, ram, recorder, threads)
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LIMIT, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn lease_2_calls_are_answered_without_a_doorbell_while_the_lease_is_held() {
    let (coop, ram, recorder, threads) = start(SidecorePolicy::Always);
    let mut guest = Guest::register(&coop, &ram, 0, ALL);
    until("a lease", || lease::seems_held(&guest.area, tsc::read()));
    for value in 0..200 {
        guest.publish(&EchoArgs { value }.submission(value));
        until("a completion", || {
            guest.take().is_some_and(|done| done.result == value)
        });
    }
    guest.publish(&IpiArgs::one(1, 0xfd).submission(1).quiet());
    until("an interrupt", || {
        recorder.done() == [Done::Raised(1, 0xfd)]
    });
    drop(threads);
    let counts = coop.counts();
    assert_eq!(counts.events["sync_bell"], 0);
    assert!(counts.host["taken_polling"] >= 201);
    assert_eq!(counts.thread_cpu_ns.len(), 2);
    // Whoever polled is gone, and so is the lease.
    assert_eq!(guest.area.load_u64(at::LEASE, Load::Relaxed), 0);
}

#[test]
fn lease_3_a_sleeping_host_is_woken_by_the_doorbell_and_loses_nothing() {
    let (coop, ram, _, _threads) = start(SidecorePolicy::Adaptive);
    let mut guest = Guest::register(&coop, &ram, 0, ALL);
    for value in 0..300 {
        guest.publish(&EchoArgs { value }.submission(value));
        if !lease::listens(&guest.area, tsc::read) {
            coop.ring_async();
        }
        until("a completion", || {
            guest.take().is_some_and(|done| done.result == value)
        });
        if value % 50 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn timer_4_a_deadline_is_served_once_and_never_early() {
    let (coop, ram, recorder, _threads) = start(SidecorePolicy::Always);
    let guest = Guest::register(&coop, &ram, 1, ALL);
    until("a lease", || lease::seems_held(&guest.area, tsc::read()));
    for _ in 0..20 {
        let deadline = tsc::read() + 2_000_000;
        if timer::publish(&guest.area, deadline, tsc::read) != Published::Listening {
            continue;
        }
        until("the interrupt", || {
            let done = recorder.done();
            let now = tsc::read();
            assert!(done.is_empty() || now >= deadline);
            done == [Done::Raised(1, TIMER_VECTOR)]
        });
    }
    for deadline in [0, u64::MAX] {
        let _ = timer::publish(&guest.area, deadline, tsc::read);
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(recorder.done(), []);
    }
}

#[test]
fn timer_7_a_host_that_goes_to_sleep_stays_armed() {
    let (coop, ram, recorder, _threads) = start(SidecorePolicy::Adaptive);
    let guest = Guest::register(&coop, &ram, 0, ALL);
    for round in 1..=5 {
        until("a lease", || {
            coop.ring_async();
            lease::seems_held(&guest.area, tsc::read())
        });
        let deadline = tsc::read() + u64::from(KHZ) * 40;
        if timer::publish(&guest.area, deadline, tsc::read).needs_stock_write() {
            continue;
        }
        until("sleep", || {
            guest.area.load_u64(at::LEASE, Load::Relaxed) <= tsc::read()
        });
        until("the interrupt", || !recorder.done().is_empty());
        assert!(tsc::read() >= deadline, "round {round}");
    }
}

#[test]
fn trust_4_a_deadline_rewritten_all_the_time_costs_no_more_than_the_looks() {
    let (coop, ram, recorder, _threads) = start(SidecorePolicy::Always);
    let mut other = Guest::register(&coop, &ram, 1, ALL);
    let guest = Guest::register(&coop, &ram, 0, ALL);
    for turn in 0..200_000 {
        guest
            .area
            .store_u64(at::DEADLINE, 1 + turn % 7, Store::Release);
    }
    other.publish(&EchoArgs { value: 9 }.submission(9));
    until("the other's answer", || other.take().is_some());
    let raised = recorder.done().len();
    assert!(raised <= 200_000, "{raised}");
}

#[test]
fn life_2_unregistering_waits_for_the_polling_thread_and_the_worker() {
    let (coop, ram, recorder, _threads) = start(SidecorePolicy::Always);
    for turn in 0..200_u64 {
        let mut guest = Guest::register(&coop, &ram, 0, ALL);
        for tag in 0..8 {
            guest.publish(&EchoArgs { value: turn }.submission(tag));
            let log = LogArgs {
                text_gpa: 0x1000,
                len_bytes: 8,
                level: 1,
            };
            guest.publish(&log.submission(tag));
        }
        assert_eq!(write(&coop, 0, AREA_MSR, 0), SetupStatus::OK);
        let area = &guest.area;
        for word in 0..512 {
            area.store_u64(word * 8, turn, Store::Relaxed);
        }
        recorder.done();
        std::thread::yield_now();
        for word in 0..512 {
            assert_eq!(area.load_u64(word * 8, Load::Relaxed), turn);
        }
        assert_eq!(recorder.done(), []);
        for word in 0..512 {
            area.store_u64(word * 8, 0, Store::Relaxed);
        }
    }
    assert_eq!(area_gpa(0), 0x10_0000);
}

#[test]
fn slow_calls_are_left_to_the_worker_and_answered() {
    let (coop, ram, recorder, _threads) = start(SidecorePolicy::Always);
    let mut guest = Guest::register(&coop, &ram, 0, ALL);
    let log = LogArgs {
        text_gpa: 0x1000,
        len_bytes: 4,
        level: 6,
    };
    guest.publish(&log.submission(77));
    until("the line", || !recorder.done().is_empty());
    until("a completion", || {
        guest
            .take()
            .is_some_and(|done| done.tag == 77 && done.status() == Status::OK)
    });
}

#[test]
fn timer_6_a_host_that_never_polls_still_spares_a_tick_its_stock_write() {
    let (coop, ram, recorder, _threads) = start(SidecorePolicy::Off);
    let guest = Guest::register(&coop, &ram, 0, coop.options.offered());
    let (mut elided, start) = (0, Instant::now());
    while elided < 5 && start.elapsed() < LIMIT {
        let deadline = tsc::read() + u64::from(KHZ) * 300;
        if timer::publish(&guest.area, deadline, tsc::read) != Published::Armed {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        until("the interrupt", || !recorder.done().is_empty());
        assert!(tsc::read() >= deadline);
        elided += 1;
    }
    assert_eq!(elided, 5);
}

#[test]
fn a_host_without_a_polling_thread_never_gives_a_lease() {
    let (coop, ram, _, threads) = start(SidecorePolicy::Off);
    let features = coop.options.offered();
    assert!(!features.contains(Features::SIDECORE));
    let mut guest = Guest::register(&coop, &ram, 0, features);
    guest.publish(&EchoArgs { value: 1 }.submission(1));
    coop.ring_async();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(guest.area.load_u64(at::LEASE, Load::Relaxed), 0);
    assert!(guest.take().is_none());
    guest.ring();
    assert_eq!(guest.take().map(|done| done.result), Some(1));
    drop(threads);
}

#[test]
fn trust_5_calls_that_are_left_to_the_worker_may_not_log_more() {
    let (coop, ram, recorder, _threads) = start(SidecorePolicy::Always);
    let mut guest = Guest::register(&coop, &ram, 0, ALL);
    let started = Instant::now();
    let line = LogArgs {
        text_gpa: 0x20_0000,
        len_bytes: 1,
        level: 6,
    };
    for tag in 0..400 {
        guest.publish(&line.submission(tag));
        until("a completion", || guest.take().is_some());
    }
    let allowed = 65 + started.elapsed().as_millis() / 20;
    let logged = recorder.done().len();
    assert!((64..=allowed).contains(&(logged as u128)), "{logged} lines");
}
