//! Causes beyond the reason, durations, places, and what threads took.

use super::*;

const VINTR: u64 = 0x64;
const PAUSE: u64 = 0x77;

fn injection(vector: u8) -> Kind {
    Kind::Injection { vector }
}

#[test]
fn a_halt_is_explained_by_what_the_guest_got_after_it() {
    let mut f = Feeder::new();
    f.exit(1, HLT).feed(1, injection(0xec));
    f.exit(1, HLT)
        .feed(1, injection(0xfd))
        .feed(1, injection(0xec));
    f.exit(1, HLT).feed(1, injection(0x25));
    f.exit(1, HLT)
        .feed(1, Kind::UserspaceExit)
        .feed(1, injection(0xec));
    f.exit(1, HLT).exit(1, HLT);
    let counts = f.finish().whole;
    assert_eq!(counts.by_cause["HLT then vector 0xec local timer"], 1);
    assert_eq!(counts.by_cause["HLT then vector 0xfd reschedule"], 1);
    assert_eq!(counts.by_cause["HLT then vector of a device"], 1);
    assert_eq!(counts.by_cause["HLT then KVM_RUN returned"], 1);
    assert_eq!(counts.by_cause["HLT asleep at a mark"], 1);
    assert_eq!(counts.by_cause["HLT other"], 1);
    assert_eq!(counts.unexplained, 1);
    assert_eq!(counts.explained_percent(), Some(500.0 / 6.0));
}

#[test]
fn a_halt_that_an_interrupt_had_forestalled_is_explained_when_the_guest_takes_it() {
    let mut f = Feeder::new();
    // The interrupt waits for the guest's STI, behind which the HLT exits first.
    f.exit(1, HLT).exit(1, VINTR).feed(1, injection(0xec));
    f.exit(1, HLT).exit(1, INTR).feed(1, Kind::HostTick);
    f.exit(1, VINTR).feed(1, injection(0xfd));
    // A guest that has run on without one had not been woken by it, and a mark waits for nothing.
    f.exit(1, HLT).exit(1, INTR).exit(1, CPUID).exit(1, VINTR);
    f.feed(1, injection(0x30));
    // Nor had one that comes at another exit: it may be a newer one.
    f.exit(1, HLT).exit(1, INTR).feed(1, injection(0xfb));
    f.exit(1, VINTR).feed(1, injection(0xec));
    f.exit(1, HLT).exit(1, VINTR);
    f.mark(2, MarkKind::Point, 1, 0);
    let counts = f.finish().whole;
    let of = |cause: &str| counts.by_cause.get(cause).copied().unwrap_or(0);
    assert_eq!(of("HLT then vector 0xec local timer"), 1);
    assert_eq!(of("HLT then vector 0xfd reschedule"), 1);
    assert_eq!(of("HLT then vector of a device"), 0);
    assert_eq!(of("HLT other"), 3);
    assert_eq!(of("VINTR then vector of a device"), 1);
    assert_eq!(counts.by_reason["HLT"], 5);
    assert_eq!(counts.by_cause.values().sum::<u64>(), counts.total);
}

#[test]
fn an_interrupt_window_is_explained_by_the_vector_that_waited() {
    let mut f = Feeder::new();
    f.exit(1, VINTR).feed(1, injection(0xfd));
    // Another vCPU's injection explains nothing here.
    f.exit(1, VINTR).feed(2, injection(0xfd));
    let counts = f.finish().whole;
    assert_eq!(counts.by_cause["VINTR then vector 0xfd reschedule"], 1);
    assert_eq!(counts.by_cause["VINTR other"], 1);
}

#[test]
fn interrupts_of_the_host_are_told_apart() {
    let mut f = Feeder::new();
    f.exit(1, INTR).feed(1, Kind::Kick).feed(1, injection(0xec));
    f.exit(1, INTR).feed(1, Kind::HostVector { vector: 0xfb });
    // The tick comes with the timer's vector, a device's handler without one.
    f.exit(1, INTR)
        .feed(1, Kind::HostVector { vector: 0xec })
        .feed(1, Kind::HostTick);
    f.exit(1, INTR).feed(1, Kind::HostIrq { irq: 27 });
    f.exit(1, INTR);
    let trace = f.finish();
    let counts = &trace.whole;
    assert_eq!(counts.by_cause["INTR kick for vector 0xec local timer"], 1);
    assert_eq!(
        counts.by_cause["INTR host vector 0xfb call function single"],
        1
    );
    assert_eq!(counts.by_cause["INTR host tick"], 1);
    assert_eq!(counts.by_cause["INTR host device irq 27"], 1);
    assert_eq!(counts.by_cause["INTR other"], 1);
    assert_eq!((counts.host_tick, counts.unexplained), (1, 1));
}

#[test]
fn intels_exit_names_the_vector_itself() {
    let mut f = Feeder::new();
    f.feed(
        1,
        Kind::Exit(Exit {
            isa: Isa::Vmx,
            reason: 1,
            info1: 0,
            info2: 0,
            rip: None,
            intr_info: 1 << 31 | 0xf6,
            is_traced_early: true,
        }),
    );
    let counts = f.finish().whole;
    assert_eq!(
        counts.by_cause["EXTERNAL_INTERRUPT host vector 0xf6 irq work"],
        1
    );
}

#[test]
fn leaves_and_plain_reasons_are_told() {
    let mut f = Feeder::new();
    f.exit(1, CPUID).feed(1, Kind::Cpuid { leaf: 0x4000_0001 });
    f.exit(1, CPUID).exit(1, PAUSE);
    let trace = f.finish();
    assert_eq!(trace.whole.by_cause["CPUID 0x40000001"], 1);
    assert_eq!(trace.whole.by_cause["CPUID other"], 1);
    assert_eq!(trace.whole.by_cause["PAUSE"], 1);
    assert_eq!(trace.whole.unexplained, 2);
}

#[test]
fn faults_on_ram_say_what_was_attempted() {
    let mut f = Feeder::new();
    for info1 in [0x4, 0x6, 0x14, 0x7] {
        f.feed(1, exit(NPF, info1, 0x10_0000));
    }
    let counts = f.finish().whole;
    for cause in [
        "NPF ram not mapped, read",
        "NPF ram not mapped, write",
        "NPF ram not mapped, fetch",
        "NPF ram protected, write",
    ] {
        assert_eq!(counts.by_cause[cause], 1, "{cause}");
    }
}

#[test]
fn durations_run_from_exit_to_entry() {
    let mut f = Feeder::new();
    f.feed(1, Kind::Entry);
    f.now_ns += 99;
    f.exit(1, HLT);
    f.now_ns += 999;
    f.feed(1, Kind::Entry);
    f.exit(1, CPUID);
    // Only the first entry ends an exit, and an exit may be cut off.
    f.feed(1, Kind::Entry).feed(1, Kind::Entry).exit(1, HLT);
    let counts = f.finish().whole;
    assert_eq!(counts.durations["HLT"].sum_ns, 1000);
    assert_eq!(counts.durations["HLT"].count(), 1);
    assert_eq!(counts.durations["CPUID"].sum_ns, 1);
    assert_eq!(counts.guest_ns, 100 + 1 + 1);
}

#[test]
fn places_are_those_of_instructions_and_not_of_interrupts() {
    let mut f = Feeder::new();
    for (reason, rip) in [(CPUID, 0x1000), (CPUID, 0x1000), (INTR, 0x2000)] {
        let Kind::Exit(exit) = exit(reason, 0, 0) else {
            continue;
        };
        let rip = Some(rip);
        f.feed(1, Kind::Exit(Exit { rip, ..exit }));
    }
    let counts = f.finish().whole;
    assert_eq!(counts.by_place, [("CPUID 0x1000".to_string(), 2)].into());
}

#[test]
fn threads_times_are_cut_at_marks_too() {
    let mut f = Feeder::new();
    f.aggregator.feed_thread_times(0, [0, 0, 0, 0]);
    f.aggregator.feed_thread_times(1000, [1000, 500, 0, 10]);
    f.now_ns = 199;
    f.mark(1, MarkKind::Begin, 3, 0);
    f.now_ns = 699;
    f.mark(1, MarkKind::End, 3, 0);
    let trace = f.finish();
    let times = &trace.phases[0].cpu_by_thread_ns;
    assert_eq!((times["vcpus"], times["sidecore"]), (500, 250));
    assert_eq!((times["vhost"], times["others"]), (0, 5));
}
