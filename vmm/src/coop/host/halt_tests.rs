//! Halts by the doorbell (`[HALT-1]` to `[HALT-3]`), without KVM.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coopvirt_spec::mem::{Load, SharedMem, Store};
use coopvirt_spec::page::at;
use coopvirt_spec::timer;
use coopvirt_spec::version::Features;

use crate::coop::host::{lock, Coop, OwnVcpu};
use crate::coop::seat::Timing;
use crate::coop::serve::Prefault;
use crate::coop::sidecore::Sidecore;
use crate::coop::testing::{host, host_with, Done, FakeVcpu, Guest, KHZ, TIMER_VECTOR};
use crate::coop::{CoopOptions, SidecorePolicy};
use crate::kvm::tsc;

const HALTS: Features =
    Features(Features::RING.0 | Features::SIDECORE.0 | Features::TIMER.0 | Features::HALT.0);
const SECOND: u64 = KHZ as u64 * 1_000;

/// What a vCPU's own thread was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Deadline(u64),
    Halt,
}

#[derive(Default)]
struct Vcpu {
    told: Mutex<Vec<Told>>,
    has_no_timer: bool,
}

impl Prefault for Vcpu {
    fn prefault(&self, _gpa: u64, len_bytes: u64) -> u64 {
        len_bytes
    }
}

impl OwnVcpu for Vcpu {
    fn timing(&self) -> Result<Timing, String> {
        FakeVcpu.timing()
    }
    fn set_tsc(&self, _value: u64) -> Result<(), String> {
        Ok(())
    }
    fn set_deadline(&self, deadline_tsc: u64) -> bool {
        lock(&self.told).push(Told::Deadline(deadline_tsc));
        !self.has_no_timer
    }
    fn halt(&self) {
        lock(&self.told).push(Told::Halt);
    }
}

impl Vcpu {
    /// Halts, and says what became of it.
    fn halts(&self, coop: &Coop, vcpu: u8) -> Vec<Told> {
        coop.ring_halt(vcpu, self);
        std::mem::take(&mut *lock(&self.told))
    }
}

fn word(guest: &Guest<'_>, offset: usize) -> u64 {
    guest.area.load_u64(offset, Load::Relaxed)
}

fn publish(guest: &Guest<'_>, deadline_tsc: u64) {
    let _ = timer::publish(&guest.area, deadline_tsc, tsc::read);
}

#[test]
fn halt_2_the_deadline_goes_to_the_vcpus_own_timer_and_nobody_else_raises_it() {
    let (coop, ram, recorder) = host();
    let (guest, vcpu) = (Guest::register(&coop, &ram, 0, HALTS), Vcpu::default());
    let deadline = tsc::read() + SECOND / 1_000;
    publish(&guest, deadline);
    let told = vcpu.halts(&coop, 0);
    assert_eq!(told, [Told::Deadline(deadline), Told::Halt]);
    assert_eq!(word(&guest, at::SERVED), deadline);
    assert!(word(&guest, at::ARMED) > deadline, "the next one");
    while tsc::read() <= deadline {}
    let look = || {
        let mut seat = coop.stations[0].seat.lock();
        seat.as_mut().expect("an area").retire(&coop.shared)
    };
    assert!(!look().raised);
    assert_eq!(recorder.done(), []);
    // The next one is served by whoever looks, as ever.
    publish(&guest, tsc::read());
    assert!(look().raised);
    assert_eq!(recorder.done(), [Done::Raised(0, TIMER_VECTOR)]);
}

#[test]
fn halt_2_a_deadline_that_is_due_is_served_and_the_vcpu_does_not_wait() {
    let (coop, ram, recorder) = host();
    let (guest, vcpu) = (Guest::register(&coop, &ram, 0, HALTS), Vcpu::default());
    publish(&guest, 1);
    assert_eq!(vcpu.halts(&coop, 0), []);
    assert_eq!(recorder.done(), [Done::Raised(0, TIMER_VECTOR)]);
    assert_eq!(vcpu.halts(&coop, 0), [Told::Halt], "it was served");
}

#[test]
fn halt_2_a_host_that_cannot_set_the_timer_is_armed_instead() {
    let (coop, ram, _) = host();
    let guest = Guest::register(&coop, &ram, 0, HALTS);
    let vcpu = Vcpu {
        has_no_timer: true,
        ..Vcpu::default()
    };
    let deadline = tsc::read() + SECOND;
    publish(&guest, deadline);
    let told = vcpu.halts(&coop, 0);
    assert_eq!(told, [Told::Deadline(deadline), Told::Halt]);
    assert_eq!(word(&guest, at::ARMED), deadline);
    assert_ne!(word(&guest, at::SERVED), deadline);
}

#[test]
fn halt_2_a_deadline_handed_over_before_is_handed_over_again() {
    let (coop, ram, _) = host();
    let (guest, vcpu) = (Guest::register(&coop, &ram, 0, HALTS), Vcpu::default());
    let deadline = tsc::read() + SECOND;
    for _ in 0..2 {
        // Between the two the guest may have set its timer to something else.
        publish(&guest, deadline);
        let told = vcpu.halts(&coop, 0);
        assert_eq!(told, [Told::Deadline(deadline), Told::Halt]);
    }
}

#[test]
fn halt_3_behind_a_stock_write_the_host_is_armed_too() {
    let (coop, ram, _) = host();
    let (guest, vcpu) = (Guest::register(&coop, &ram, 0, HALTS), Vcpu::default());
    let deadline = tsc::read() + SECOND;
    timer::note_stock(&guest.area, deadline);
    assert_eq!(vcpu.halts(&coop, 0), [Told::Halt], "it is set already");
    let armed = word(&guest, at::ARMED);
    assert!(armed > deadline && armed < deadline + SECOND, "{armed}");
}

#[test]
fn halt_3_a_halt_keeps_the_promise_of_before() {
    let (coop, ram, _) = host();
    let (guest, vcpu) = (Guest::register(&coop, &ram, 0, HALTS), Vcpu::default());
    let near = tsc::read() + SECOND;
    if let Some(served) = coop.stations[0].seat.lock().as_mut() {
        served.arm(near);
    }
    assert_eq!(word(&guest, at::ARMED), near);
    let deadline = near + SECOND;
    publish(&guest, deadline);
    vcpu.halts(&coop, 0);
    assert!(word(&guest, at::ARMED) > deadline);
}

#[test]
fn halt_2_a_lease_that_is_out_changes_nothing() {
    let (coop, ram, _) = host();
    let (guest, vcpu) = (Guest::register(&coop, &ram, 0, HALTS), Vcpu::default());
    if let Some(served) = coop.stations[0].seat.lock().as_mut() {
        served.poll(&coop.shared, tsc::read(), Duration::from_secs(1));
    }
    // The guest may have found it over: the thread that gave it can be late.
    let deadline = tsc::read() + SECOND;
    publish(&guest, deadline);
    let told = vcpu.halts(&coop, 0);
    assert_eq!(told, [Told::Deadline(deadline), Told::Halt]);
    assert_eq!(word(&guest, at::SERVED), deadline);
}

#[test]
fn bell_7_without_the_feature_or_an_area_nothing_happens() {
    let (coop, ram, _) = host();
    let vcpu = Vcpu::default();
    assert_eq!(vcpu.halts(&coop, 0), []);
    assert_eq!(vcpu.halts(&coop, 200), []);
    let guest = Guest::register(&coop, &ram, 0, HALTS.without(Features::HALT));
    publish(&guest, tsc::read() + SECOND);
    assert_eq!(vcpu.halts(&coop, 0), []);
}

#[test]
fn trust_4_no_deadline_and_no_stock_deadline_does_more_than_set_this_vcpus_timer() {
    let (coop, ram, _) = host();
    let (guest, vcpu) = (Guest::register(&coop, &ram, 0, HALTS), Vcpu::default());
    let now = tsc::read();
    let words = [0, 1, now, now + 1, now + SECOND, u64::MAX - 1, u64::MAX];
    for deadline in words {
        for stock in words {
            guest
                .area
                .store_u64(at::STOCK_DEADLINE, stock, Store::Relaxed);
            publish(&guest, deadline);
            for told in vcpu.halts(&coop, 0) {
                assert!(told == Told::Halt || told == Told::Deadline(deadline));
            }
        }
    }
}

/// A guest that sleeps and is woken by others meanwhile, beside the threads of a real host: each deadline that is not left
/// to a stock write is raised by the host or set at the halt, none is lost.
#[test]
fn halt_2_no_deadline_is_lost_between_halts_and_a_thread_that_looks() {
    for policy in [SidecorePolicy::Off, SidecorePolicy::Adaptive] {
        let mut options = CoopOptions::default();
        options.sidecore.policy = policy;
        let (coop, ram, recorder) = host_with(options);
        let sidecore = Sidecore::spawn(Arc::clone(&coop), KHZ, Vec::new()).expect("threads");
        let features = HALTS.intersection(options.offered());
        let (guest, vcpu) = (Guest::register(&coop, &ram, 0, features), Vcpu::default());
        let mut random = 88_172_645_463_325_252_u64;
        let (mut handed, mut raised) = (0, 0);
        for _ in 0..3_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let deadline = tsc::read() + random % (u64::from(KHZ) / 5);
            if timer::publish(&guest.area, deadline, tsc::read).needs_stock_write() {
                // As the shim does where nothing is set before it.
                timer::note_stock(&guest.area, deadline);
                vcpu.halts(&coop, 0);
                continue;
            }
            let told = match random % 4 {
                // It does not halt this time.
                0 => Vec::new(),
                _ => vcpu.halts(&coop, 0),
            };
            if told.contains(&Told::Deadline(deadline)) {
                handed += 1;
                while tsc::read() < deadline {}
                continue;
            }
            let start = Instant::now();
            let served = || word(&guest, at::SERVED) == deadline;
            while !served() && start.elapsed() < Duration::from_secs(20) {
                std::thread::yield_now();
            }
            assert!(served(), "{policy:?}: lost after {handed} and {raised}");
            raised += 1;
        }
        drop(sidecore);
        let interrupts = recorder.done().len();
        assert!(interrupts >= raised, "{interrupts} of {raised}");
        assert!(handed > 0, "{policy:?}: none was handed over");
    }
}
