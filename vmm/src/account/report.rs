//! The exit report of one run: as JSON for other programs and as tables for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comfy_table::{presets, CellAlignment, Table};
use serde::{Deserialize, Serialize};

use super::backend::Backend;
use super::durations::Durations;
use super::identity::{self, Identity};
use super::model::{Counts, Phase, Trace};
use super::names::NameTable;
use super::stats_fd::Snapshot;
use crate::coop::counters::CoopCounts;
use crate::virtio::DeviceCounts;

/// Causes that a table shows; the JSON has all.
const MAX_CAUSE_ROWS: usize = 20;

/// Everything that is known of one run's exits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitReport {
    /// What ran the guest.
    pub backend: Backend,
    /// The host's kernel release.
    pub kernel: String,
    /// The VMM's mode: "hvm", "kvm", "coop".
    pub mode: String,
    /// Number of vCPUs.
    pub vcpus: usize,
    /// Why there is no trace, if so: `whole` and `phases` are empty then.
    pub not_traced: Option<String>,
    /// From start to end.
    pub whole: Option<Counts>,
    /// Between the guest's marks.
    pub phases: Vec<Phase>,
    /// Events that the kernel dropped.
    pub lost: u64,
    /// Marks that gave no phase.
    pub dropped_marks: u64,
    /// Why the host's own tick could not be told, if so.
    pub host_tick_unknown: Option<String>,
    /// KVM's binary statistics, one per vCPU.
    pub vcpu_stats: Vec<Snapshot>,
    /// Returns of `KVM_RUN` as the VMM counted them, by kind: "io out 0x3f8 serial".
    pub userspace_exits: BTreeMap<String, u64>,
    /// KVM's statistics and the VMM's own count at each of the guest's marks, in their order: read
    /// before the vCPU that made the mark ran on. There also without tracepoints.
    #[serde(default)]
    pub marks: Vec<MarkCounters>,
    /// Whether the counts agree.
    pub identity: Identity,
    /// What the host half of the cooperative interface has done, in that mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coop: Option<CoopCounts>,
    /// What each virtio device has done, by name: notifies taken and spared, interrupts, queues that
    /// changed hands.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<String, DeviceCounts>,
    /// What lies where in the machine, for a tracer in another process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<NameTable>,
}

/// Counters at one mark, summed over vCPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkCounters {
    /// The mark's value (`[MARK-3]`).
    pub mark: u32,
    /// The vCPU that made it.
    pub vcpu: u8,
    /// KVM's statistics.
    pub stats: Snapshot,
    /// Returns of `KVM_RUN`, the mark's own included.
    pub returns: u64,
}

/// What the VMM itself knows of a run.
#[derive(Clone, Debug)]
pub struct RunFacts {
    /// What ran the guest.
    pub backend: Backend,
    /// The host's kernel release.
    pub kernel: String,
    /// The VMM's mode.
    pub mode: String,
    /// KVM's binary statistics at the end, one per vCPU, or why there are none.
    pub vcpu_stats: Result<Vec<Snapshot>, String>,
    /// Returns of `KVM_RUN` by kind.
    pub userspace_exits: BTreeMap<String, u64>,
}

impl ExitReport {
    /// Puts together what the VMM knows and what was traced (or why nothing was).
    pub fn new(facts: RunFacts, trace: Result<Trace, String>) -> ExitReport {
        let vcpu_stats = facts.vcpu_stats.as_ref().map_err(String::clone);
        let inputs = identity::Inputs {
            stats_fd_exits: vcpu_stats.and_then(|vcpus| sum_exits(vcpus)),
            vmm_run_returns: Ok(facts.userspace_exits.values().sum()),
            ..identity::Inputs::from_trace(trace.as_ref().map_err(String::as_str))
        };
        let vcpu_stats = facts.vcpu_stats.unwrap_or_default();
        let not_traced = trace.as_ref().err().cloned();
        let whole = trace.as_ref().ok().map(|trace| trace.whole.clone());
        let trace = trace.unwrap_or_default();
        ExitReport {
            backend: facts.backend,
            kernel: facts.kernel,
            mode: facts.mode,
            vcpus: vcpu_stats.len(),
            not_traced,
            whole,
            phases: trace.phases,
            lost: trace.lost,
            dropped_marks: trace.dropped_marks,
            host_tick_unknown: trace.host_tick_unknown,
            vcpu_stats,
            userspace_exits: facts.userspace_exits,
            marks: Vec::new(),
            identity: identity::check(&inputs),
            coop: None,
            devices: BTreeMap::new(),
            names: None,
        }
    }

    /// The report for a terminal.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "exits: {} mode, {} vcpus, {}, linux {}",
            self.mode, self.vcpus, self.backend.name, self.kernel
        );
        if !self.backend.hardware_assisted {
            let _ = writeln!(
                text,
                "warning: these are not the exits of hardware virtualization"
            );
        }
        match (&self.whole, &self.not_traced) {
            (Some(whole), _) => {
                text.push_str(&counts_text(whole));
                if let Some(reason) = &self.host_tick_unknown {
                    let _ = writeln!(text, "the host's own tick is unknown: {reason}");
                }
            }
            (None, reason) => {
                let reason = reason.as_deref().unwrap_or("no reason given");
                let _ = writeln!(text, "not traced: {reason}");
            }
        }
        if !self.userspace_exits.is_empty() {
            let _ = writeln!(
                text,
                "{}",
                top_table("userspace exit", &self.userspace_exits, None)
            );
        }
        if !self.devices.is_empty() {
            let _ = writeln!(text, "{}", device_table(&self.devices));
        }
        for line in self.identity.lines() {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

fn sum_exits(vcpus: &[Snapshot]) -> Result<u64, String> {
    let exits = vcpus.iter().map(Snapshot::exits);
    exits
        .sum::<Option<u64>>()
        .ok_or_else(|| "the kernel does not count exits".to_string())
}

/// Tables of exits by reason and by cause, with the totals.
pub fn counts_text(counts: &Counts) -> String {
    let net = counts
        .net_if_known()
        .map_or("unknown".into(), |net| net.to_string());
    let mut text = format!(
        "{}\n{}\n",
        top_table("reason", &counts.by_reason, Some(counts.total)),
        top_table("cause", &counts.by_cause, Some(counts.total)),
    );
    // Writing to a String cannot fail.
    if !counts.by_place.is_empty() {
        let places = top_table("guest's instruction", &counts.by_place, Some(counts.total));
        let _ = writeln!(text, "{places}");
    }
    for (reason, durations) in &counts.durations {
        let _ = writeln!(text, "{reason} {}", durations_text(durations));
    }
    let _ = writeln!(
        text,
        "gross {}, net of the host's own tick {net}, returns to userspace {}",
        counts.total, counts.userspace,
    );
    if let Some(percent) = counts.explained_percent() {
        let _ = writeln!(text, "{percent:.1} % have a cause beyond the reason");
    }
    text
}

/// "took 12345 ns in all; half less than 2048 ns, 99 % less than 65536 ns".
fn durations_text(durations: &Durations) -> String {
    let below = |share| {
        let bucket = durations.quantile_ns(share);
        bucket.map_or("-".into(), |ns| format!("{} ns", ns * 2))
    };
    format!(
        "took {} ns in all; half less than {}, 99 % less than {}",
        durations.sum_ns,
        below(0.5),
        below(0.99)
    )
}

/// What devices have done for their guest, and what they spared it.
fn device_table(devices: &BTreeMap<String, DeviceCounts>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "device",
        "requests",
        "notifies",
        "served by vCPU",
        "left by it",
        "found by polling",
        "interrupts",
        "not wanted",
        "taken over",
        "given back",
    ]);
    for (name, counts) in devices {
        let figures = [
            counts.requests,
            counts.notifies,
            counts.notifies_served_by_vcpu,
            counts.notifies_left_by_vcpu,
            counts.polled_finds,
            counts.interrupts,
            counts.interrupts_suppressed,
            counts.take_overs,
            counts.hand_backs,
        ];
        let figures = figures.iter().map(ToString::to_string);
        table.add_row(std::iter::once(name.clone()).chain(figures));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The largest entries of a map, largest first, the rest in one row.
fn top_table(heading: &str, counts: &BTreeMap<String, u64>, total: Option<u64>) -> Table {
    let mut rows: Vec<(&str, u64)> = counts
        .iter()
        .map(|(name, count)| (name.as_str(), *count))
        .collect();
    rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let rest: u64 = rows
        .iter()
        .skip(MAX_CAUSE_ROWS)
        .map(|(_, count)| count)
        .sum();
    let nr_rest = rows.len().saturating_sub(MAX_CAUSE_ROWS);
    rows.truncate(MAX_CAUSE_ROWS);
    let rest_name = format!("({nr_rest} more)");
    if rest > 0 {
        rows.push((&rest_name, rest));
    }

    let all = total.unwrap_or_else(|| counts.values().sum()).max(1);
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([heading, "exits", "share"]);
    for (name, count) in rows {
        let share = format!("{:.1} %", count as f64 * 100.0 / all as f64);
        table.add_row([name.to_string(), count.to_string(), share]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::identity::Verdict;

    fn facts() -> RunFacts {
        let stats = |exits| Snapshot {
            values: [("exits".into(), exits)].into(),
        };
        RunFacts {
            backend: Backend {
                name: "AMD-V".into(),
                hardware_assisted: true,
                emulated: false,
                details: Vec::new(),
            },
            kernel: "6.12".into(),
            mode: "kvm".into(),
            vcpu_stats: Ok(vec![stats(1), stats(2)]),
            userspace_exits: [("io out 0x3f8 serial".into(), 1)].into(),
        }
    }

    fn trace() -> Trace {
        let counts = Counts {
            total: 3,
            host_tick: 1,
            userspace: 1,
            by_reason: [("HLT".into(), 1), ("INTR".into(), 2)].into(),
            by_cause: [("INTR host tick".into(), 1), ("INTR other".into(), 1)].into(),
            ..Counts::default()
        };
        Trace {
            whole: counts,
            ..Trace::default()
        }
    }

    fn report() -> ExitReport {
        let counts = DeviceCounts {
            requests: 4711,
            polled_finds: 4242,
            notifies_served_by_vcpu: 343,
            ..DeviceCounts::default()
        };
        ExitReport {
            devices: [("virtio-blk 0".into(), counts)].into(),
            ..ExitReport::new(facts(), Ok(trace()))
        }
    }

    #[test]
    fn a_report_survives_json() {
        let json = serde_json::to_string(&report()).unwrap();
        assert_eq!(serde_json::from_str::<ExitReport>(&json).unwrap(), report());
    }

    #[test]
    fn the_text_names_backend_reasons_causes_and_identity() {
        let text = report().to_text();
        for part in [
            "kvm mode, 2 vcpus, AMD-V",
            "INTR host tick",
            "66.7 %",
            "gross 3, net of the host's own tick 2, returns to userspace 1",
            "io out 0x3f8 serial",
            "found by polling",
            "4242",
            "served by vCPU",
            "343",
            "identity: tracepoint 3 = stats fd 3 (0.00 %)",
            "identity: tracepoint userspace 1 = vmm's KVM_RUN returns 1 (0.00 %)",
        ] {
            assert!(text.contains(part), "no {part:?} in:\n{text}");
        }
    }

    #[test]
    fn a_run_without_a_trace_says_why() {
        let mut report = ExitReport::new(facts(), Err("no root".into()));
        assert_eq!(
            (&report.whole, report.identity.verdict),
            (&None, Verdict::NotChecked)
        );
        report.backend.hardware_assisted = false;
        let text = report.to_text();
        assert!(text.contains("not traced: no root"));
        assert!(text.contains("not checked: no root"));
        assert!(text.contains("warning: these are not"));
    }

    #[test]
    fn a_long_table_ends_with_the_rest() {
        let counts = (0..30).map(|i| (format!("cause {i}"), 1)).collect();
        let table = top_table("cause", &counts, None).to_string();
        assert!(table.contains("(10 more)"));
    }
}
