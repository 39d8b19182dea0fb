//! Stacked bars: one per arm, a segment per exit reason, mean exits per operation.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::escape;
use super::ink;
use crate::compare::summary::{Figures, Group};
use crate::compare::text::number;

/// The last series is for all other reasons.
const REST_SERIES: usize = ink::NR_SERIES - 1;
const REST: &str = "other";
/// A word of so many units for each letter fits into a segment.
const LETTER: f64 = 7.5;

const LABELS: f64 = 170.0;
const BARS: f64 = 620.0;
const VALUES: f64 = 110.0;
const BAR_HEIGHT: f64 = 18.0;
const STEP: f64 = 26.0;

/// One colour and pattern per reason, most frequent first, the same in all groups.
pub(super) struct Palette(Vec<String>);

impl Palette {
    /// The most important reasons get colours: those with the largest shares over all groups.
    pub(super) fn of(groups: &[Group]) -> Palette {
        let mut weights: BTreeMap<&str, f64> = BTreeMap::new();
        let all = groups.iter().flat_map(|group| &group.rows);
        for figures in all.filter_map(|row| row.figures.as_ref().ok()) {
            let total = total(figures).max(f64::MIN_POSITIVE);
            for (reason, mean) in &figures.reasons {
                *weights.entry(reason).or_default() += mean / total;
            }
        }
        let mut reasons: Vec<_> = weights.into_iter().collect();
        reasons.sort_by(|a, b| b.1.total_cmp(&a.1));
        let names = reasons
            .into_iter()
            .take(REST_SERIES)
            .map(|(name, _)| name.to_string());
        Palette(names.collect())
    }

    /// Which colour is which reason.
    pub(super) fn key(&self) -> String {
        let mut html = String::from("<p class=\"key\">");
        let named = self.0.iter().map(String::as_str).zip(0..);
        for (name, series) in named.chain([(REST, REST_SERIES)]) {
            let _ = write!(html, "<span>{}{}</span>", ink::swatch(series), escape(name));
        }
        html + "</p>\n"
    }

    /// The series of a reason.
    pub(super) fn series(&self, reason: &str) -> usize {
        let found = self.0.iter().position(|name| name == reason);
        found.unwrap_or(REST_SERIES)
    }

    /// The segments of a bar: the palette's reasons in its order, then the rest in one.
    fn segments(&self, figures: &Figures) -> Vec<(&str, f64, usize)> {
        let mean = |name: &str| {
            let found = figures.reasons.iter().find(|(reason, _)| reason == name);
            found.map_or(0.0, |(_, mean)| *mean)
        };
        let mut segments: Vec<_> = self
            .0
            .iter()
            .zip(0..)
            .map(|(name, series)| (name.as_str(), mean(name), series))
            .collect();
        let named: f64 = segments.iter().map(|(_, mean, _)| mean).sum();
        segments.push((REST, (total(figures) - named).max(0.0), REST_SERIES));
        segments.retain(|(_, mean, _)| *mean > 0.0);
        segments
    }
}

fn total(figures: &Figures) -> f64 {
    figures.reasons.iter().map(|(_, mean)| mean).sum()
}

/// Draws one group.
pub(super) fn svg(group: &Group, palette: &Palette) -> String {
    let bars: Vec<_> = group
        .rows
        .iter()
        .filter_map(|row| Some((&row.arm, row.figures.as_ref().ok()?)))
        .collect();
    let greatest = bars
        .iter()
        .map(|(_, figures)| total(figures))
        .fold(0.0, f64::max);
    if greatest <= 0.0 {
        return String::new();
    }
    let (width, height) = (LABELS + BARS + VALUES, STEP * bars.len() as f64);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" role=\"img\" \
         aria-label=\"mean exits per {} by reason\">\n",
        escape(group.operation)
    );
    for (index, (arm, figures)) in bars.into_iter().enumerate() {
        let top = STEP * index as f64;
        let baseline = top + 13.0;
        let arm = escape(arm);
        let _ = writeln!(svg, "<text x=\"0\" y=\"{baseline}\">{arm}</text>");
        let mut left = LABELS;
        for (name, mean, series) in palette.segments(figures) {
            let length = BARS * mean / greatest;
            let _ = writeln!(
                svg,
                "<rect x=\"{left:.1}\" y=\"{top}\" width=\"{length:.1}\" height=\"{BAR_HEIGHT}\" \
                 fill=\"{}\"><title>{arm}: {} {}</title></rect>",
                ink::fill(series),
                escape(name),
                number(mean)
            );
            if length > LETTER * name.len() as f64 + 8.0 {
                let _ = writeln!(
                    svg,
                    "<rect x=\"{:.1}\" y=\"{}\" width=\"{:.1}\" height=\"13\" rx=\"2\" fill=\"{}\"/>\
                     <text class=\"in\" x=\"{:.1}\" y=\"{}\" style=\"fill:{}\">{}</text>",
                    left + 2.0,
                    top + 2.5,
                    LETTER * name.len() as f64,
                    ink::line(series).0,
                    left + 4.0,
                    baseline,
                    ink::words(series),
                    escape(name)
                );
            }
            left += length;
        }
        let value = number(total(figures));
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{baseline}\">{value}</text>",
            left + 6.0
        );
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::summary::{self, tests::report};

    #[test]
    fn segments_add_up_to_the_bar() {
        let groups = summary::groups(&report());
        let figures = groups[1].rows[0].figures.as_ref().unwrap();
        for palette in [Palette::of(&groups), Palette(Vec::new())] {
            let segments = palette.segments(figures);
            let sum: f64 = segments.iter().map(|(_, mean, _)| mean).sum();
            assert!((sum - total(figures)).abs() < 1e-9);
        }
        assert_eq!(Palette::of(&groups).0, ["MSR", "INTR"]);
    }

    #[test]
    fn the_longest_bar_has_the_full_width_and_empty_groups_no_picture() {
        let groups = summary::groups(&report());
        let palette = Palette::of(&groups);
        let picture = svg(&groups[1], &palette);
        assert_eq!(picture.matches("<title").count(), 4);
        assert_eq!(svg(&groups[2], &palette), "");
    }
}
