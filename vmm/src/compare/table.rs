//! The report on the terminal: what was measured where, a table per work, what went wrong.
//!
//! Pure: text out of a [`Report`]; called by [`super::session`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

use coopvirt_spec::work::Work;

use super::args::Refill;
use super::model::{ArmNote, Report, Run};
use super::setting::Setting;
use super::stats::Ratio;
use super::summary::{self, Figures, Group, Row};
use super::text::{number, time};
use super::waterfall::Waterfall;
use super::{aa, claims, degraded, noise};
use crate::account::backend::INSTRUCTION_CLOCK;

/// Words in columns with a line under the heading only.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));
const HEADINGS: [&str; 13] = [
    "",
    "n",
    "exits net",
    "gross",
    "ratio",
    "differs",
    "to best stock",
    "reasons",
    "userspace",
    "latency",
    "p99",
    "CPU",
    "CPU of all",
];
const NR_REASONS: usize = 4;
/// Steps of a waterfall in a line.
const NR_STEPS: usize = 5;
/// Which of [`columns`] is words; all others are figures.
pub(super) const REASONS_COLUMN: usize = 6;

/// The whole report.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    for line in header(report) {
        let _ = writeln!(text, "{line}");
    }
    let groups = summary::groups(report);
    if !groups.is_empty() {
        let _ = writeln!(text, "\n{}", table(&groups));
    }
    let sections = [
        ("exits with a cause beyond the reason", explained(&groups)),
        (
            "where the exits went (means per operation, gross)",
            waterfalls(&groups, &report.params.reference),
        ),
    ];
    let sections = sections.into_iter().filter(|(_, lines)| !lines.is_empty());
    for (title, lines) in sections.chain(footer(report)) {
        let _ = writeln!(text, "\n{title}:");
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

/// Of each work, the share of the exits of each arm that attribution has reached.
fn explained(groups: &[Group]) -> Vec<String> {
    let mut lines = Vec::new();
    for group in groups {
        let shares: Vec<String> = group
            .rows
            .iter()
            .filter_map(|row| {
                let figures = row.figures.as_ref().ok()?;
                let percent = figures.attribution.explained_percent?;
                Some(format!("{} {percent:.1} %", row.arm))
            })
            .collect();
        if !shares.is_empty() {
            lines.push(format!("{}: {}", group.title, shares.join(", ")));
        }
    }
    lines
}

/// A line for each work and arm but the reference.
fn waterfalls(groups: &[Group], reference: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for group in groups {
        for waterfall in Waterfall::all(group, reference) {
            lines.push(format!("{}: {}", group.title, waterfall.line(NR_STEPS)));
        }
    }
    lines
}

/// What was measured, where and how, line by line.
pub fn header(report: &Report) -> Vec<String> {
    let (host, params) = (&report.host, &report.params);
    let revision = report
        .program
        .revision
        .as_deref()
        .unwrap_or("unknown revision");
    let kernels: BTreeSet<_> = report
        .runs
        .iter()
        .filter_map(|run| Some(&run.platform.as_ref()?.kernel))
        .collect();
    let kernels: Vec<_> = kernels.into_iter().map(String::as_str).collect();
    let mut lines = vec![
        format!("coopvirt compare {} ({revision})", report.program.version),
        format!("backend: {}", host.backend),
        format!(
            "host:    kernel {}, {} CPUs, {}",
            host.kernel, host.cpus, host.cpu
        ),
        format!(
            "guest:   kernel {} ({}), {} vCPUs, {} MiB; {}",
            kernels.join(" and "),
            params.kernel,
            params.cpus,
            params.memory_bytes >> 20,
            params.pinning
        ),
    ];
    if let Some(peer) = &host.peer {
        lines.push(format!("peer:    {peer}"));
    }
    lines.push(format!(
        "runs:    n = {} asked for, interleaved in random order, seed {}, scale {}; against {}",
        params.repetitions, params.seed, params.scale, params.reference
    ));
    lines.extend([
        "Figures are medians over runs [least - greatest]; reasons are means. Gross is all exits, \
         net is gross"
            .into(),
        "less the INTR exits of the host's own tick. Ratio [95 % bootstrap interval, from 4 runs \
         on] of net"
            .into(),
        "exits. Differs: two-sided permutation test on ranks; in brackets the false discovery rate \
         over all rows,"
            .into(),
        "which is at most 0.05 where a difference is claimed. The best stock arm of a row is the one \
         with the fewest net"
            .into(),
        "exits. CPU is of the whole VMM (vCPUs with their guest, polling thread, workers), per \
         operation and of all."
            .into(),
    ]);
    if host.backend.ends_with(INSTRUCTION_CLOCK) {
        lines.extend([
            "The host is emulated and its clock counts instructions, 1 ns each: counts are of real \
             exits, times"
                .into(),
            "are of no real machine, but stand in a hardware's proportion to each other, and do not \
             depend on"
                .into(),
            "what else runs here. The CPUs take turns: one that polls takes time from the others."
                .into(),
        ]);
    } else if host.is_emulated {
        lines.extend([
            "The host is emulated: counts are of real exits, times are of the emulator. Code runs \
             some 20 times"
                .into(),
            "slower against the clock than on hardware, so whatever waits for a fixed time \
             (polling before a"
                .into(),
            "halt, on either side) does less in it, and such arms look worse here than they are."
                .into(),
        ]);
    }
    lines
}

fn table(groups: &[Group]) -> String {
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(HEADINGS);
    for (index, group) in groups.iter().enumerate() {
        if index > 0 {
            table.add_row([""]);
        }
        table.add_row([format!("{}, per {}", group.title, group.operation)]);
        for row in &group.rows {
            let mut cells = vec![format!("  {}", row.arm)];
            match &row.figures {
                Ok(figures) => cells.extend(columns(figures, is_best(group, row))),
                Err(why) => {
                    cells.resize(REASONS_COLUMN + 1, "-".into());
                    cells.push(short(why).into());
                }
            }
            table.add_row(cells);
        }
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        if index > 0 && index != REASONS_COLUMN + 1 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Whether this row is the best stock arm of its group.
pub(super) fn is_best(group: &Group, row: &Row) -> bool {
    group.best_stock.as_ref() == Some(&row.arm)
}

/// The columns of a row behind the arm's name.
pub fn columns(figures: &Figures, is_best: bool) -> [String; 12] {
    let range = |low: f64, high: f64| format!(" [{} - {}]", number(low), number(high));
    let with_interval = |ratio: Ratio| {
        let interval = ratio.interval.map(|(low, high)| range(low, high));
        number(ratio.value) + &interval.unwrap_or_default()
    };
    let ratio = figures.ratio.map(with_interval);
    let to_best = match (&figures.versus, is_best) {
        (_, true) => Some("best".into()),
        (versus, false) => versus.as_ref().and_then(|v| v.exits).map(with_interval),
    };
    let net = figures.net.map(|net| match figures.n {
        1 => number(net.median),
        _ => number(net.median) + &range(net.min, net.max),
    });
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    [
        figures.n.to_string(),
        net.unwrap_or_else(|| "unknown".into()),
        number(figures.gross.median),
        or_dash(ratio),
        or_dash(
            figures
                .difference
                .as_ref()
                .map(|difference| difference.text()),
        ),
        or_dash(to_best),
        reasons(figures),
        number(figures.userspace.median),
        or_dash(figures.latency_median_ns.map(time)),
        or_dash(figures.latency_p99_ns.map(time)),
        or_dash(figures.cpu_ns.map(|cpu| time(cpu.median))),
        or_dash(figures.cpu_all_ns.map(|cpu| number(cpu / 1e6) + " ms")),
    ]
}

fn reasons(figures: &Figures) -> String {
    let top = figures.reasons.iter().take(NR_REASONS);
    top.map(|(name, mean)| format!("{name} {}", number(*mean)))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The reason without what the footer says at length.
fn short(why: &str) -> &str {
    match why.char_indices().nth(70) {
        Some((end, _)) => &why[..end],
        None => why,
    }
}

/// Titled lists: what the guests ran on, whether counts agree, what failed.
pub fn footer(report: &Report) -> Vec<(&'static str, Vec<String>)> {
    let mut lists = vec![
        ("arms", arms(report)),
        ("where threads ran (host CPUs)", places(report)),
        ("what the guests found", platforms(report)),
        ("figures of single works", details(report)),
        (
            "what may be claimed",
            claims::notes(&summary::groups(report)),
        ),
        ("does the same thing differ from itself", aa::lines(report)),
        ("noise", noise::lines(report)),
        ("counts that must agree", identities(report)),
        ("gaps", gaps(report)),
        ("failures", failures(report)),
        ("not run to the end", missing(report)),
    ];
    lists.retain(|(_, lines)| !lines.is_empty());
    lists
}

fn arms(report: &Report) -> Vec<String> {
    report
        .arms
        .iter()
        .map(|arm| format!("{}: {}", arm.name, arm.description))
        .collect()
}

/// Of each arm the CPUs that its threads were bound to; those that share them are named together.
fn places(report: &Report) -> Vec<String> {
    let mut lines = BTreeSet::new();
    for run in report.runs.iter().filter(|run| !run.threads.is_empty()) {
        let mut by_cpus: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for thread in &run.threads {
            by_cpus.entry(&thread.cpus).or_default().push(&thread.name);
        }
        let places = by_cpus
            .into_iter()
            .map(|(cpus, names)| format!("{cpus}: {}", names.join(", ")));
        lines.insert((&run.arm, places.collect::<Vec<_>>().join("; ")));
    }
    let of_arm = |arm: &ArmNote| {
        let of_arm = lines.iter().filter(|(name, _)| *name == &arm.name);
        of_arm
            .map(|(name, places)| format!("{name}: {places}"))
            .collect::<Vec<_>>()
    };
    report.arms.iter().flat_map(of_arm).collect()
}

fn platforms(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for arm in &report.arms {
        let of_arm = report.runs.iter().filter(|run| run.arm == arm.name);
        let said: BTreeSet<String> = of_arm
            .filter_map(|run| run.platform.as_ref())
            .map(|platform| {
                format!(
                    "clocksource {}, clockevent {}, apic {}, idle {}, hypervisor {}{}{}",
                    platform.clocksource,
                    platform.clockevent,
                    platform.apic,
                    platform.idle,
                    platform.hypervisor,
                    match &platform.kvm_features {
                        Some(features) => format!(" (features {features})"),
                        None => String::new(),
                    },
                    match platform.module.as_str() {
                        "" | "none" => String::new(),
                        module => format!(", module {module}"),
                    }
                )
            })
            .collect();
        lines.extend(said.into_iter().map(|said| format!("{}: {said}", arm.name)));
    }
    lines
}

fn identities(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    let why: BTreeSet<&String> = report
        .runs
        .iter()
        .filter_map(|run| run.degraded.as_ref())
        .collect();
    if !why.is_empty() {
        lines.extend(why.into_iter().map(|why| format!("not traced: {why}")));
        lines.push(degraded::LOST.into());
    }
    let checked = report
        .counted_runs()
        .filter(|run| run.identity.is_some())
        .count();
    if checked > 0 {
        let wrong = |run: &&Run| {
            run.identity
                .as_ref()
                .is_some_and(|id| id.failure().is_some())
        };
        let good = checked - report.counted_runs().filter(wrong).count();
        lines.push(format!(
            "tracer, kernel statistics and our own count agree within 1 % in {good} of {checked} \
             runs of our VMM"
        ));
    }
    for run in report.counted_runs() {
        if let Some(failure) = run
            .identity
            .as_ref()
            .and_then(|identity| identity.failure())
        {
            lines.push(format!("{}: {failure}", name(run)));
        }
        if run.lost > 0 {
            lines.push(format!(
                "{}: {} events lost, its figures are too low",
                name(run),
                run.lost
            ));
        }
    }
    lines
}

/// What only one work has, run by run.
fn details(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for run in report.counted_runs() {
        for sample in run
            .samples
            .iter()
            .filter(|sample| !sample.detail.is_empty())
        {
            let figures = sample.detail.iter();
            let figures = figures.map(|(name, value)| format!("{name} {}", number(*value)));
            let figures = figures.collect::<Vec<_>>().join(", ");
            lines.push(format!("{}: {}: {figures}", name(run), sample.work));
        }
    }
    lines
}

/// Arms that could not be run here.
fn gaps(report: &Report) -> Vec<String> {
    let gap = |arm: &ArmNote| Some(format!("{}: {}", arm.name, arm.gap.as_ref()?));
    report.arms.iter().filter_map(gap).collect()
}

fn failures(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for run in &report.runs {
        let Some(failure) = &run.failure else {
            continue;
        };
        lines.push(format!("{}: {}", name(run), failure.reason));
        lines.extend(failure.tail.iter().map(|line| format!("    {line}")));
    }
    lines
}

/// Arms that were given up, or not reached before an interrupt.
fn missing(report: &Report) -> Vec<String> {
    let params = &report.params;
    let main = match params.refill == Refill::Returned && params.works == [Work::Refill.name()] {
        true => Setting::returned(params.console),
        false => Setting::quiet(params.console),
    };
    let mut seen: BTreeMap<(&str, Setting), u32> = report
        .arms
        .iter()
        .filter(|arm| arm.gap.is_none())
        .map(|arm| ((arm.name.as_str(), main), 0))
        .collect();
    for run in report.counted_runs() {
        *seen.entry((&run.arm, run.setting)).or_default() += 1;
    }
    let wanted = report.params.repetitions;
    seen.into_iter()
        .filter(|(_, count)| *count < wanted)
        .map(|((arm, setting), count)| {
            format!(
                "{arm} ({}): {count} of {wanted} repetitions",
                setting.name()
            )
        })
        .collect()
}

fn name(run: &Run) -> String {
    let again = if run.attempt > 1 {
        ", second attempt"
    } else {
        ""
    };
    format!(
        "{} (repetition {}, {}{again})",
        run.arm,
        run.repetition + 1,
        run.setting.name()
    )
}

#[cfg(test)]
mod tests;
