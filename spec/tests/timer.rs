//! The timer words, clause by clause, without threads; the models have the interleavings.

#[path = "support/machine.rs"]
mod machine;
mod support;

use coopvirt_spec::lease;
use coopvirt_spec::mem::{AtomicWords, Load, SharedMem, Store};
use coopvirt_spec::page::{at, AreaLayout};
use coopvirt_spec::timer::{self, HostTimer, Look, Published};
use coopvirt_spec::version::Features;
use machine::Machine;

const VECTOR: u8 = 0xec;

fn machine() -> Machine {
    let mut machine = Machine::new(Features::RING | Features::SIDECORE | Features::TIMER);
    machine.register(0, 4);
    timer::set_vector(&machine.area(0).expect("registered"), VECTOR);
    machine
}

fn publish(machine: &Machine, deadline: u64) -> Published {
    let mem = machine.area(0).expect("registered");
    timer::publish(&mem, deadline, || machine.now)
}

#[test]
fn timer_2_every_combination_of_promises_is_decided_as_specified() {
    let memory = support::area(AreaLayout::DEFAULT);
    let mem = &AtomicWords(&memory);
    let now = 100;
    for lease in [0, 99, 100, 101, u64::MAX] {
        for armed in [0, 50, 199, 200, 201, u64::MAX] {
            for served in [0, 150, 200] {
                mem.store_u64(at::LEASE, lease, Store::Relaxed);
                mem.store_u64(at::ARMED, armed, Store::Relaxed);
                mem.store_u64(at::SERVED, served, Store::Relaxed);
                let is_held = lease > now;
                let is_armed = armed != 0 && armed <= 200;
                let expected = match (served == 200, is_held, is_armed) {
                    (true, _, _) | (_, false, false) => Published::Fallback,
                    (_, true, _) => Published::Listening,
                    (_, _, true) => Published::Armed,
                };
                assert_eq!(timer::publish(mem, 200, || now), expected);
                assert_eq!(mem.load_u64(at::DEADLINE, Load::Acquire), 200);
                assert_eq!(timer::publish(mem, 0, || now), Published::NoDeadline);
            }
        }
    }
}

#[test]
fn timer_1_the_interrupt_has_the_guests_vector_or_is_none() {
    let mut machine = machine();
    machine.poll();
    assert_eq!(publish(&machine, 500), Published::Listening);
    machine.advance(499);
    machine.poll();
    assert_eq!(machine.vcpus[0].interrupts, [VECTOR]);
    let mem = machine.area(0).expect("registered");
    for vector in [0, 15, 256, 0x1ec, u32::MAX] {
        mem.store_u32(at::TIMER_VECTOR, vector, Store::Relaxed);
        assert_eq!(timer::vector(&mem), None);
    }
    for vector in [16, 255] {
        mem.store_u32(at::TIMER_VECTOR, vector, Store::Relaxed);
        assert_eq!(timer::vector(&mem).map(u32::from), Some(vector));
    }
}

#[test]
fn timer_3_a_deadline_that_is_withdrawn_gives_no_interrupt() {
    let mut machine = machine();
    machine.poll();
    assert_eq!(publish(&machine, 500), Published::Listening);
    assert_eq!(publish(&machine, 0), Published::NoDeadline);
    machine.advance(1000);
    machine.poll();
    machine.sleep();
    assert!(machine.vcpus[0].interrupts.is_empty());
}

#[test]
fn timer_4_past_deadlines_are_due_once_and_the_largest_never() {
    let mut machine = machine();
    machine.advance(1000);
    machine.poll();
    assert_eq!(publish(&machine, 1), Published::Listening);
    for _ in 0..10 {
        machine.poll();
    }
    assert_eq!(machine.vcpus[0].interrupts.len(), 1);
    assert_eq!(publish(&machine, u64::MAX), Published::Listening);
    machine.advance(u64::MAX - 5000);
    machine.poll();
    assert_eq!(machine.vcpus[0].interrupts.len(), 1);
    // A storm of rewriting between two looks is one interrupt.
    for deadline in 1..1000 {
        let _ = publish(&machine, deadline);
    }
    machine.poll();
    assert_eq!(machine.vcpus[0].interrupts.len(), 2);
    // The same value again: the guest is told to help itself.
    assert_eq!(publish(&machine, 999), Published::Fallback);
}

#[test]
fn timer_6_a_promise_is_only_replaced_by_an_earlier_one() {
    let memory = support::area(AreaLayout::DEFAULT);
    let mem = &AtomicWords(&memory);
    let mut host = HostTimer::new();
    for (asked, armed) in [(300, 300), (400, 300), (0, 300), (200, 200)] {
        host.arm(mem, asked);
        assert_eq!(host.armed_tsc(), armed);
        assert_eq!(mem.load_u64(at::ARMED, Load::Relaxed), armed);
    }
    mem.store_u64(at::DEADLINE, 900, Store::Release);
    assert_eq!(host.disarm(mem, 200), Look::Later { deadline_tsc: 900 });
    host.arm(mem, 900);
    assert_eq!(host.armed_tsc(), 900);
}

// [TIMER-5], [TIMER-7]: asleep, the host's own timer keeps what the lease promised.
#[test]
fn timer_7_a_deadline_survives_the_sleep_of_the_host() {
    let mut machine = machine();
    machine.poll();
    assert_eq!(publish(&machine, 5000), Published::Listening);
    machine.sleep();
    let mem = machine.area(0).expect("registered");
    assert_eq!(mem.load_u64(at::ARMED, Load::Relaxed), 5000);
    // Later than what the host is armed for: no exit. Earlier: the stock path.
    assert_eq!(publish(&machine, 7000), Published::Armed);
    assert_eq!(publish(&machine, 4000), Published::Fallback);
    assert_eq!(publish(&machine, 7000), Published::Armed);
    machine.advance(5000);
    assert!(machine.vcpus[0].interrupts.is_empty());
    machine.advance(2000);
    assert_eq!(machine.vcpus[0].interrupts, [VECTOR]);
}

#[test]
fn timer_9_after_a_rewritten_tsc_the_word_means_the_new_one() {
    let mut machine = machine();
    machine.advance(10_000);
    machine.poll();
    let _ = publish(&machine, 9000);
    machine.poll();
    assert_eq!(machine.vcpus[0].interrupts.len(), 1);
    // Back to the start: 9000 lies ahead again, and was not served in this count.
    machine.rewrite_tsc(100);
    let mem = machine.area(0).expect("registered");
    assert_eq!(mem.load_u64(at::SERVED, Load::Relaxed), 0);
    assert!(!lease::listens(&mem, || machine.now));
    assert_eq!(publish(&machine, 9000), Published::Armed);
    machine.advance(9000);
    assert_eq!(machine.vcpus[0].interrupts.len(), 2);
}

#[test]
fn life_7_a_guest_that_sleeps_is_woken_when_its_area_breaks() {
    let mut machine = machine();
    machine.poll();
    assert_eq!(publish(&machine, 5000), Published::Listening);
    let mem = machine.area(0).expect("registered");
    mem.store_u32(at::SUBMISSION_TAIL, 77, Store::Release);
    for _ in 0..3 {
        machine.poll();
        machine.sleep();
        machine.sync_bell(0);
    }
    assert_eq!(machine.vcpus[0].interrupts, [VECTOR]);
    assert_eq!(publish(&machine, 5000), Published::Fallback);
}

#[test]
fn timer_10_a_stock_deadline_is_a_hint_and_raises_nothing() {
    let mut machine = machine();
    let mem = machine.area(0).expect("registered");
    timer::note_stock(&mem, 500);
    assert_eq!(timer::stock_deadline(&mem), 500);
    assert_eq!(mem.load_u64(at::DEADLINE, Load::Acquire), timer::NONE);
    machine.advance(1000);
    machine.poll();
    machine.sleep();
    assert!(machine.vcpus[0].interrupts.is_empty());
}
