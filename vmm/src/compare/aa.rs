//! The instrument against itself: the reference arm ran twice, under two names, so whatever differs
//! between the two is noise, and the share of works that "differ" must be what chance gives.
//!
//! Each [`BLOCK`] repetitions are one comparison, as small as a user's own may be. Pure; called by
//! [`super::table`] and, for the exit status, by [`super::session`].

use super::arm::TWIN;
use super::model::{Report, Sample};
use super::setting::Setting;
use super::stats;

/// Repetitions of one comparison: the fewest whose p can be below [`ALPHA`].
pub const BLOCK: u32 = 5;
/// The p below which a work counts as different.
pub const ALPHA: f64 = 0.01;
/// An honest instrument stays at or below the limit in so many of all cases.
const CONFIDENCE: f64 = 0.99;

/// What the comparisons of an arm with itself have shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Comparisons of [`BLOCK`] repetitions.
    pub comparisons: usize,
    /// Works of all comparisons together.
    pub tests: usize,
    /// Those with p below [`ALPHA`].
    pub differ: Vec<String>,
    /// How many chance alone gives, in the mean.
    pub expected: f64,
    /// How many are still no sign against the instrument.
    pub limit: usize,
}

impl Outcome {
    /// Whether no more differs than chance allows.
    pub fn is_honest(&self) -> bool {
        self.differ.len() <= self.limit
    }
}

/// Evaluates a report with a twin; `None` without one, or with fewer repetitions than a comparison.
pub fn evaluate(report: &Report) -> Option<Outcome> {
    let one = report.params.reference.as_str();
    let two = twin(report)?;
    let comparisons = report.params.repetitions / BLOCK;
    if comparisons == 0 {
        return None;
    }
    let (mut tests, mut differ) = (0, Vec::new());
    for comparison in 0..comparisons {
        for (work, setting) in works(report) {
            let of = |arm: &str| -> Option<Vec<f64>> {
                let repetitions = comparison * BLOCK..(comparison + 1) * BLOCK;
                repetitions
                    .map(|repetition| {
                        let run = report.run_of(repetition, arm, setting)?;
                        exits(run.samples.iter().find(|sample| sample.work == work)?)
                    })
                    .collect()
            };
            // A comparison with a failed run is none.
            let (Some(a), Some(b)) = (of(one), of(&two)) else {
                continue;
            };
            let seed = report.params.seed;
            let Some(p) = stats::permutation_test(&a, &b, seed) else {
                continue;
            };
            tests += 1;
            if p < ALPHA {
                differ.push(format!("{work} in comparison {}", comparison + 1));
            }
        }
    }
    let n = BLOCK as usize;
    let each = stats::attainable(n, n, ALPHA);
    Some(Outcome {
        comparisons: comparisons as usize,
        tests,
        differ,
        expected: tests as f64 * each,
        limit: stats::binomial_limit(tests, each, CONFIDENCE),
    })
}

/// The same in words, for the report; nothing without a twin.
pub fn lines(report: &Report) -> Vec<String> {
    let Some(twin) = twin(report) else {
        return Vec::new();
    };
    let one = &report.params.reference;
    let Some(outcome) = evaluate(report) else {
        return vec![format!(
            "{one} against {twin}: {} repetitions are too few to say (at least {BLOCK})",
            report.params.repetitions
        )];
    };
    let verdict = match outcome.is_honest() {
        true => "no more than chance allows",
        false => "MORE THAN CHANCE ALLOWS: runs are not independent, or the machine has drifted",
    };
    let mut lines = vec![format!(
        "{one} against {twin}: in {} comparisons of {BLOCK} repetitions {} of {} works differ at p < {ALPHA}; \
         chance alone gives {:.1}, and at most {} in 99 of 100 cases (works counted as independent): {verdict}",
        outcome.comparisons,
        outcome.differ.len(),
        outcome.tests,
        outcome.expected,
        outcome.limit
    )];
    if !outcome.differ.is_empty() {
        lines.push(format!("different: {}", outcome.differ.join(", ")));
    }
    lines
}

fn twin(report: &Report) -> Option<String> {
    let name = format!("{}{TWIN}", report.params.reference);
    report
        .arms
        .iter()
        .any(|arm| arm.name == name)
        .then_some(name)
}

/// Every work that some run has, with its setting; boots with the kernel's log are left to the table.
pub(super) fn works(report: &Report) -> Vec<(String, Setting)> {
    let mut works: Vec<(String, Setting)> = Vec::new();
    for run in report.counted_runs() {
        if Setting::BOOT_ONLY.contains(&run.setting) {
            continue;
        }
        for sample in &run.samples {
            let work = (sample.work.clone(), run.setting);
            if !works.contains(&work) && report.params.works.contains(&sample.work) {
                works.push(work);
            }
        }
    }
    works
}

/// Exits per operation: net where they are known.
pub(super) fn exits(sample: &Sample) -> Option<f64> {
    let exits = sample.counts.net_if_known().unwrap_or(sample.counts.total);
    (sample.ops > 0).then(|| exits as f64 / sample.ops as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::model::ArmNote;
    use crate::compare::summary::tests::{report, run};

    /// A report of `n` repetitions of an arm and its twin, whose exits are a function of both.
    fn twins(n: u32, exits: impl Fn(u32, bool) -> u64) -> Report {
        let mut report = report();
        report.params.repetitions = n;
        report.params.reference = "kvm".into();
        report.runs.clear();
        report.arms.push(ArmNote {
            name: "kvm@2".into(),
            description: "kvm once more".into(),
            is_stock: false,
            gap: None,
        });
        for repetition in 0..n {
            report
                .runs
                .push(run(repetition, "kvm", exits(repetition, false)));
            report
                .runs
                .push(run(repetition, "kvm@2", exits(repetition, true)));
        }
        report
    }

    #[test]
    fn the_same_thing_does_not_differ() {
        let report = twins(10, |repetition, is_twin| {
            100 + u64::from((repetition * 7 + u32::from(is_twin) * 3) % 10)
        });
        let outcome = evaluate(&report).unwrap();
        // Two works have samples: boot and pipe.
        assert_eq!((outcome.comparisons, outcome.tests), (2, 4));
        assert!(outcome.is_honest() && outcome.differ.is_empty());
        assert!(lines(&report)[0].contains("no more than chance allows"));
    }

    #[test]
    fn a_twin_that_always_differs_is_found() {
        let report = twins(10, |repetition, is_twin| {
            100 + u64::from(repetition) + if is_twin { 50 } else { 0 }
        });
        let outcome = evaluate(&report).unwrap();
        assert_eq!(outcome.differ.len(), 4);
        assert!(!outcome.is_honest());
        assert!(lines(&report)[0].contains("MORE THAN CHANCE"));
    }

    #[test]
    fn too_few_repetitions_say_so_and_failed_runs_are_left_out() {
        assert!(lines(&twins(4, |_, _| 100))[0].contains("too few"));
        assert_eq!(lines(&report()), [""; 0]);
        let mut report = twins(5, |repetition, _| 100 + u64::from(repetition));
        report.runs[3].samples.clear();
        assert_eq!(evaluate(&report).unwrap().tests, 0);
    }
}
