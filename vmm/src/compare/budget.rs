//! The exit budget: how many exits per operation an arm may have in a work, as a file.
//!
//! `--budget FILE` holds the medians of a comparison against it, `--update-budget` writes a new one
//! from them. The file also names a *proof*: arms that have something switched off, which must exceed
//! the budget of the whole one. If they do not, the budget could not catch the loss either, and that
//! is a failure. Called by [`super::session`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};

use super::model::Report;
use super::stats::Spread;
use super::summary::{self, Group};
use super::text::number;

/// The text above the figures of a file that [`update`] writes.
const HEAD: &str = "\
# Exits per operation that each arm may have at most (net, the median of the runs), in the lab and by
# its clock that counts instructions. scripts/budget holds a comparison against it, scripts/test does so
# each time. `scripts/budget --update` writes this file anew, from as many runs as -n says.
#
# `most` is the greatest of the runs and their whole spread above it again, at least a tenth above the
# median: what a run on the same machine does not exceed by chance. The other figures say where it
# comes from.
";
/// The least margin above the median.
const LEAST_MARGIN: f64 = 0.1;
/// And in exits per operation, for works that have next to none.
const LEAST_EXITS: f64 = 0.1;

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// By the broken arm's name: whose budget it has to exceed.
    pub proof: BTreeMap<String, String>,
    /// By arm and work.
    pub budget: BTreeMap<String, BTreeMap<String, Bound>>,
}

/// What one arm may have in one work.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// Net exits per operation at most.
    pub most: f64,
    /// Median of the runs that it comes from.
    pub median: f64,
    /// Least of them.
    pub least: f64,
    /// Greatest of them.
    pub greatest: f64,
    /// How many there were.
    pub runs: usize,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The section of the report.
    pub text: String,
    /// Whether every bound is kept and every proof holds.
    pub is_kept: bool,
}

impl Budget {
    /// Reads a file; one that is missing is empty where a new one is to be written.
    pub fn read(path: &Path, may_be_missing: bool) -> Result<Budget> {
        if may_be_missing && !path.exists() {
            return Ok(Budget::default());
        }
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the budget {}", path.display()))?;
        Budget::parse(&text).with_context(|| format!("cannot use the budget {}", path.display()))
    }

    fn parse(text: &str) -> Result<Budget> {
        let budget: Budget = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let before = text.as_bytes().get(..at).unwrap_or_default();
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            anyhow::anyhow!("line {line}: {}", error.message().replace('\n', ", "))
        })?;
        for (arm, works) in &budget.budget {
            for (work, bound) in works {
                if !bound.most.is_finite() || bound.most < 0.0 {
                    bail!("{arm}, {work}: most is {}, no number of exits", bound.most);
                }
            }
        }
        Ok(budget)
    }
}

/// Holds the figures of a report against the budgets of its arms.
pub fn check(budget: &Budget, report: &Report) -> Outcome {
    let groups = summary::groups(report);
    let mut text = String::from("exit budget (net exits per operation, medians):\n");
    let (mut checked, mut failed) = (0, 0);
    for arm in &report.arms {
        let Some(bounds) = budget.budget.get(&arm.name) else {
            continue;
        };
        for (work, bound) in bounds {
            if !report.params.works.contains(work) {
                continue;
            }
            checked += 1;
            let (holds, said) = match net(&groups, work, &arm.name) {
                Ok(net) => (
                    net.median <= bound.most,
                    format!("{}, at most {}", number(net.median), number(bound.most)),
                ),
                Err(why) => (false, format!("no figure: {why}")),
            };
            failed += usize::from(!holds);
            let word = if holds { "kept" } else { "EXCEEDED" };
            let _ = writeln!(text, "  {word:8}  {} {work}: {said}", arm.name);
        }
    }
    for (broken, whole) in &budget.proof {
        if !report.arms.iter().any(|arm| arm.name == *broken) {
            continue;
        }
        checked += 1;
        let exceeded = exceeded(budget, &groups, broken, whole, report);
        failed += usize::from(exceeded.is_empty());
        let _ = match exceeded.is_empty() {
            false => writeln!(
                text,
                "  proven    {broken} would not pass for {whole}: {}",
                exceeded.join(", ")
            ),
            true => writeln!(
                text,
                "  UNPROVEN  {broken} keeps the budget of {whole}, so the budget would not notice that loss"
            ),
        };
    }
    let _ = match (checked, failed) {
        (0, _) => writeln!(text, "  nothing of this comparison is in the budget"),
        (_, 0) => writeln!(text, "  the budget is kept"),
        _ => writeln!(text, "  {failed} of {checked} lines fail"),
    };
    Outcome {
        text,
        is_kept: checked > 0 && failed == 0,
    }
}

/// The works in which a broken arm is above the budget of the whole one.
fn exceeded(
    budget: &Budget,
    groups: &[Group],
    broken: &str,
    whole: &str,
    report: &Report,
) -> Vec<String> {
    let bounds = budget.budget.get(whole).into_iter().flatten();
    bounds
        .filter(|(work, _)| report.params.works.contains(work))
        .filter_map(|(work, bound)| {
            let net = net(groups, work, broken).ok()?;
            let (is, most) = (number(net.median), number(bound.most));
            (net.median > bound.most).then(|| format!("{work} {is}, at most {most}"))
        })
        .collect()
}

/// Writes a budget from a report: its arms and works are replaced, all others stay.
pub fn update(old: &Budget, report: &Report, path: &Path) -> Result<Outcome> {
    let groups = summary::groups(report);
    let mut new = old.clone();
    let mut text = format!("exit budget, new in {}:\n", path.display());
    for arm in &report.arms {
        // What is switched off to prove something has no budget of its own.
        if old.proof.contains_key(&arm.name) {
            continue;
        }
        for work in &report.params.works {
            let net = match net(&groups, work, &arm.name) {
                Ok(net) => net,
                Err(why) => bail!(
                    "{} {work} has no figure, so there is no new budget: {why}",
                    arm.name
                ),
            };
            let runs = runs(&groups, work, &arm.name);
            let bound = bound(net, runs);
            let works = new.budget.entry(arm.name.clone()).or_default();
            let before = works.insert(work.clone(), bound);
            let before = before.map_or_else(|| "none".into(), |before| number(before.most));
            let _ = writeln!(
                text,
                "  {} {work}: at most {before} -> {} (median {} of {runs})",
                arm.name,
                number(bound.most),
                number(bound.median)
            );
        }
    }
    fs::write(path, file(&new)).with_context(|| format!("cannot write {}", path.display()))?;
    let checked = check(&new, report);
    Ok(Outcome {
        text: text + &checked.text,
        is_kept: checked.is_kept,
    })
}

/// What runs like these justify.
fn bound(net: Spread, runs: usize) -> Bound {
    let spread = net.max + (net.max - net.min);
    let margin = (net.median * LEAST_MARGIN).max(LEAST_EXITS);
    let digits = |value: f64| (value * 1000.0).round() / 1000.0;
    Bound {
        most: digits(spread.max(net.median + margin)),
        median: digits(net.median),
        least: digits(net.min),
        greatest: digits(net.max),
        runs,
    }
}

fn file(budget: &Budget) -> String {
    let mut text = HEAD.to_string();
    text += "\n# Each of these has something switched off and must exceed the budget of the other: shows that a loss\n\
             # would be noticed.\n[proof]\n";
    for (broken, whole) in &budget.proof {
        let _ = writeln!(text, "{} = {}", quoted(broken), quoted(whole));
    }
    for (arm, works) in &budget.budget {
        let _ = writeln!(text, "\n[budget.{}]", quoted(arm));
        for (work, bound) in works {
            let Bound {
                most,
                median,
                least,
                greatest,
                runs,
            } = bound;
            let _ = writeln!(
                text,
                "{work} = {{ most = {most:?}, median = {median:?}, least = {least:?}, greatest = {greatest:?}, \
                 runs = {runs} }}"
            );
        }
    }
    text
}

fn quoted(name: &str) -> String {
    toml::Value::String(name.into()).to_string()
}

/// The figures of an arm in a work. Boots are measured in several settings: the first is the one
/// without a log.
fn net(groups: &[Group], work: &str, arm: &str) -> Result<Spread, String> {
    let figures = figures(groups, work, arm)?;
    figures
        .net
        .ok_or_else(|| "the host's own tick could not be told".into())
}

fn runs(groups: &[Group], work: &str, arm: &str) -> usize {
    figures(groups, work, arm).map_or(0, |figures| figures.n)
}

fn figures<'a>(groups: &'a [Group], work: &str, arm: &str) -> Result<&'a summary::Figures, String> {
    let rows = groups.iter().filter(|group| group.work.name() == work);
    let row = rows
        .flat_map(|group| &group.rows)
        .find(|row| row.arm == arm);
    let row = row.ok_or("it was not run")?;
    row.figures.as_ref().map_err(Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::disk::TempFolder;
    use crate::compare::summary::tests::report;

    fn budget(most: f64) -> Budget {
        let text = format!(
            "[proof]\n\"qemu-pci\" = \"kvm\"\n[budget.kvm]\n\
             pipe = {{ most = {most}, median = 5.15, least = 5.0, greatest = 5.3, runs = 4 }}\n"
        );
        Budget::parse(&text).unwrap()
    }

    /// kvm has 5.0 to 5.3 exits per message, qemu-pci, which stands for a broken kvm, twice as many.
    #[test]
    fn a_budget_is_kept_exceeded_or_shown_to_be_blind() {
        let kept = check(&budget(6.0), &report());
        assert!(kept.is_kept, "{}", kept.text);
        assert!(
            kept.text.contains("kept      kvm pipe: 5.15, at most 6.00"),
            "{}",
            kept.text
        );
        assert!(kept
            .text
            .contains("proven    qemu-pci would not pass for kvm: pipe 10.1, at most 6.00"));
        let exceeded = check(&budget(5.0), &report());
        assert!(!exceeded.is_kept);
        assert!(exceeded
            .text
            .contains("EXCEEDED  kvm pipe: 5.15, at most 5.00"));
        let blind = check(&budget(50.0), &report());
        assert!(
            !blind.is_kept && blind.text.contains("UNPROVEN"),
            "{}",
            blind.text
        );
    }

    #[test]
    fn a_figure_that_is_not_there_is_no_pass() {
        let mut report = report();
        report.runs.retain(|run| run.arm != "kvm");
        assert!(!check(&budget(6.0), &report).is_kept);
        report.arms.clear();
        let outcome = check(&budget(6.0), &report);
        assert!(!outcome.is_kept && outcome.text.contains("nothing of this comparison"));
    }

    #[test]
    fn a_new_budget_is_kept_by_the_runs_it_comes_from_and_says_what_changed() {
        let folder = TempFolder::new().unwrap();
        let path = folder.path().join("budget.toml");
        assert!(Budget::read(&path, false).is_err());
        let mut report = report();
        report.params.works = vec!["pipe".into()];
        report.arms.retain(|arm| arm.name != "hvm");
        let mut old = budget(9.0);
        old.budget.insert("other".into(), old.budget["kvm"].clone());
        let outcome = update(&old, &report, &path).unwrap();
        assert!(
            outcome
                .text
                .contains("kvm pipe: at most 9.00 -> 5.67 (median 5.15 of 4)"),
            "{}",
            outcome.text
        );
        let new = Budget::read(&path, true).unwrap();
        // The greatest of 5.0 to 5.3 and the spread again is 5.6; a tenth above the median is more.
        assert_eq!(new.budget["kvm"]["pipe"].most, 5.665);
        assert_eq!((new.budget.len(), &new.proof), (2, &old.proof));
        assert!(check(&new, &report).is_kept);
    }

    #[test]
    fn the_projects_own_budget_can_be_read_and_proves_itself() {
        let own = Budget::parse(include_str!("../../../benches/budget.toml")).unwrap();
        assert!(own.budget.values().all(|works| !works.is_empty()));
        assert!(!own.proof.is_empty());
        for (broken, whole) in &own.proof {
            assert!(own.budget.contains_key(whole) && !own.budget.contains_key(broken));
        }
    }

    #[test]
    fn mistakes_in_the_file_are_told_by_line() {
        for (text, says) in [
            ("[budgets]\n", "line 1: unknown field `budgets`"),
            ("\n[budget.kvm]\npipe = { most = 1, medium = 2 }\n", "line 3: unknown field `medium`"),
            ("[budget.kvm]\npipe = 3\n", "line 2"),
            (
                "[budget.kvm]\npipe = { most = nan, median = 1, least = 1, greatest = 1, runs = 1 }\n",
                "kvm, pipe: most is NaN",
            ),
        ] {
            let error = format!("{:#}", Budget::parse(text).unwrap_err());
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
