//! From raw samples to the rows of the tables: one group per work, one row per arm.
//!
//! Pure; called by [`super::table`] and [`super::html`], so that both show the same figures.

use std::collections::BTreeMap;

use coopvirt_spec::work::Work;
use serde::{Serialize, Serializer};

use super::args::Refill;
use super::attribution::Attribution;
use super::claims::{self, Difference};
use super::model::{Report, Run, Sample};
use super::setting::{Backing, Setting};
use super::stats::{self, Ratio, Spread};
use crate::account::model::Counts;

/// The tracer reads CPU time some 100 times a second: of a shorter work it says too little.
const MIN_FOR_CPU_NS: u64 = 200_000_000;

/// All rows of one work.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// "pipe", or "boot (serial)".
    pub title: String,
    /// What one operation is.
    pub operation: &'static str,
    /// Which work it is.
    #[serde(skip)]
    pub work: Work,
    /// The stock arm with the fewest exits (net).
    pub best_stock: Option<String>,
    /// One row per arm that was to do this work.
    pub rows: Vec<Row>,
}

/// One arm doing one work.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Name of the arm.
    pub arm: String,
    /// The figures, or why there are none.
    #[serde(flatten, serialize_with = "figures_or_problem")]
    pub figures: Result<Figures, String>,
}

/// Per operation, over all samples of a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Number of samples.
    pub n: usize,
    /// All exits.
    pub gross: Spread,
    /// Exits less those of the host's own tick, where that can be told.
    pub net: Option<Spread>,
    /// Against the reference arm; of net exits if both sides have them, else of gross ones.
    pub ratio: Option<Ratio>,
    /// 95 % bootstrap interval of the median of net exits (of gross ones where net is not known),
    /// from four runs on.
    pub median_interval: Option<(f64, f64)>,
    /// Of the permutation test against the reference arm, where so many runs can say something.
    pub p: Option<f64>,
    /// The same at length, and what may be claimed.
    pub difference: Option<Difference>,
    /// Against the best stock arm of the row; `None` for that arm itself.
    pub versus: Option<Versus>,
    /// Mean exits by reason, most first.
    pub reasons: Vec<(String, f64)>,
    /// Mean exits by cause, most first.
    pub causes: Vec<(String, f64)>,
    /// Returns to userspace.
    pub userspace: Spread,
    /// Median over runs of the median latency; for a boot the time it took.
    pub latency_median_ns: Option<f64>,
    /// Median over runs of the 99th percentile.
    pub latency_p99_ns: Option<f64>,
    /// CPU time of the whole VMM, where the work took long enough to tell.
    pub cpu_ns: Option<Spread>,
    /// Median over runs of the same, of all operations together.
    pub cpu_all_ns: Option<f64>,
    /// What is known of the exits beyond their number.
    pub attribution: Attribution,
}

/// An arm against the best stock arm of the row, which is the one with the fewest exits (net).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Versus {
    /// The best stock arm.
    pub arm: String,
    /// Exits; `None` where the best stock arm has none.
    pub exits: Option<Ratio>,
    /// Median latency, of works that have one.
    pub latency: Option<Ratio>,
    /// CPU time per operation, where it is known of both.
    pub cpu: Option<Ratio>,
}

/// Members of the figures, or one member `problem`.
fn figures_or_problem<S: Serializer>(
    figures: &Result<Figures, String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match figures {
        Ok(figures) => figures.serialize(serializer),
        Err(problem) => BTreeMap::from([("problem", problem)]).serialize(serializer),
    }
}

/// Builds all groups that have a row.
pub fn groups(report: &Report) -> Vec<Group> {
    let runs: Vec<&Run> = report.counted_runs().collect();
    let mut groups = Vec::new();
    for work in Work::every() {
        if !report.params.works.iter().any(|name| name == work.name()) {
            continue;
        }
        for setting in settings(report, work) {
            let title = match work {
                Work::Boot => format!("boot ({})", setting.name()),
                Work::Refill if setting.backing == Backing::Returned => {
                    "refill (of memory that the host had taken back)".into()
                }
                _ => work.name().to_string(),
            };
            let (rows, best_stock) = rows(report, &runs, work, setting);
            groups.push(Group {
                title,
                operation: work.operation(),
                work,
                best_stock,
                rows,
            });
        }
    }
    groups.retain(|group| !group.rows.is_empty());
    claims::settle(&mut groups);
    groups
}

/// Only boots are measured in several settings.
fn settings(report: &Report, work: Work) -> Vec<Setting> {
    let console = report.params.console;
    match (work, report.params.refill) {
        (Work::Refill, Refill::Returned) => vec![Setting::returned(console)],
        (Work::Boot, _) => [Setting::quiet(console)]
            .into_iter()
            .chain(Setting::BOOT_ONLY)
            .collect(),
        _ => vec![Setting::quiet(console)],
    }
}

/// The rows of a work in a setting, and the best stock arm among them.
fn rows(
    report: &Report,
    runs: &[&Run],
    work: Work,
    setting: Setting,
) -> (Vec<Row>, Option<String>) {
    let of_arm = |arm: &str| -> (Vec<&Sample>, Vec<&Run>) {
        let runs: Vec<&Run> = runs
            .iter()
            .filter(|run| run.arm == arm && run.setting == setting)
            .copied()
            .collect();
        let samples = runs
            .iter()
            .flat_map(|run| {
                run.samples
                    .iter()
                    .filter(|sample| sample.work == work.name())
            })
            .filter(|sample| sample.ops > 0);
        (samples.collect(), runs)
    };
    let reference = of_arm(&report.params.reference).0;
    let stock = report.arms.iter().filter(|arm| arm.is_stock);
    let best = stock
        .filter_map(|arm| {
            let samples = of_arm(&arm.name).0;
            let median = stats::median(&net_per_op(&samples)?)?;
            Some((median, &arm.name, samples))
        })
        .min_by(|a, b| a.0.total_cmp(&b.0));
    let mut rows = Vec::new();
    for arm in &report.arms {
        let (samples, runs) = of_arm(&arm.name);
        if runs.is_empty() {
            // Nobody misses the boots with a log of an arm that has none of these.
            let gap = arm
                .gap
                .as_ref()
                .filter(|_| !Setting::BOOT_ONLY.contains(&setting));
            rows.extend(gap.map(|gap| Row {
                arm: arm.name.clone(),
                figures: Err(format!("gap: {gap}")),
            }));
            continue;
        }
        let is_reference = arm.name == report.params.reference;
        let compared_with: &[&Sample] = if is_reference { &[] } else { &reference };
        let seed = report.params.seed;
        let figures = figures(&samples, compared_with, seed).map(|figures| Figures {
            versus: best
                .as_ref()
                .filter(|(_, name, _)| **name != arm.name)
                .map(|(_, name, stock)| versus(&samples, name, stock, seed)),
            ..figures
        });
        let figures = figures.ok_or_else(|| why_none(&runs, work));
        rows.push(Row {
            arm: arm.name.clone(),
            figures,
        });
    }
    (rows, best.map(|(_, name, _)| name.clone()))
}

fn versus(samples: &[&Sample], arm: &str, stock: &[&Sample], seed: u64) -> Versus {
    let ratio = |values: fn(&[&Sample]) -> Option<Vec<f64>>| {
        stats::ratio(&values(samples)?, &values(stock)?, seed)
    };
    Versus {
        arm: arm.into(),
        exits: ratio(net_per_op),
        latency: ratio(|samples| Some(latency_medians(samples))),
        cpu: ratio(cpu_ns_per_op),
    }
}

fn why_none(runs: &[&Run], work: Work) -> String {
    let skipped = runs
        .iter()
        .flat_map(|run| &run.skipped)
        .find(|s| s.work == work.name());
    if let Some(skipped) = skipped {
        return format!("skipped: {}", skipped.reason);
    }
    match runs.iter().rev().find_map(|run| run.failure.as_ref()) {
        Some(failure) => format!("failed: {}", failure.reason),
        None => "no sample".into(),
    }
}

fn figures(samples: &[&Sample], reference: &[&Sample], seed: u64) -> Option<Figures> {
    let of = |value: fn(&Sample) -> f64| per_op(samples, value);
    let gross = of(|sample| sample.counts.total as f64);
    let (net, reference_net) = (net_per_op(samples), net_per_op(reference));
    let (ours, theirs) = match (&net, &reference_net) {
        (Some(ours), Some(theirs)) => (ours.clone(), theirs.clone()),
        _ => (
            gross.clone(),
            per_op(reference, |sample| sample.counts.total as f64),
        ),
    };
    let p99: Vec<f64> = samples
        .iter()
        .filter_map(|sample| sample.latency_ns.as_ref().map(|latency| latency.p99 as f64))
        .collect();
    let difference = Difference::of(&ours, &theirs, seed);
    Some(Figures {
        n: samples.len(),
        gross: Spread::of(&gross)?,
        net: net.as_deref().and_then(Spread::of),
        ratio: stats::ratio(&ours, &theirs, seed),
        median_interval: stats::median_interval(&ours, seed),
        p: difference
            .as_ref()
            .filter(|difference| difference.least_p <= claims::RATE)
            .map(|difference| difference.p),
        difference,
        reasons: means(samples, |counts| &counts.by_reason),
        causes: means(samples, |counts| &counts.by_cause),
        userspace: Spread::of(&of(|sample| sample.counts.userspace as f64))?,
        versus: None,
        latency_median_ns: stats::median(&latency_medians(samples)),
        latency_p99_ns: stats::median(&p99),
        cpu_ns: cpu_ns_per_op(samples).as_deref().and_then(Spread::of),
        cpu_all_ns: cpu_ns_per_op(samples).and_then(|_| {
            let all: Vec<f64> = samples.iter().map(|sample| sample.cpu_ns as f64).collect();
            stats::median(&all)
        }),
        attribution: Attribution::of(samples),
    })
}

/// The median latency of each run; of a boot the time that it took.
fn latency_medians(samples: &[&Sample]) -> Vec<f64> {
    samples
        .iter()
        .filter_map(|sample| match &sample.latency_ns {
            Some(latency) => Some(latency.median as f64),
            // Nobody takes the time of a boot that is not traced.
            None => (sample.work == Work::Boot.name() && sample.elapsed_ns > 0)
                .then_some(sample.elapsed_ns as f64),
        })
        .collect()
}

fn per_op(samples: &[&Sample], value: fn(&Sample) -> f64) -> Vec<f64> {
    samples
        .iter()
        .map(|sample| value(sample) / sample.ops as f64)
        .collect()
}

fn net_per_op(samples: &[&Sample]) -> Option<Vec<f64>> {
    let is_known = samples
        .iter()
        .all(|sample| sample.counts.net_if_known().is_some());
    is_known.then(|| per_op(samples, |sample| sample.counts.net() as f64))
}

fn cpu_ns_per_op(samples: &[&Sample]) -> Option<Vec<f64>> {
    let are_long = samples
        .iter()
        .all(|sample| sample.elapsed_ns >= MIN_FOR_CPU_NS);
    are_long.then(|| per_op(samples, |sample| sample.cpu_ns as f64))
}

fn means(samples: &[&Sample], map: fn(&Counts) -> &BTreeMap<String, u64>) -> Vec<(String, f64)> {
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    for sample in samples {
        for (name, count) in map(&sample.counts) {
            *sums.entry(name).or_default() += *count as f64 / sample.ops as f64;
        }
    }
    let n = samples.len() as f64;
    let mut means: Vec<_> = sums
        .into_iter()
        .map(|(name, sum)| (name.to_string(), sum / n))
        .collect();
    means.sort_by(|a, b| b.1.total_cmp(&a.1));
    means
}

#[cfg(test)]
pub(super) mod tests;
