//! What may be said about a difference: larger than the noise, inside it, or too few runs to tell.
//!
//! Each row is tested against the reference arm. A difference is claimed only where it is one of
//! those that the false discovery rate of *all* tests of the report lets through, and where the
//! interval of the shift leaves out zero. Pure; called by [`super::summary`].

use serde::Serialize;

use super::stats::{self, Shift};
use super::summary::Group;
use super::text::probability;

/// Of all claims of a report, so many are wrong in the mean.
pub const RATE: f64 = 0.05;

/// One row against the reference arm: exits per operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Two-sided p of the permutation test.
    pub p: f64,
    /// The smallest p that so many runs can give.
    pub least_p: f64,
    /// The false discovery rate at which it would be claimed, over all tests of the report; `None`
    /// where the runs are too few to claim anything.
    pub q: Option<f64>,
    /// By how many exits per operation the row lies above the reference (Hodges-Lehmann).
    pub shift: Shift,
    /// Cliff's delta: 1 if every run lies above every run of the reference, -1 if below.
    pub delta: f64,
    /// What may be said.
    pub claim: Claim,
}

/// What may be said about a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Claim {
    /// Fewer exits than the reference.
    Fewer,
    /// More.
    More,
    /// A difference as chance makes it.
    InNoise,
    /// One that would be claimed if it were the only test, but not among so many: more runs would
    /// tell.
    Unproven,
    /// However clear it looks, so few runs cannot tell it from chance.
    TooFewRuns,
}

impl Difference {
    /// Of a row's runs against the reference's; `None` without runs on both sides. The claim waits
    /// for [`settle`], which sees all rows.
    pub fn of(ours: &[f64], reference: &[f64], seed: u64) -> Option<Difference> {
        Some(Difference {
            p: stats::permutation_test(ours, reference, seed)?,
            least_p: stats::least_p(ours.len(), reference.len()),
            q: None,
            shift: stats::shift(ours, reference)?,
            delta: stats::cliffs_delta(ours, reference)?,
            claim: Claim::TooFewRuns,
        })
    }

    fn can_tell(&self) -> bool {
        self.least_p <= RATE
    }

    /// For a table's cell: "fewer (0.012)", "noise (0.41)", "unproven (0.12)", "n too small".
    pub fn text(&self) -> String {
        let q = self.q.map(probability).unwrap_or_default();
        match self.claim {
            Claim::Fewer => format!("fewer ({q})"),
            Claim::More => format!("more ({q})"),
            Claim::InNoise => format!("noise ({q})"),
            Claim::Unproven => format!("unproven ({q})"),
            Claim::TooFewRuns => "n too small".into(),
        }
    }
}

/// Decides all claims of a report's table together.
pub fn settle(groups: &mut [Group]) {
    let rows = groups.iter_mut().flat_map(|group| &mut group.rows);
    settle_all(rows.filter_map(|row| row.figures.as_mut().ok()?.difference.as_mut()));
}

/// Decides the claims of one family of tests.
pub fn settle_all<'a>(differences: impl Iterator<Item = &'a mut Difference>) {
    let mut tested: Vec<&mut Difference> = differences
        .filter(|difference| difference.can_tell())
        .collect();
    let p: Vec<f64> = tested.iter().map(|difference| difference.p).collect();
    for (difference, q) in tested.iter_mut().zip(stats::false_discovery(&p)) {
        difference.q = Some(q);
        difference.claim = match difference.shift.interval {
            Some((_, high)) if q <= RATE && high < 0.0 => Claim::Fewer,
            Some((low, _)) if q <= RATE && low > 0.0 => Claim::More,
            Some(_) if difference.p <= RATE => Claim::Unproven,
            _ => Claim::InNoise,
        };
    }
}

/// What a reader must know about the claims of these groups.
pub fn notes(groups: &[Group]) -> Vec<String> {
    let all: Vec<&Difference> = groups
        .iter()
        .flat_map(|group| &group.rows)
        .filter_map(|row| row.figures.as_ref().ok()?.difference.as_ref())
        .collect();
    let mute: Vec<_> = all.iter().filter(|d| !d.can_tell()).collect();
    let mut notes = Vec::new();
    if let Some(least) = mute.iter().map(|d| d.least_p).reduce(f64::min) {
        notes.push(format!(
            "{} rows have so few runs that no p below {} exists: nothing is claimed of them (four runs \
             against four reach 0.029, five 0.008)",
            mute.len(),
            probability(least)
        ));
    }
    let tested = all.len() - mute.len();
    if tested > 0 {
        let is_claim = |d: &&&Difference| matches!(d.claim, Claim::Fewer | Claim::More);
        let claims = all.iter().filter(is_claim).count();
        notes.push(format!(
            "{tested} rows were tested, {claims} are claimed to differ; at a false discovery rate of {RATE} \
             {} of these are wrong in the mean",
            super::text::number(claims as f64 * RATE)
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::summary::{self, tests::report};

    fn claim_of(groups: &[Group], work: usize, row: usize) -> &Difference {
        let figures = groups[work].rows[row].figures.as_ref().unwrap();
        figures.difference.as_ref().unwrap()
    }

    #[test]
    fn a_clear_difference_is_claimed_and_one_inside_the_noise_is_not() {
        let mut report = report();
        let groups = summary::groups(&report);
        let kvm = claim_of(&groups, 1, 1);
        assert_eq!(kvm.claim, Claim::Fewer);
        assert_eq!((kvm.p, kvm.q), (kvm.least_p, Some(kvm.p)));
        assert_eq!(kvm.delta, -1.0);
        assert!((kvm.shift.value + 5.0).abs() < 1e-9);
        assert_eq!(kvm.text(), "fewer (0.029)");
        assert!(groups[1].rows[0]
            .figures
            .as_ref()
            .unwrap()
            .difference
            .is_none());
        // The same runs as the reference's, in another order.
        for run in report.runs.iter_mut().filter(|run| run.arm == "kvm") {
            for sample in &mut run.samples {
                sample.counts.total = 108 - u64::from(run.repetition);
            }
        }
        let groups = summary::groups(&report);
        let kvm = claim_of(&groups, 1, 1);
        assert_eq!(kvm.claim, Claim::InNoise);
        assert!(kvm.text().starts_with("noise"));
    }

    #[test]
    fn of_three_runs_nothing_is_claimed_and_the_reader_told() {
        let mut report = report();
        report.runs.retain(|run| run.repetition < 3);
        let groups = summary::groups(&report);
        let kvm = claim_of(&groups, 1, 1);
        assert_eq!((kvm.claim, kvm.q), (Claim::TooFewRuns, None));
        assert_eq!(kvm.text(), "n too small");
        let notes = notes(&groups).join("\n");
        assert!(notes.contains("no p below 0.100 exists"), "{notes}");
    }

    #[test]
    fn many_tests_raise_the_bar_for_each() {
        let mut report = report();
        // One of ten arms differs as far as four runs can: 0.029 of ten tests is what chance gives.
        for number in 0..9 {
            let name = format!("arm{number}");
            report.arms.push(crate::compare::model::ArmNote {
                name: name.clone(),
                description: "an arm".into(),
                is_stock: false,
                gap: None,
            });
            for repetition in 0..4 {
                let mut run = summary::tests::run(repetition, &name, 108 - u64::from(repetition));
                run.samples.retain(|sample| sample.work == "pipe");
                report.runs.push(run);
            }
        }
        for run in &mut report.runs {
            run.samples.retain(|sample| sample.work == "pipe");
        }
        let groups = summary::groups(&report);
        let pipe = groups
            .iter()
            .position(|group| group.title == "pipe")
            .unwrap();
        let kvm = claim_of(&groups, pipe, 1);
        assert!(kvm.p < 0.03 && kvm.q.unwrap() > 0.2);
        assert_eq!(kvm.claim, Claim::Unproven);
    }
}
