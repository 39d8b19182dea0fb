//! Exit accounting of a machine of our own: tracer, KVM's statistics and our own count together.
//!
//! `coopvirt run --exits` and `coopvirt validate` use it. The order matters: the tracer starts
//! before the machine is built and ends after its vCPUs have stopped, so that all three count the
//! same exits.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::account::backend::Backend;
use crate::account::model::Trace;
use crate::account::names::{LateNames, NameOf, NameTable};
use crate::account::report::{ExitReport, RunFacts};
use crate::account::stats_fd::StatsFd;
use crate::account::tracer::{TraceWatch, Tracer, TracerOptions};
use crate::descriptors;
use crate::machine::Gauges;
use crate::mark_log::sum_returns;
use crate::vcpu::tally::Kind;

/// A running account.
pub struct Accounting {
    tracer: Result<Tracer, String>,
    names: Arc<LateNames>,
}

impl Accounting {
    /// Starts counting this process's exits. Without permission to trace it goes on without, and
    /// the report says why.
    pub fn start(with_tracepoints: bool) -> Self {
        let names = Arc::new(LateNames::default());
        let tracer = if with_tracepoints {
            let names: Arc<dyn NameOf> = Arc::clone(&names) as _;
            Tracer::start(TracerOptions {
                names,
                ..Default::default()
            })
            .inspect(|tracer| tracer.target(std::process::id()))
            .map_err(|error| chain(&error))
        } else {
            Err("--accounting stats asks for none".into())
        };
        Self { tracer, names }
    }

    /// Tells the account what lies where in the machine.
    pub fn name_devices(&self, gauges: &Gauges) {
        // A second call finds it set; the first machine's names stay.
        self.names.set(name_table(gauges));
    }

    /// The counts so far, if tracepoints are read.
    pub fn watch(&self) -> Option<TraceWatch> {
        self.tracer.as_ref().ok().map(Tracer::watch)
    }

    /// Ends the account of a machine whose vCPUs are paused, and compares the counts.
    pub fn finish(self, gauges: &Gauges, mode: &str) -> (ExitReport, Option<Trace>) {
        let vcpu_stats = match &gauges.no_stats {
            Some(why) => Err(why.to_string()),
            None => {
                let each = gauges.stats.iter().map(StatsFd::read);
                each.collect::<Result<_, _>>().map_err(|e| chain(&e))
            }
        };
        let trace = self
            .tracer
            .and_then(|tracer| tracer.finish().map_err(|error| chain(&error)));
        let facts = RunFacts {
            backend: Backend::probe(),
            kernel: host_kernel(),
            mode: mode.into(),
            vcpu_stats,
            userspace_exits: named_returns(&sum_returns(&gauges.tallies), &*self.names),
        };
        let mut report = ExitReport::new(facts, trace.clone());
        report.names = self.names.get().cloned();
        (report, trace.ok())
    }
}

/// What lies where in the machine.
pub fn name_table(gauges: &Gauges) -> NameTable {
    let mut table = NameTable::new();
    for (first, last, name) in gauges.buses.ports.ranges() {
        if let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(last)) {
            table.add_ports(first..=last, name);
        }
    }
    for (first, last, name) in gauges.pci.bar_ranges() {
        table.add_mmio(first..=last, name);
    }
    for (first, last, name) in gauges.buses.mmio.ranges() {
        table.add_mmio(first..=last, name);
    }
    table
}

/// An error with its sources in one line, and what to do about a limit.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    if let Some(remedy) = descriptors::remedy(error) {
        text.push_str(&format!(": {remedy}"));
    }
    text
}

/// The running kernel's release.
pub fn host_kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".into(), |text| text.trim().into())
}

/// Returns to userspace with the names of what they were for.
pub fn named_returns(returns: &BTreeMap<Kind, u64>, names: &dyn NameOf) -> BTreeMap<String, u64> {
    let at_port = |verb, port| match names.port(port) {
        Some(name) => format!("{verb} {port:#x} {name}"),
        None => format!("{verb} {port:#x}"),
    };
    let at_gpa = |verb, gpa| match names.mmio(gpa) {
        Some(name) => format!("MMIO {verb} {gpa:#x} {name}"),
        None => format!("MMIO {verb} {gpa:#x}"),
    };
    let name = |kind| match kind {
        Kind::PortOut(port) => at_port("OUT", port),
        Kind::PortIn(port) => at_port("IN", port),
        Kind::MmioWrite(gpa) => at_gpa("write", gpa),
        Kind::MmioRead(gpa) => at_gpa("read", gpa),
        Kind::MsrWrite(index) => format!("WRMSR {index:#x}"),
        Kind::MsrRead(index) => format!("RDMSR {index:#x}"),
        Kind::Shutdown => "shutdown".into(),
        Kind::Interrupted => "signal".into(),
        Kind::NotStarted => "waiting for start-up".into(),
        Kind::Other => "other".into(),
    };
    returns
        .iter()
        .map(|(&kind, &count)| (name(kind), count))
        .collect()
}
