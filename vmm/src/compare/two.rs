//! Two comparisons side by side: two hosts, two commits.
//!
//! Each arm that both have is compared with itself: both files' runs become two arms of one report,
//! so that figures, intervals and tests are those of any comparison. Pure; called by
//! `coopvirt report`.

use std::fmt::Write;

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

use super::model::{ArmNote, Report, Run};
use super::stats::Ratio;
use super::summary::{self, Figures, Group};
use super::text::{number, probability, time};
use super::waterfall::Waterfall;

const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));
const HEADINGS: [&str; 11] = [
    "",
    "n",
    "exits A",
    "exits B",
    "B / A",
    "p",
    "latency A",
    "latency B",
    "CPU A",
    "CPU B",
    "",
];
/// What the two arms of a joined report are called.
const NAMES: [&str; 2] = ["A", "B"];
/// From here on a difference is called one.
const MAX_P: f64 = 0.05;
const NR_STEPS: usize = 4;

/// The whole text; `names` are the files'.
pub fn render(a: &Report, b: &Report, names: [&str; 2]) -> String {
    let mut text = String::new();
    for (name, (file, report)) in NAMES.iter().zip(names.iter().zip([a, b])) {
        let revision = report.program.revision.as_deref();
        let _ = writeln!(
            text,
            "{name}: {file}: coopvirt {} ({}), {}, host kernel {}, {} CPUs, {}",
            report.program.version,
            revision.unwrap_or("unknown revision"),
            report.host.backend,
            report.host.kernel,
            report.host.cpus,
            report.host.cpu,
        );
    }
    for line in differences(a, b) {
        let _ = writeln!(text, "not the same: {line}");
    }
    let arms = a.arms.iter().map(|arm| arm.name.as_str());
    let (both, alone): (Vec<&str>, Vec<&str>) =
        arms.partition(|arm| b.arms.iter().any(|other| other.name == *arm));
    if both.is_empty() {
        let _ = writeln!(text, "the two files have no arm in common");
        return text;
    }
    let joined: Vec<(&str, Vec<Group>)> = both
        .iter()
        .map(|arm| (*arm, summary::groups(&join(a, b, arm))))
        .collect();
    text += "Exits are net medians per operation; B / A [95 % bootstrap interval, from 4 runs on]; p of \
             a two-sided\nMann-Whitney test; a difference is named where p is at most 0.05.\n";
    let _ = writeln!(text, "\n{}", table(&joined));
    let mut lines = Vec::new();
    for (arm, groups) in &joined {
        for group in groups {
            let waterfall = Waterfall::between(group, NAMES[0], NAMES[1]);
            lines
                .extend(waterfall.map(|w| format!("{}, {arm}: {}", group.title, w.line(NR_STEPS))));
        }
    }
    if !lines.is_empty() {
        let _ = writeln!(text, "\nwhere the exits went (means per operation, gross):");
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
    }
    let only_b = b.arms.iter().map(|arm| arm.name.as_str());
    let only_b: Vec<&str> = only_b.filter(|arm| !both.contains(arm)).collect();
    for (name, arms) in NAMES.iter().zip([alone, only_b]) {
        if !arms.is_empty() {
            let _ = writeln!(text, "\nonly in {name}: {}", arms.join(", "));
        }
    }
    text
}

/// What differs between the two that could explain a difference, or forbid to compare times.
fn differences(a: &Report, b: &Report) -> Vec<String> {
    let (p, q) = (&a.params, &b.params);
    let guest_kernel = |report: &Report| {
        let platforms = report.runs.iter().filter_map(|run| run.platform.as_ref());
        let kernel = platforms.map(|platform| platform.kernel.clone()).next();
        kernel.unwrap_or_else(|| "unknown".into())
    };
    let pairs = [
        ("backend", a.host.backend.clone(), b.host.backend.clone()),
        ("host kernel", a.host.kernel.clone(), b.host.kernel.clone()),
        ("host CPU", a.host.cpu.clone(), b.host.cpu.clone()),
        ("guest kernel", guest_kernel(a), guest_kernel(b)),
        (
            "guest kernel image",
            p.kernel_id.clone(),
            q.kernel_id.clone(),
        ),
        ("vCPUs", p.cpus.to_string(), q.cpus.to_string()),
        (
            "memory",
            format!("{} MiB", p.memory_bytes >> 20),
            format!("{} MiB", q.memory_bytes >> 20),
        ),
        ("scale", p.scale.to_string(), q.scale.to_string()),
        ("console", p.console.name().into(), q.console.name().into()),
        ("detail", p.detail.name().into(), q.detail.name().into()),
        ("pinning", p.pinning.clone(), q.pinning.clone()),
    ];
    let differ = pairs.into_iter().filter(|(_, left, right)| left != right);
    differ
        .map(|(what, left, right)| format!("{what}: {left} / {right}"))
        .collect()
}

/// One report with the runs of one arm of both.
fn join(a: &Report, b: &Report, arm: &str) -> Report {
    let mut joined = Report {
        arms: NAMES
            .map(|name| ArmNote {
                name: name.into(),
                description: arm.into(),
                is_stock: false,
                gap: None,
            })
            .into(),
        runs: Vec::new(),
        ..a.clone()
    };
    joined.params.reference = NAMES[0].into();
    let works = b.params.works.iter();
    let more: Vec<String> = works
        .filter(|w| !a.params.works.contains(w))
        .cloned()
        .collect();
    joined.params.works.extend(more);
    for (name, report) in NAMES.iter().zip([a, b]) {
        let of_arm = report.counted_runs().filter(|run| run.arm == arm);
        joined.runs.extend(of_arm.map(|run| Run {
            arm: (*name).into(),
            ..run.clone()
        }));
    }
    joined
}

fn table(joined: &[(&str, Vec<Group>)]) -> String {
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(HEADINGS);
    let mut titles: Vec<&str> = Vec::new();
    for group in joined.iter().flat_map(|(_, groups)| groups) {
        if !titles.contains(&group.title.as_str()) {
            titles.push(&group.title);
        }
    }
    for title in titles {
        table.add_row([title]);
        for (arm, groups) in joined {
            let Some(group) = groups.iter().find(|group| group.title == title) else {
                continue;
            };
            table.add_row(row(arm, group));
        }
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        if (1..HEADINGS.len() - 1).contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

fn row(arm: &str, group: &Group) -> Vec<String> {
    let of = |name: &str| {
        let row = group.rows.iter().find(|row| row.arm == name);
        row.and_then(|row| row.figures.as_ref().ok())
    };
    let (a, b) = (of(NAMES[0]), of(NAMES[1]));
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let both = |text: fn(&Figures) -> Option<String>| [a, b].map(|f| or_dash(f.and_then(text)));
    let [n_a, n_b] = both(|figures| Some(figures.n.to_string()));
    let [exits_a, exits_b] =
        both(|figures| Some(number(figures.net.unwrap_or(figures.gross).median)));
    let [latency_a, latency_b] = both(|figures| figures.latency_median_ns.map(time));
    let [cpu_a, cpu_b] = both(|figures| figures.cpu_ns.map(|cpu| time(cpu.median)));
    let p = b.and_then(|figures| figures.p);
    let ratio = b.and_then(|figures| figures.ratio);
    vec![
        format!("  {arm}"),
        format!("{n_a}, {n_b}"),
        exits_a,
        exits_b,
        or_dash(ratio.map(ratio_text)),
        or_dash(p.map(probability)),
        latency_a,
        latency_b,
        cpu_a,
        cpu_b,
        verdict(p, ratio).into(),
    ]
}

fn ratio_text(ratio: Ratio) -> String {
    let interval = ratio.interval.map(|(low, high)| {
        let (low, high) = (number(low), number(high));
        format!(" [{low} - {high}]")
    });
    number(ratio.value) + &interval.unwrap_or_default()
}

/// Nothing is called a difference that the runs could show by chance.
fn verdict(p: Option<f64>, ratio: Option<Ratio>) -> &'static str {
    match (p, ratio) {
        (None, _) | (_, None) => "too few runs to tell",
        (Some(p), _) if p > MAX_P => "no difference shown",
        (_, Some(ratio)) if ratio.value < 1.0 => "B has fewer",
        (_, Some(ratio)) if ratio.value > 1.0 => "B has more",
        _ => "no difference shown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::summary::tests::run;
    use crate::compare::waterfall::tests::moved;

    #[test]
    fn each_arm_is_compared_with_itself() {
        let a = moved();
        let mut b = moved();
        b.host.kernel = "6.18".into();
        for run in &mut b.runs {
            for sample in run.samples.iter_mut().filter(|_| run.arm == "kvm") {
                sample.counts.total = 25;
                sample.counts.by_cause = [("HLT".to_string(), 25)].into();
            }
        }
        b.arms.push(ArmNote {
            name: "coop".into(),
            description: String::new(),
            is_stock: false,
            gap: None,
        });
        let text = render(&a, &b, ["a.json", "b.json"]);
        for part in [
            "A: a.json: coopvirt 0.1.0",
            "not the same: host kernel: 6.12 / 6.18",
            "B has fewer",
            "no difference shown",
            "pipe, kvm: A 5.50 -> B 2.50: -2.00 OUT 0x20, -1.00 HLT",
            "only in B: coop",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn few_runs_decide_nothing() {
        let mut a = moved();
        a.runs = vec![run(0, "kvm", 100)];
        let mut b = a.clone();
        b.runs = vec![run(0, "kvm", 10)];
        assert!(render(&a, &b, ["a", "b"]).contains("too few runs to tell"));
        b.arms.clear();
        assert!(render(&a, &b, ["a", "b"]).ends_with("no arm in common\n"));
    }
}
