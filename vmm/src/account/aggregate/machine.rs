//! The state machine: one pending exit per vCPU, completed by the events that follow it.
//!
//! An exit is counted as a whole when it is complete, that is when the same vCPU exits again or
//! when a mark cuts the counts: reason, cause and total then always agree. Marks' own exits go to
//! a tally of their own, so that a phase holds no mark, whoever wrote it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use coopvirt_spec::mark::Mark;

use super::cause::Cause;
use super::event::{Event, Exit, Kind};
use super::marks::{Marks, Moment};
use super::samples::Samples;
use super::tally::{Counted, Tally};
use super::vcpu::{Details, Pending, Vcpu};
use crate::account::model::{Counts, Phase, Trace};
use crate::account::names::NameOf;
use crate::account::reason::{Class, Isa};
use crate::account::threads::{self, Times};

/// Threads that may exit; a VMM that makes and ends more starts over (a few details get lost).
const MAX_VCPUS: usize = 4096;
/// The 32-bit hole in a PC's RAM: addresses in it belong to devices.
const MMIO_HOLE: std::ops::Range<u64> = 0xc000_0000..0x1_0000_0000;
/// Intel's interruption information is valid.
const INTR_INFO_VALID: u32 = 1 << 31;
/// AMD page fault error code: reserved bit set, which KVM uses to mark devices' pages.
const NPF_RESERVED: u64 = 1 << 3;

/// Counts of one VM, fed with its events in the order of time.
pub struct Aggregator {
    names: Arc<dyn NameOf>,
    mark_port: u16,
    host_tick_unknown: Option<String>,
    vcpus: HashMap<u32, Vcpu>,
    /// Everything but the marks' own exits.
    tally: Tally,
    /// The marks' own exits.
    mark_tally: Tally,
    marks: Marks,
    /// The first exit.
    start: Option<Moment>,
    cpu_samples: Samples<1>,
    thread_samples: Samples<{ threads::KINDS.len() }>,
    lost: u64,
    untraced_cpus: Vec<usize>,
}

impl Aggregator {
    /// An aggregator of no events; `host_tick_unknown` says why [`Kind::HostTick`] and
    /// [`Kind::GuestTimer`] will not come, if so.
    pub fn new(
        names: Arc<dyn NameOf>,
        mark_port: u16,
        host_tick_unknown: Option<String>,
    ) -> Aggregator {
        Aggregator {
            names,
            mark_port,
            host_tick_unknown,
            vcpus: HashMap::new(),
            tally: Tally::default(),
            mark_tally: Tally::default(),
            marks: Marks::default(),
            start: None,
            cpu_samples: Samples::default(),
            thread_samples: Samples::default(),
            lost: 0,
            untraced_cpus: Vec::new(),
        }
    }

    /// Takes the next event.
    pub fn feed(&mut self, event: &Event) {
        if let Kind::Mark { value, size_bytes } = event.kind {
            self.take_mark(event, value, size_bytes);
            return;
        }
        if self.vcpus.len() >= MAX_VCPUS && !self.vcpus.contains_key(&event.tid) {
            self.complete_all(None);
            self.vcpus.clear();
        }
        if matches!(event.kind, Kind::Exit(_)) && self.start.is_none() {
            self.start = Some(self.moment(event.time_ns));
        }
        let vcpu = self.vcpus.entry(event.tid).or_default();
        match event.kind {
            Kind::Exit(exit) => {
                if let Some(entered_ns) = vcpu.entered_ns.take() {
                    self.tally.guest_ns += event.time_ns.saturating_sub(entered_ns);
                }
                let done = vcpu.exit(exit, event.time_ns, self.mark_port);
                for done in done.into_iter().flatten() {
                    self.count(&done, End::NextExit);
                }
            }
            Kind::Entry => vcpu.enter(event.time_ns),
            Kind::UserspaceExit => {
                let is_marks_own = vcpu.leave_kernel();
                let tally = if is_marks_own {
                    &mut self.mark_tally
                } else {
                    &mut self.tally
                };
                tally.userspace += 1;
            }
            Kind::Msr { is_write, index } => vcpu.detail(
                |reason, known| reason.class() == Class::Msr && known.msr.is_none(),
                |details| details.msr = Some((is_write, index)),
            ),
            Kind::Mmio { gpa } => {
                if let Some(pending) = &mut vcpu.pending {
                    pending.details.gpa.get_or_insert(gpa);
                }
            }
            Kind::Hypercall { nr } => {
                if let Some(pending) = &mut vcpu.pending {
                    pending.details.hypercall.get_or_insert(nr);
                }
            }
            Kind::Cpuid { leaf } => vcpu.later(|details| {
                details.cpuid.get_or_insert(leaf);
            }),
            Kind::Injection { vector } => vcpu.inject(vector),
            Kind::HostVector { vector } => vcpu.interrupt(|details| {
                details.host_vector.get_or_insert(vector);
            }),
            Kind::HostIrq { irq } => vcpu.interrupt(|details| {
                details.host_irq.get_or_insert(irq);
            }),
            Kind::HostTick => vcpu.interrupt(|details| details.has_host_tick = true),
            Kind::Kick => vcpu.interrupt(|details| details.has_kick = true),
            Kind::GuestTimer => vcpu.interrupt(|details| details.has_guest_timer = true),
            Kind::Mark { .. } => {}
        }
    }

    /// Takes a sample of the VMM's CPU time; times must not go back.
    pub fn feed_cpu_time(&mut self, time_ns: u64, cpu_ns: u64) {
        self.cpu_samples.push(time_ns, [cpu_ns]);
    }

    /// Takes a sample of the CPU time of the VMM's threads; times must not go back.
    pub fn feed_thread_times(&mut self, time_ns: u64, times: Times) {
        self.thread_samples.push(time_ns, times);
    }

    /// Takes a number of events that the kernel had to drop.
    pub fn feed_lost(&mut self, events: u64) {
        self.lost = self.lost.saturating_add(events);
    }

    /// Takes the host CPUs that could not be traced all the time.
    pub fn feed_untraced_cpus(&mut self, cpus: Vec<usize>) {
        self.untraced_cpus = cpus;
    }

    /// The phases completed so far.
    pub fn phases(&self) -> Vec<Phase> {
        let is_tick_known = self.host_tick_unknown.is_none();
        let to_phase = |cut: &super::marks::Cut| Phase {
            work: cut.work,
            seq: cut.seq,
            elapsed_ns: cut.elapsed_ns,
            cpu_ns: cut.cpu_ns,
            cpu_by_thread_ns: match self.thread_samples.is_empty() {
                true => BTreeMap::new(),
                false => threads::named(&cut.thread_ns),
            },
            counts: cut.tally.to_counts(&*self.names, is_tick_known),
        };
        self.marks.cuts.iter().map(to_phase).collect()
    }

    /// Everything so far, but for the exits whose details are still coming in: one per vCPU.
    pub fn so_far(&self) -> Counts {
        let whole = self.tally.plus(&self.mark_tally);
        whole.to_counts(&*self.names, self.host_tick_unknown.is_none())
    }

    /// Ends the trace.
    pub fn finish(mut self) -> Trace {
        self.complete_all(None);
        let phases = self.phases();
        let whole = self.tally.plus(&self.mark_tally);
        Trace {
            phases,
            whole: whole.to_counts(&*self.names, self.host_tick_unknown.is_none()),
            lost: self.lost,
            untraced_cpus: self.untraced_cpus,
            host_tick_unknown: self.host_tick_unknown,
            dropped_marks: self.marks.dropped,
            is_untraced: false,
        }
    }

    fn take_mark(&mut self, event: &Event, value: u32, size_bytes: u64) {
        let own = self
            .vcpus
            .get_mut(&event.tid)
            .and_then(|vcpu| vcpu.pending.as_mut());
        if let Some(own) = own {
            own.is_mark |= own.reason.class() == Class::Io;
        }
        let mark = Mark::decode(value).filter(|_| size_bytes == 4);
        let Some(mark) = mark else {
            self.marks.dropped += 1;
            return;
        };
        self.complete_all(Some(event.tid));
        let now = self.moment(event.time_ns);
        let start = self.start.get_or_insert_with(|| now.clone());
        self.marks.take(mark, now, start);
    }

    fn moment(&self, time_ns: u64) -> Moment {
        let [cpu_ns] = self.cpu_samples.at(time_ns);
        Moment {
            time_ns,
            cpu_ns,
            thread_ns: self.thread_samples.at(time_ns),
            tally: self.tally.clone(),
        }
    }

    /// Counts what is pending as it is, except on the thread that writes a mark right now.
    fn complete_all(&mut self, except_tid: Option<u32>) {
        let mut done = Vec::new();
        for (tid, vcpu) in &mut self.vcpus {
            done.extend(vcpu.halt.take().map(|halt| (halt, End::NextExit)));
            if Some(*tid) != except_tid {
                done.extend(vcpu.pending.take().map(|pending| (pending, End::Mark)));
            }
        }
        for (pending, end) in &done {
            self.count(pending, *end);
        }
    }

    fn count(&mut self, pending: &Pending, end: End) {
        let counted = Counted {
            reason: pending.reason,
            cause: self.cause_of(pending, end),
            rip: pending.exit.rip,
            duration_ns: pending.duration_ns,
        };
        let tally = if pending.is_mark {
            &mut self.mark_tally
        } else {
            &mut self.tally
        };
        tally.add(counted);
    }

    fn cause_of(&self, pending: &Pending, end: End) -> Cause {
        let Pending {
            exit,
            reason,
            details,
            ..
        } = pending;
        match reason.class() {
            Class::Plain => Cause::Plain,
            Class::Interrupt if self.host_tick_unknown.is_some() => Cause::InterruptUnknown,
            Class::Interrupt if details.has_guest_timer => Cause::GuestTimer,
            Class::Interrupt if details.has_host_tick => Cause::HostTick,
            Class::Interrupt if details.has_kick => Cause::Kick {
                injected: details.injected,
            },
            Class::Interrupt => host_interrupt(exit, details),
            Class::Halt => match (details.injected, pending.has_left_kernel, end) {
                (Some(vector), _, _) => Cause::Injected { vector },
                (None, true, _) => Cause::LeftKernel,
                (None, false, End::Mark) => Cause::Asleep,
                (None, false, End::NextExit) => Cause::Other,
            },
            Class::Window => details
                .injected
                .map_or(Cause::Other, |vector| Cause::Injected { vector }),
            Class::Cpuid => details
                .cpuid
                .map_or(Cause::Other, |leaf| Cause::Cpuid { leaf }),
            Class::Msr => match details.msr {
                Some((is_write, index)) => Cause::Msr { is_write, index },
                None => Cause::MsrUntraced {
                    is_write: reason.msr_is_write(exit.info1),
                },
            },
            Class::Io => {
                let (port, is_in) = reason.io_access(exit.info1);
                Cause::Io { is_in, port }
            }
            Class::NestedFault => match self.device_address(pending) {
                Some(gpa) => Cause::Mmio { gpa },
                None => Cause::Ram(reason.ram_fault(exit.info1)),
            },
            Class::Mmio => details.gpa.map_or(Cause::Other, |gpa| Cause::Mmio { gpa }),
            Class::ApicOffset => {
                let [low, high, ..] = exit.info1.to_le_bytes();
                Cause::Apic {
                    offset: u16::from_le_bytes([low, high]) & 0xfff,
                }
            }
            Class::Hypercall => details
                .hypercall
                .map_or(Cause::Other, |nr| Cause::Hypercall { nr }),
        }
    }

    /// The address, if a nested fault was an access to a device and not to RAM.
    ///
    /// Where a peer keeps its RAM is not known. A device it is if KVM emulated an access, if the
    /// page is one that KVM has marked as a device's, or if the address says so.
    fn device_address(&self, pending: &Pending) -> Option<u64> {
        if let Some(gpa) = pending.details.gpa {
            return Some(gpa);
        }
        if pending.reason.isa != Isa::Svm {
            return None;
        }
        let gpa = pending.exit.info2;
        let is_marked = pending.exit.info1 & NPF_RESERVED != 0;
        let is_device = is_marked || MMIO_HOLE.contains(&gpa) || self.names.mmio(gpa).is_some();
        is_device.then_some(gpa)
    }
}

/// What completed an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The next exit of the same vCPU.
    NextExit,
    /// A mark, or the end of the trace.
    Mark,
}

/// An interrupt that is neither tick nor timer nor kick: the device's number says more than the
/// vector, and what the host handled more than what Intel's exit says.
fn host_interrupt(exit: &Exit, details: &Details) -> Cause {
    let from_exit = || {
        let [vector, ..] = exit.intr_info.to_le_bytes();
        (exit.intr_info & INTR_INFO_VALID != 0).then_some(vector)
    };
    match (details.host_irq, details.host_vector.or_else(from_exit)) {
        (Some(irq), _) => Cause::HostIrq { irq },
        (None, Some(vector)) => Cause::HostVector { vector },
        (None, None) => Cause::Other,
    }
}
