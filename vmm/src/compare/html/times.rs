//! How long exits took: a histogram for each arm, with a column for each power of two.

use std::fmt::Write;

use super::bars::Palette;
use super::escape;
use super::ink;
use crate::account::durations::Durations;
use crate::compare::summary::{Figures, Group};
use crate::compare::text::{number, time};

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 52.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 32.0;

/// The histograms; empty where durations were not traced.
pub(super) fn section(group: &Group, palette: &Palette) -> String {
    let arms: Vec<(&str, &Figures)> = group
        .rows
        .iter()
        .filter_map(|row| Some((row.arm.as_str(), row.figures.as_ref().ok()?)))
        .filter(|(_, figures)| !figures.attribution.durations.is_empty())
        .collect();
    let all = || {
        arms.iter()
            .flat_map(|(_, f)| f.attribution.durations.values())
    };
    let (Some(first), Some(last)) = (
        all()
            .filter_map(|durations| durations.buckets.iter().position(|count| *count > 0))
            .min(),
        all().map(|durations| durations.buckets.len()).max(),
    ) else {
        return String::new();
    };
    let mut html = String::from(
        "<h3>How long exits took <small>from exit to entry, all runs; a halt counts with the sleep; colours as \
         above</small></h3>\n<div class=\"row\">\n",
    );
    for (arm, figures) in arms {
        let _ = writeln!(
            html,
            "<figure><figcaption><b>{}</b></figcaption>{}</figure>",
            escape(arm),
            svg(&figures.attribution.durations, first..last, palette)
        );
    }
    html + "</div>\n"
}

fn svg(
    by_reason: &std::collections::BTreeMap<String, Durations>,
    buckets: std::ops::Range<usize>,
    palette: &Palette,
) -> String {
    let count = |durations: &Durations, bucket: usize| {
        durations.buckets.get(bucket).copied().unwrap_or(0) as f64
    };
    let total = |bucket: usize| by_reason.values().map(|d| count(d, bucket)).sum::<f64>();
    let greatest = buckets.clone().map(total).fold(1.0, f64::max);
    let bottom = HEIGHT - BOTTOM;
    let column = (WIDTH - LEFT) / buckets.len().max(1) as f64;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" role=\"img\" aria-label=\"durations of exits\">\n"
    );
    for share in [0.0, 0.5, 1.0] {
        let y = bottom - share * (bottom - TOP);
        let class = if share == 0.0 { "axis" } else { "grid" };
        let _ = writeln!(
            svg,
            "<line class=\"{class}\" x1=\"{LEFT}\" y1=\"{y}\" x2=\"{WIDTH}\" y2=\"{y}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 5.0,
            y + 4.0,
            number(share * greatest)
        );
    }
    // Labels every so many columns, so that they do not touch.
    let every = (62.0 / column).ceil().max(1.0);
    for (index, bucket) in buckets.enumerate() {
        let x = LEFT + column * index as f64;
        let mut y = bottom;
        for (reason, durations) in by_reason {
            let height = count(durations, bucket) / greatest * (bottom - TOP);
            if height <= 0.0 {
                continue;
            }
            y -= height;
            let _ = writeln!(
                svg,
                "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{}\">\
                 <title>{}: {}</title></rect>",
                x + 0.5,
                (column - 1.0).max(1.0),
                ink::fill(palette.series(reason)),
                escape(reason),
                number(count(durations, bucket))
            );
        }
        if index as f64 % every == 0.0 {
            let least = (1u64 << bucket.min(62)) as f64;
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{}\">{}</text>",
                bottom + 16.0,
                time(least)
            );
        }
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::summary::{self, tests::report};

    #[test]
    fn each_bucket_with_exits_is_a_column() {
        let mut report = report();
        for run in &mut report.runs {
            for sample in run.samples.iter_mut().filter(|_| run.arm == "kvm") {
                let mut durations = Durations::default();
                [1000, 1001, 70_000]
                    .into_iter()
                    .for_each(|ns| durations.add(ns));
                sample.counts.durations = [("MSR".to_string(), durations)].into();
            }
        }
        let groups = summary::groups(&report);
        let palette = Palette::of(&groups);
        let html = section(&groups[1], &palette);
        assert_eq!(html.matches("<rect").count(), 2, "{html}");
        assert_eq!(html.matches("<figure").count(), 1, "{html}");
        assert!(section(&groups[2], &palette).is_empty());
    }
}
