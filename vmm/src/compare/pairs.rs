//! Each pair of arms, work by work: the same test as that against the reference, for those who ask
//! another question than the table answers.
//!
//! They are a family of tests of their own, larger than the table's: what is claimed here is claimed
//! among all pairs. Pure; written into the file by [`super::json`].

use serde::Serialize;

use super::aa;
use super::claims::{self, Difference};
use super::model::Report;

/// Two arms in one work.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// The work.
    pub work: String,
    /// How the guests were booted.
    pub setting: String,
    /// The arm that has fewer or more.
    pub arm: String,
    /// The one that it is held against.
    pub against: String,
    /// By how much, and what may be said.
    #[serde(flatten)]
    pub difference: Difference,
}

/// All pairs of arms that have runs.
pub fn of(report: &Report) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for (work, setting) in aa::works(report) {
        let exits = |arm: &str| -> Vec<f64> {
            report
                .counted_runs()
                .filter(|run| run.arm == arm && run.setting == setting)
                .filter_map(|run| run.samples.iter().find(|sample| sample.work == work))
                .filter_map(aa::exits)
                .collect()
        };
        let arms: Vec<(&str, Vec<f64>)> = report
            .arms
            .iter()
            .map(|arm| (arm.name.as_str(), exits(&arm.name)))
            .collect();
        for (index, (against, theirs)) in arms.iter().enumerate() {
            for (arm, ours) in &arms[index + 1..] {
                let difference = Difference::of(ours, theirs, report.params.seed);
                pairs.extend(difference.map(|difference| Pair {
                    work: work.clone(),
                    setting: setting.name(),
                    arm: (*arm).into(),
                    against: (*against).into(),
                    difference,
                }));
            }
        }
    }
    claims::settle_all(pairs.iter_mut().map(|pair| &mut pair.difference));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::claims::Claim;
    use crate::compare::summary::tests::{report, run};

    #[test]
    fn every_pair_is_there_once_and_says_what_its_runs_do() {
        let mut report = report();
        report.arms[2].name = "coop".into();
        report.runs.retain(|run| run.arm != "hvm");
        for repetition in 0..4 {
            report
                .runs
                .push(run(repetition, "coop", 25 + u64::from(repetition)));
        }
        let pairs = of(&report);
        // Boot and pipe, three pairs each.
        assert_eq!(pairs.len(), 6);
        let of_pipe = pairs.iter().filter(|pair| pair.work == "pipe");
        let names: Vec<_> = of_pipe
            .map(|pair| {
                (
                    pair.arm.as_str(),
                    pair.against.as_str(),
                    pair.difference.claim,
                )
            })
            .collect();
        assert_eq!(
            names,
            [
                ("kvm", "qemu-pci", Claim::Fewer),
                ("coop", "qemu-pci", Claim::Fewer),
                ("coop", "kvm", Claim::Fewer),
            ]
        );
    }
}
