//! Hand-made events, so that every rule can be seen without a kernel.

use std::sync::Arc;

use coopvirt_spec::mark::{Mark, MarkKind, MARK_PORT};
use coopvirt_spec::work::Work;

use super::event::{Event, Exit, Kind};
use super::Aggregator;
use crate::account::model::{Counts, Trace};
use crate::account::names::PcNames;
use crate::account::reason::Isa;

mod attribution;

const INTR: u64 = 0x60;
const CPUID: u64 = 0x72;
const HLT: u64 = 0x78;
const IOIO: u64 = 0x7b;
const MSR: u64 = 0x7c;
const NPF: u64 = 0x400;

/// Feeds events one nanosecond apart.
struct Feeder {
    aggregator: Aggregator,
    now_ns: u64,
}

impl Feeder {
    fn new() -> Feeder {
        Feeder {
            aggregator: Aggregator::new(Arc::new(PcNames), MARK_PORT, None),
            now_ns: 100,
        }
    }

    fn feed(&mut self, tid: u32, kind: Kind) -> &mut Feeder {
        self.now_ns += 1;
        self.aggregator.feed(&Event {
            time_ns: self.now_ns,
            tid,
            kind,
        });
        self
    }

    fn exit(&mut self, tid: u32, reason: u64) -> &mut Feeder {
        self.feed(tid, exit(reason, 0, 0))
    }

    /// What a mark looks like: exit, port write, return to userspace.
    fn mark(&mut self, tid: u32, kind: MarkKind, work: u8, seq: u16) -> &mut Feeder {
        let value = Mark { kind, work, seq }.encode();
        self.feed(tid, exit(IOIO, u64::from(MARK_PORT) << 16 | 0x40, 0))
            .feed(
                tid,
                Kind::Mark {
                    value,
                    size_bytes: 4,
                },
            )
            .feed(tid, Kind::UserspaceExit)
    }

    fn finish(self) -> Trace {
        let trace = self.aggregator.finish();
        for counts in trace.phases.iter().map(|p| &p.counts).chain([&trace.whole]) {
            assert_sums(counts);
        }
        trace
    }
}

fn exit(reason: u64, info1: u64, info2: u64) -> Kind {
    Kind::Exit(Exit {
        isa: Isa::Svm,
        reason,
        info1,
        info2,
        rip: None,
        intr_info: 0,
        is_traced_early: true,
    })
}

fn late_exit(reason: u64) -> Kind {
    Kind::Exit(Exit {
        isa: Isa::Svm,
        reason,
        info1: 0,
        info2: 0,
        rip: None,
        intr_info: 0,
        is_traced_early: false,
    })
}

/// By reason and by cause, everything sums up to the total.
fn assert_sums(counts: &Counts) {
    assert_eq!(
        counts.by_reason.values().sum::<u64>(),
        counts.total,
        "{counts:?}"
    );
    assert_eq!(
        counts.by_cause.values().sum::<u64>(),
        counts.total,
        "{counts:?}"
    );
    assert!(counts.unexplained <= counts.total, "{counts:?}");
}

#[test]
fn a_phase_holds_what_lies_between_its_marks_and_no_mark() {
    let mut f = Feeder::new();
    f.exit(1, CPUID).mark(1, MarkKind::Begin, 3, 7);
    f.exit(1, HLT)
        .exit(2, HLT)
        .exit(1, CPUID)
        .feed(1, Kind::UserspaceExit);
    f.mark(2, MarkKind::Point, 9, 0);
    f.mark(1, MarkKind::End, 3, 7).exit(1, CPUID);
    let trace = f.finish();
    let phase = &trace.phases[1];
    assert_eq!((phase.work, phase.seq), (3, 7));
    assert_eq!((phase.counts.total, phase.counts.userspace), (3, 1));
    assert_eq!(phase.elapsed_ns, 10, "from port write to port write");
    assert_eq!((trace.whole.total, trace.whole.userspace), (8, 4));
    assert_eq!(trace.whole.by_cause["OUT 0xd0c mark"], 3);
    assert_eq!(trace.dropped_marks, 0);
}

#[test]
fn interleaved_vcpus_keep_their_own_details() {
    let mut f = Feeder::new();
    f.exit(1, MSR).exit(2, MSR);
    f.feed(
        2,
        Kind::Msr {
            is_write: true,
            index: 0x830,
        },
    );
    f.feed(
        1,
        Kind::Msr {
            is_write: true,
            index: 0x6e0,
        },
    );
    f.feed(3, exit(MSR, 1, 0));
    let counts = f.finish().whole;
    assert_eq!(counts.by_cause["WRMSR 0x830 X2APIC_ICR"], 1);
    assert_eq!(counts.by_cause["WRMSR 0x6e0 TSC_DEADLINE"], 1);
    assert_eq!(counts.by_cause["WRMSR untraced"], 1);
}

#[test]
fn boot_ends_without_a_begin_and_a_point_starts_with_the_vm() {
    let mut f = Feeder::new();
    f.feed(1, Kind::UserspaceExit);
    f.exit(1, CPUID).exit(1, CPUID);
    f.mark(1, MarkKind::Point, 77, 0)
        .mark(1, MarkKind::End, Work::Boot.code(), 0);
    let trace = f.finish();
    assert_eq!(trace.phases.len(), 2);
    for phase in &trace.phases {
        assert_eq!((phase.counts.total, phase.counts.userspace), (2, 0));
    }
    assert_eq!(trace.phases[0].elapsed_ns, 3);
}

#[test]
fn a_lost_begin_or_end_gives_no_phase() {
    let mut f = Feeder::new();
    f.mark(1, MarkKind::End, 4, 1)
        .mark(1, MarkKind::Begin, 5, 1);
    let trace = f.finish();
    assert!(trace.phases.is_empty());
    assert_eq!(trace.dropped_marks, 1);
}

#[test]
fn unknown_marks_are_counted_and_ignored() {
    let mut f = Feeder::new();
    for (value, size_bytes) in [(0x0901_0000, 4), (0, 4), (0x0301_0000, 2)] {
        f.feed(1, exit(IOIO, u64::from(MARK_PORT) << 16, 0));
        f.feed(1, Kind::Mark { value, size_bytes });
    }
    let trace = f.finish();
    assert!(trace.phases.is_empty());
    assert_eq!((trace.dropped_marks, trace.whole.total), (3, 3));
}

#[test]
fn a_guest_that_only_begins_or_only_points_is_bounded() {
    let mut f = Feeder::new();
    for seq in 0..5000 {
        f.mark(1, MarkKind::Begin, 200, seq);
        f.mark(1, MarkKind::Point, 201, seq);
    }
    f.mark(1, MarkKind::Begin, 200, 4999);
    for seq in 0..1000 {
        f.mark(1, MarkKind::Point, 202, seq);
    }
    f.mark(1, MarkKind::Point, 203, 0);
    let trace = f.finish();
    let of = |work| {
        trace
            .phases
            .iter()
            .filter(|phase| phase.work == work)
            .count()
    };
    assert_eq!([200, 201, 202, 203].map(of), [0, 512, 512, 0]);
    assert_eq!(
        trace.dropped_marks,
        (5000 - 64) + (5000 - 512) + 1 + (1000 - 512) + 1
    );
    assert_eq!(trace.whole.total, 11_002);
}

#[test]
fn a_tick_after_an_exit_traced_early_explains_it() {
    let mut f = Feeder::new();
    f.exit(1, INTR).feed(1, Kind::HostTick);
    f.exit(1, INTR).feed(1, Kind::GuestTimer);
    f.exit(1, INTR)
        .feed(1, Kind::HostTick)
        .feed(1, Kind::GuestTimer);
    f.exit(1, INTR).feed(1, Kind::Kick);
    f.exit(1, INTR).feed(1, Kind::Kick).feed(1, Kind::HostTick);
    f.exit(1, INTR);
    // Another thread's tick, a tick behind another reason, a tick in userspace: no cause.
    f.exit(2, INTR).feed(3, Kind::HostTick);
    f.exit(1, HLT).feed(1, Kind::HostTick);
    f.exit(1, INTR)
        .feed(1, Kind::UserspaceExit)
        .feed(1, Kind::HostTick);
    let counts = f.finish().whole;
    assert_eq!(counts.host_tick, 2);
    assert_eq!(counts.by_cause["INTR host tick"], 2);
    assert_eq!(counts.by_cause["INTR kick by another cpu"], 1);
    assert_eq!(counts.by_cause["INTR guest timer"], 2);
    assert_eq!(counts.by_cause["INTR other"], 3);
    assert_eq!(counts.net_if_known(), Some(7));
}

#[test]
fn a_tick_before_an_exit_traced_late_explains_it() {
    let mut f = Feeder::new();
    f.feed(1, late_exit(HLT));
    f.feed(1, Kind::HostTick).feed(1, late_exit(INTR));
    f.feed(1, Kind::GuestTimer).feed(1, late_exit(INTR));
    f.feed(1, Kind::HostTick)
        .feed(1, Kind::UserspaceExit)
        .feed(1, late_exit(INTR));
    f.feed(
        1,
        Kind::Msr {
            is_write: true,
            index: 0x6e0,
        },
    )
    .feed(1, late_exit(MSR));
    f.feed(1, late_exit(MSR)).feed(
        1,
        Kind::Msr {
            is_write: false,
            index: 0x10,
        },
    );
    let counts = f.finish().whole;
    assert_eq!(counts.host_tick, 1);
    assert_eq!(counts.by_cause["INTR guest timer"], 1);
    assert_eq!(counts.by_cause["INTR other"], 1);
    assert_eq!(counts.by_cause["WRMSR 0x6e0 TSC_DEADLINE"], 1);
    assert_eq!(counts.by_cause["RDMSR 0x10 TSC"], 1);
}

#[test]
fn without_tick_tracing_nothing_is_claimed_about_interrupts() {
    let reason = Some("hidden".to_string());
    let aggregator = Aggregator::new(Arc::new(PcNames), MARK_PORT, reason.clone());
    let mut f = Feeder {
        aggregator,
        now_ns: 0,
    };
    f.exit(1, INTR);
    let trace = f.finish();
    assert_eq!(trace.host_tick_unknown, reason);
    assert_eq!(trace.whole.net_if_known(), None);
    assert_eq!(trace.whole.by_cause["INTR cause unknown"], 1);
}

#[test]
fn nested_faults_are_split_into_ram_and_devices() {
    let mut f = Feeder::new();
    f.feed(1, exit(NPF, 0x4, 0x10_0000));
    f.feed(1, exit(NPF, 0x4, 0xfee0_00b0));
    f.feed(1, exit(NPF, 0xd, 0x40_0000_0014));
    f.feed(1, exit(NPF, 0x4, 0x50_0000_0000)).feed(
        1,
        Kind::Mmio {
            gpa: 0x50_0000_0000,
        },
    );
    let counts = f.finish().whole;
    assert_eq!(counts.by_cause["NPF ram not mapped, read"], 1);
    assert_eq!(counts.by_cause["MMIO 0xfee000b0 LAPIC EOI"], 1);
    assert_eq!(counts.by_cause["MMIO 0x4000000014"], 1);
    assert_eq!(counts.by_cause["MMIO 0x5000000000"], 1);
}

#[test]
fn cpu_time_is_interpolated_at_the_marks() {
    let mut f = Feeder::new();
    f.aggregator.feed_cpu_time(0, 1000);
    f.aggregator.feed_cpu_time(1000, 3000);
    f.now_ns = 199;
    f.mark(1, MarkKind::Begin, 3, 0);
    f.now_ns = 699;
    f.mark(1, MarkKind::End, 3, 0);
    let trace = f.finish();
    assert_eq!(trace.phases[0].elapsed_ns, 500);
    assert_eq!(trace.phases[0].cpu_ns, 1000);
}

#[test]
fn hypercalls_and_intels_reasons_have_causes_too() {
    let vmx = |reason, info1| {
        Kind::Exit(Exit {
            isa: Isa::Vmx,
            reason,
            info1,
            info2: 0,
            rip: None,
            intr_info: 0,
            is_traced_early: true,
        })
    };
    let mut aggregator = Aggregator::new(Arc::new(PcNames), MARK_PORT, None);
    let kinds = [
        vmx(18, 0),
        Kind::Hypercall { nr: 10 },
        vmx(56, 0x300),
        vmx(30, 0x03f8_0000),
        vmx(49, 0),
        Kind::Mmio { gpa: 0xfec0_0000 },
        vmx(48, 0x182),
        vmx(1, 0),
        Kind::HostTick,
    ];
    for (time_ns, kind) in (0u64..).zip(kinds) {
        aggregator.feed(&Event {
            time_ns,
            tid: 1,
            kind,
        });
    }
    let counts = aggregator.finish().whole;
    let causes: Vec<&str> = counts.by_cause.keys().map(String::as_str).collect();
    assert_eq!(
        causes,
        [
            "APIC_WRITE 0x300 ICR",
            "EPT_VIOLATION ram not mapped, write",
            "EXTERNAL_INTERRUPT host tick",
            "MMIO 0xfec00000 IOAPIC IOREGSEL",
            "OUT 0x3f8 serial",
            "VMCALL 10 SEND_IPI",
        ]
    );
    assert_eq!(counts.host_tick, 1);
}
