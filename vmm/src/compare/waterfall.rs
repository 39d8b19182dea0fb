//! Where the exits went: from one arm's exits per operation to another's, cause by cause.
//!
//! A cause that vanishes in one place and grows in another is an exit that moved and not one that
//! was saved, so both are steps. Figures are means per operation over runs, gross, because only
//! these sum up over causes. Pure; called by [`super::table`] and [`super::html`].

use std::collections::BTreeMap;

use serde::Serialize;

use super::summary::{Figures, Group};
use super::text::{number, time};

/// A change smaller than this share of the larger side is no step of its own.
const MIN_SHARE: f64 = 0.002;

/// From one arm to another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Waterfall {
    /// The arm that it starts from.
    pub from: String,
    /// The arm that it leads to.
    pub to: String,
    /// Exits per operation of either arm.
    pub exits: Change,
    /// What changed, the largest changes first; with what is left over, they sum up to the whole.
    pub steps: Vec<Step>,
    /// CPU time per operation of the whole VMM, nanoseconds, where both arms have it.
    pub cpu_ns: Option<Change>,
    /// The same by kind of thread.
    pub threads_ns: BTreeMap<String, Change>,
    /// Time per operation in the guest, nanoseconds, where both arms have it.
    pub guest_ns: Option<Change>,
}

/// A figure of both arms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Change {
    /// Of the arm that the waterfall starts from.
    pub before: f64,
    /// Of the arm that it leads to.
    pub after: f64,
}

/// The exits of one cause.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// The cause.
    pub cause: String,
    /// Exits per operation.
    #[serde(flatten)]
    pub exits: Change,
}

impl Change {
    /// By how much it grew.
    pub fn by(self) -> f64 {
        self.after - self.before
    }
}

/// What was got for CPU time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Price {
    /// Exits saved per second of CPU time that the arm spends more.
    PerSecond(f64),
    /// Exits were saved and CPU time too.
    None,
    /// Nothing was saved.
    NothingSaved,
}

impl Waterfall {
    /// Between two rows; `None` where one has no figures or no causes.
    pub fn between(group: &Group, from: &str, to: &str) -> Option<Waterfall> {
        let figures = |arm: &str| {
            let row = group.rows.iter().find(|row| row.arm == arm)?;
            row.figures.as_ref().ok().filter(|f| !f.causes.is_empty())
        };
        let (before, after) = (figures(from)?, figures(to)?);
        let threads = pair(
            &before.attribution.threads_ns,
            &after.attribution.threads_ns,
        );
        let both = |value: fn(&Figures) -> Option<f64>| {
            Some(Change {
                before: value(before)?,
                after: value(after)?,
            })
        };
        let causes = |figures: &Figures| figures.causes.iter().cloned().collect();
        let mut steps: Vec<Step> = pair(&causes(before), &causes(after))
            .into_iter()
            .map(|(cause, exits)| Step { cause, exits })
            .collect();
        steps.sort_by(|a, b| b.exits.by().abs().total_cmp(&a.exits.by().abs()));
        let sum = |figures: &Figures| figures.causes.iter().map(|(_, mean)| mean).sum();
        Some(Waterfall {
            from: from.into(),
            to: to.into(),
            exits: Change {
                before: sum(before),
                after: sum(after),
            },
            steps,
            cpu_ns: both(|figures| Some(figures.cpu_ns?.median)),
            // A time that no work is long enough for is not known of its threads either.
            threads_ns: match before.cpu_ns.is_some() && after.cpu_ns.is_some() {
                true => threads,
                false => BTreeMap::new(),
            },
            guest_ns: both(|figures| figures.attribution.guest_ns),
        })
    }

    /// From the reference arm to each other arm of the group.
    pub fn all(group: &Group, reference: &str) -> Vec<Waterfall> {
        let others = group.rows.iter().filter(|row| row.arm != reference);
        others
            .filter_map(|row| Waterfall::between(group, reference, &row.arm))
            .collect()
    }

    /// The largest steps, and one for all others if there are any.
    pub fn top_steps(&self, count: usize) -> Vec<Step> {
        let least = self.exits.before.max(self.exits.after) * MIN_SHARE;
        let is_large = |step: &&Step| step.exits.by().abs() >= least;
        let mut steps: Vec<Step> = self
            .steps
            .iter()
            .filter(is_large)
            .take(count)
            .cloned()
            .collect();
        let rest = &self.steps[steps.len()..];
        let sum = |side: fn(&Change) -> f64| rest.iter().map(|step| side(&step.exits)).sum();
        if !rest.is_empty() {
            steps.push(Step {
                cause: format!("{} others", rest.len()),
                exits: Change {
                    before: sum(|exits| exits.before),
                    after: sum(|exits| exits.after),
                },
            });
        }
        steps
    }

    /// What the saved exits cost in CPU time, where that is known.
    pub fn price(&self) -> Option<Price> {
        let saved = -self.exits.by();
        let spent_ns = self.cpu_ns?.by();
        Some(match () {
            () if saved <= 0.0 => Price::NothingSaved,
            () if spent_ns <= 0.0 => Price::None,
            () => Price::PerSecond(saved / (spent_ns / 1e9)),
        })
    }

    /// One line for a terminal.
    pub fn line(&self, nr_steps: usize) -> String {
        let Change { before, after } = self.exits;
        let steps = self.top_steps(nr_steps);
        let steps = steps.iter().filter(|step| step.exits.by() != 0.0);
        let steps: Vec<String> = steps
            .map(|step| format!("{} {}", signed(step.exits.by()), step.cause))
            .collect();
        let mut line = format!(
            "{} {} -> {} {}: {}",
            self.from,
            number(before),
            self.to,
            number(after),
            steps.join(", ")
        );
        for text in [self.cpu_text(), self.price_text()].into_iter().flatten() {
            line += &format!("; {text}");
        }
        line
    }

    /// "CPU 1.20 ms -> 900 µs (vcpus 1.00 ms -> 700 µs, ...)".
    pub fn cpu_text(&self) -> Option<String> {
        let change = |change: Change| format!("{} -> {}", time(change.before), time(change.after));
        let mut parts: Vec<String> = Vec::new();
        if let Some(guest) = self.guest_ns {
            parts.push(format!("in the guest {}", change(guest)));
        }
        let used = |change: &Change| change.before > 0.0 || change.after > 0.0;
        for (kind, change_ns) in self.threads_ns.iter().filter(|(_, c)| used(c)) {
            parts.push(format!("{kind} {}", change(*change_ns)));
        }
        let whole = format!("CPU {}", change(self.cpu_ns?));
        Some(match parts.is_empty() {
            true => whole,
            false => format!("{whole} ({})", parts.join(", ")),
        })
    }

    /// "12,300 exits saved per CPU-second spent".
    pub fn price_text(&self) -> Option<String> {
        Some(match self.price()? {
            Price::PerSecond(exits) => {
                format!("{} exits saved per CPU-second spent", number(exits))
            }
            Price::None => "exits saved, and CPU time too".into(),
            Price::NothingSaved => "no exits saved".into(),
        })
    }
}

/// A number with its sign.
pub fn signed(value: f64) -> String {
    match value < 0.0 {
        true => format!("-{}", number(-value)),
        false => format!("+{}", number(value)),
    }
}

/// The entries of two maps, 0 where one has none.
fn pair(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> BTreeMap<String, Change> {
    let mut pairs: BTreeMap<String, Change> = BTreeMap::new();
    for (name, value) in before {
        pairs.entry(name.clone()).or_default().before = *value;
    }
    for (name, value) in after {
        pairs.entry(name.clone()).or_default().after = *value;
    }
    pairs
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::compare::model::Report;
    use crate::compare::summary::{self, tests::report};

    /// Ten operations of `pipe`: what was an MSR in the reference arm is a port in `kvm`.
    pub(in super::super) fn moved() -> Report {
        let mut report = report();
        for run in &mut report.runs {
            let causes: &[(&str, u64)] = match run.arm.as_str() {
                "kvm" => &[("OUT 0x20", 20), ("HLT", 35)],
                _ => &[("WRMSR 0x830", 80), ("HLT", 25)],
            };
            for sample in &mut run.samples {
                sample.counts.total = causes.iter().map(|(_, count)| count).sum();
                sample.counts.by_cause = causes.iter().map(|(c, n)| (c.to_string(), *n)).collect();
                let sidecore_ns = if run.arm == "kvm" { 500_000 } else { 0 };
                sample.cpu_ns = 1_000_000 + sidecore_ns;
                sample.cpu_by_thread_ns = [
                    ("vcpus".to_string(), 1_000_000),
                    ("sidecore".into(), sidecore_ns),
                ]
                .into();
            }
        }
        report
    }

    #[test]
    fn an_exit_that_moved_is_seen_on_both_sides() {
        let groups = summary::groups(&moved());
        let waterfall = Waterfall::between(&groups[1], "qemu-pci", "kvm").unwrap();
        assert_eq!(
            waterfall.exits,
            Change {
                before: 10.5,
                after: 5.5
            }
        );
        let steps: Vec<_> = waterfall
            .steps
            .iter()
            .map(|step| (step.cause.as_str(), (step.exits.by() * 10.0).round()))
            .collect();
        assert_eq!(
            steps,
            [("WRMSR 0x830", -80.0), ("OUT 0x20", 20.0), ("HLT", 10.0)]
        );
        let sum: f64 = waterfall.steps.iter().map(|step| step.exits.by()).sum();
        assert!((sum - waterfall.exits.by()).abs() < 1e-9);
        // Five exits saved per operation for 50 µs of the polling thread.
        let Some(Price::PerSecond(price)) = waterfall.price() else {
            panic!("no price");
        };
        assert!((price - 100_000.0).abs() < 1.0, "{price}");
        assert_eq!(
            waterfall.line(2),
            "qemu-pci 10.5 -> kvm 5.50: -8.00 WRMSR 0x830, +2.00 OUT 0x20, +1.00 1 others; \
             CPU 100 µs -> 150 µs (sidecore 0 ns -> 50.0 µs, vcpus 100 µs -> 100 µs); \
             100,000 exits saved per CPU-second spent"
        );
    }

    #[test]
    fn the_rest_is_one_step_and_the_sum_stays_right() {
        let groups = summary::groups(&moved());
        let waterfall = Waterfall::between(&groups[1], "qemu-pci", "kvm").unwrap();
        let top = waterfall.top_steps(1);
        assert_eq!(top.len(), 2);
        assert_eq!(top[1].cause, "2 others");
        let sum: f64 = top.iter().map(|step| step.exits.by()).sum();
        assert!((sum - waterfall.exits.by()).abs() < 1e-9);
    }

    #[test]
    fn prices_are_told_apart_and_missing_rows_have_no_waterfall() {
        let groups = summary::groups(&moved());
        let price = |from, to| Waterfall::between(&groups[1], from, to).unwrap().price();
        assert_eq!(price("kvm", "qemu-pci"), Some(Price::NothingSaved));
        assert_eq!(Waterfall::between(&groups[1], "kvm", "hvm"), None);
        assert_eq!(Waterfall::all(&groups[1], "qemu-pci").len(), 1);
        let mut without = moved();
        for run in without.runs.iter_mut().filter(|run| run.arm == "kvm") {
            for sample in &mut run.samples {
                sample.cpu_ns = 1;
            }
        }
        let groups = summary::groups(&without);
        let waterfall = Waterfall::between(&groups[1], "qemu-pci", "kvm").unwrap();
        assert_eq!(waterfall.price(), Some(Price::None));
    }
}
