//! Holds what was measured against the [`limits`]: pass or fail per row, and over all rows.
//!
//! Pure; called by [`super::session`] for `--bars`. A figure that is not there is a failure, never
//! a pass.

use std::fmt::Write;

use super::limits::{self, Bound, Limit, LIMITS, READS};
use super::model::Report;
use super::stats::Ratio;
use super::summary::{self, Figures, Group};
use super::text::number;
use coopvirt_spec::work::Work;

/// One line of the section: what was asked and whether it holds.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    is_ok: bool,
    text: String,
}

impl Line {
    fn new(is_ok: bool, text: String) -> Line {
        Line { is_ok, text }
    }
}

/// The whole section as text.
pub fn render(report: &Report) -> String {
    let groups = summary::groups(report);
    let mut text = String::from(
        "limits (exits are net medians per operation; \"stock\" is the stock arm with the fewest \
         exits in the row; latency is the median):\n",
    );
    let mut failed = 0;
    for arm in [limits::OFF_ARM, limits::ADAPTIVE_ARM] {
        let lines = judge(&groups, arm);
        failed += lines.iter().filter(|line| !line.is_ok).count();
        let _ = writeln!(text, "  {arm}");
        for line in lines {
            let word = if line.is_ok { "pass" } else { "FAIL" };
            let _ = writeln!(text, "    {word}  {}", line.text);
        }
    }
    let _ = match failed {
        0 => writeln!(text, "  all limits are kept"),
        _ => writeln!(text, "  {failed} limits are not kept"),
    };
    text
}

/// All lines of one arm.
fn judge(groups: &[Group], arm: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = LIMITS.iter().map(|limit| row(groups, limit, arm)).collect();
    lines.extend(never_more(groups, arm));
    lines.extend(worse(groups, arm));
    lines.push(mean(groups, arm));
    lines
}

/// The limits of one work.
fn row(groups: &[Group], limit: &Limit, arm: &str) -> Line {
    let bounds = match arm {
        limits::OFF_ARM => limit.off,
        _ => limit.adaptive,
    };
    let name = limit.work.name();
    let (figures, net) = match figures_of(groups, limit.work, arm) {
        Ok((_, figures)) => match figures.net {
            Some(net) => (figures, net),
            None => return Line::new(false, format!("{name}: net exits are not known")),
        },
        Err(why) => return Line::new(false, format!("{name}: {why}")),
    };
    let share = figures.versus.as_ref().and_then(|versus| versus.exits);
    let mut is_ok = figures.n >= limits::MIN_RUNS;
    let mut text = format!("{name}: {}", number(net.median));
    for bound in bounds {
        let (holds, words) = match *bound {
            Bound::AtMost(most) => (net.median <= most, format!("at most {}", number(most))),
            Bound::OfStock(most) => (
                is_share_at_most(share, net.median, most),
                format!("at most {} of stock", number(most)),
            ),
        };
        is_ok &= holds;
        let _ = write!(text, ", {words}");
    }
    text += &versus_text(figures);
    if figures.n < limits::MIN_RUNS {
        let _ = write!(
            text,
            "; {} runs, {} are asked for",
            figures.n,
            limits::MIN_RUNS
        );
    }
    Line::new(is_ok, text)
}

/// A row without a ratio is one whose best stock arm has no exits: then there must be none here.
fn is_share_at_most(share: Option<Ratio>, net: f64, most: f64) -> bool {
    share.map_or(net == 0.0, |share| share.value <= most)
}

fn versus_text(figures: &Figures) -> String {
    let Some(versus) = &figures.versus else {
        return "; no stock arm to compare with".into();
    };
    let ratio = |ratio: Option<Ratio>| match ratio {
        None => "-".into(),
        Some(Ratio { value, interval }) => {
            let interval =
                interval.map(|(low, high)| format!(" [{} - {}]", number(low), number(high)));
            number(value) + &interval.unwrap_or_default()
        }
    };
    format!(
        "; against {}: exits {}, latency {}, CPU {}",
        versus.arm,
        ratio(versus.exits),
        ratio(versus.latency),
        ratio(versus.cpu)
    )
}

/// No work may have more exits than the best stock arm.
fn never_more(groups: &[Group], arm: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for group in works(groups) {
        let name = group.work.name();
        let Ok((_, figures)) = figures_of(groups, group.work, arm) else {
            // The rows of the limits have said so already; a read that is missing is in the mean.
            continue;
        };
        let share = figures.versus.as_ref().and_then(|versus| versus.exits);
        let net = figures.net.map_or(f64::INFINITY, |net| net.median);
        if !is_share_at_most(share, net, limits::NEVER_MORE_EXITS) {
            let text = format!("{name}: more exits than stock{}", versus_text(figures));
            lines.push(Line::new(false, text));
        }
    }
    if lines.is_empty() {
        let text = "no work has more exits than the best stock arm".to_string();
        lines.push(Line::new(works(groups).next().is_some(), text));
    }
    lines
}

/// Latency and CPU time.
fn worse(groups: &[Group], arm: &str) -> Vec<Line> {
    let (mut lines, mut nr_worse, mut unknown) = (Vec::new(), 0, Vec::new());
    for group in works(groups) {
        let name = group.work.name();
        let Ok((_, figures)) = figures_of(groups, group.work, arm) else {
            continue;
        };
        let Some(versus) = &figures.versus else {
            continue;
        };
        if versus.cpu.is_none() {
            unknown.push(name);
        }
        let ratios = [versus.latency, versus.cpu];
        let most = ratios.into_iter().flatten().map(|ratio| ratio.value);
        let most = most.fold(0.0, f64::max);
        if most > limits::WORSE {
            nr_worse += 1;
            let is_allowed = most <= limits::NEVER_WORSE;
            let text = format!("{name}: worse{}", versus_text(figures));
            lines.push(Line::new(is_allowed, text));
        }
    }
    let text = format!(
        "{nr_worse} works are over {} times stock in latency or CPU time, {} are allowed",
        limits::WORSE,
        limits::MAX_WORSE_ROWS
    );
    lines.push(Line::new(nr_worse <= limits::MAX_WORSE_ROWS, text));
    if !unknown.is_empty() {
        let text = format!("CPU time is not known of {}", unknown.join(", "));
        lines.push(Line::new(false, text));
    }
    lines
}

/// The geometric mean of the improvement.
fn mean(groups: &[Group], arm: &str) -> Line {
    let gain = |work: Work| gain(groups, work, arm);
    let reads: Option<f64> = READS
        .into_iter()
        .map(|work| Some(gain(work)?.ln()))
        .sum::<Option<f64>>()
        .map(|sum| (sum / READS.len() as f64).exp());
    let rows = LIMITS.iter().map(|limit| gain(limit.work)).chain([reads]);
    let logs: Option<Vec<f64>> = rows.map(|gain| Some(gain?.ln())).collect();
    match logs {
        None => Line::new(
            false,
            "geometric mean: not all seven rows and disk reads were measured".into(),
        ),
        Some(logs) => {
            let mean = (logs.iter().sum::<f64>() / logs.len() as f64).exp();
            Line::new(
                mean >= limits::MIN_MEAN,
                format!(
                    "geometric mean of stock over this arm, seven rows and disk reads, each at \
                     most {}: {}, at least {}",
                    number(limits::MEAN_CAP),
                    number(mean),
                    number(limits::MIN_MEAN)
                ),
            )
        }
    }
}

/// Exits of the best stock arm over those of this one, capped.
fn gain(groups: &[Group], work: Work, arm: &str) -> Option<f64> {
    let (group, figures) = figures_of(groups, work, arm).ok()?;
    let ours = figures.net?.median;
    let best = group.best_stock.as_deref()?;
    let stock = figures_of(groups, work, best).ok()?.1.net?.median;
    if stock == 0.0 {
        return (ours == 0.0).then_some(1.0);
    }
    let gain = if ours > 0.0 {
        stock / ours
    } else {
        f64::INFINITY
    };
    Some(gain.min(limits::MEAN_CAP))
}

/// All that measures; a boot is over before the module is there.
fn works(groups: &[Group]) -> impl Iterator<Item = &Group> {
    let measures = |work| work != Work::Boot && Work::ALL.contains(&work);
    groups.iter().filter(move |group| measures(group.work))
}

fn figures_of<'a>(
    groups: &'a [Group],
    work: Work,
    arm: &str,
) -> Result<(&'a Group, &'a Figures), String> {
    let group = groups
        .iter()
        .find(|group| group.work == work)
        .ok_or("not measured")?;
    let row = group
        .rows
        .iter()
        .find(|row| row.arm == arm)
        .ok_or("not measured")?;
    match &row.figures {
        Ok(figures) => Ok((group, figures)),
        Err(why) => Err(why.clone()),
    }
}

#[cfg(test)]
mod tests;
