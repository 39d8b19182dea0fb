//! The distribution of latencies: a curve for each arm, over a logarithmic axis of time.

use std::fmt::Write;

use super::escape;
use super::ink;
use crate::compare::summary::Group;
use crate::compare::text::time;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 48.0;
const TOP: f64 = 10.0;
const RIGHT: f64 = 16.0;
const BOTTOM: f64 = 34.0;

/// The picture with its key; empty where no arm has a curve.
pub(super) fn section(group: &Group) -> String {
    let curves: Vec<(&str, &[(u32, f64)])> = group
        .rows
        .iter()
        .filter_map(|row| {
            let curve = &row.figures.as_ref().ok()?.attribution.curve;
            (curve.len() > 1).then_some((row.arm.as_str(), curve.as_slice()))
        })
        .collect();
    let times = || {
        curves
            .iter()
            .flat_map(|(_, curve)| *curve)
            .map(|(_, ns)| ns.max(1.0))
    };
    let least = times().fold(f64::INFINITY, f64::min);
    let greatest = times().fold(1.0, f64::max);
    if curves.is_empty() {
        return String::new();
    }
    let axis = Axis::new(least, greatest);
    let mut html = format!(
        "<h3>Latency of an operation <small>share of the {}s that took no longer; medians over runs</small></h3>\n\
         <figure><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" role=\"img\" aria-label=\"distribution of latencies\">\n",
        escape(group.operation)
    );
    html += &axis.grid();
    for (index, (arm, curve)) in curves.iter().enumerate() {
        let (colour, dashes) = ink::line(index);
        let points = curve
            .iter()
            .map(|(per_mille, ns)| format!("{:.1},{:.1}", axis.x(*ns), y(*per_mille)));
        let _ = writeln!(
            html,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.2\" \
             stroke-dasharray=\"{dashes}\"><title>{}</title></polyline>",
            points.collect::<Vec<_>>().join(" "),
            escape(arm)
        );
    }
    html += "</svg><figcaption class=\"key\">";
    for (index, (arm, _)) in curves.iter().enumerate() {
        let (colour, dashes) = ink::line(index);
        let _ = write!(
            html,
            "<span><svg width=\"38\" height=\"10\" aria-hidden=\"true\"><path d=\"M0,5H38\" stroke=\"{colour}\" \
             stroke-width=\"2.5\" stroke-dasharray=\"{dashes}\"/></svg>{}</span>",
            escape(arm)
        );
    }
    html + "</figcaption></figure>\n"
}

fn y(per_mille: u32) -> f64 {
    let share = f64::from(per_mille.min(1000)) / 1000.0;
    TOP + (1.0 - share) * (HEIGHT - TOP - BOTTOM)
}

/// A logarithmic axis of time.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn new(least: f64, greatest: f64) -> Axis {
        let low = least.max(1.0).log10();
        // Never without width.
        let high = greatest.max(1.0).log10().max(low + 0.3);
        Axis {
            low: low - 0.03,
            high: high + 0.03,
        }
    }

    fn x(&self, ns: f64) -> f64 {
        let share = (ns.max(1.0).log10() - self.low) / (self.high - self.low);
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    /// Lines with labels: 1, 2 and 5 of each power of ten while there are few powers.
    fn grid(&self) -> String {
        let mut svg = String::new();
        let bottom = HEIGHT - BOTTOM;
        let steps: &[f64] = match self.high - self.low > 2.5 {
            true => &[1.0],
            false => &[1.0, 2.0, 5.0],
        };
        for power in 0..12 {
            for step in steps {
                let ns = step * 10f64.powi(power);
                if !(self.low..=self.high).contains(&ns.log10()) {
                    continue;
                }
                let x = self.x(ns);
                let _ = writeln!(
                    svg,
                    "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>\
                     <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                    bottom + 16.0,
                    time(ns)
                );
            }
        }
        for per_mille in [0, 250, 500, 750, 1000] {
            let y = y(per_mille);
            let class = if per_mille == 0 { "axis" } else { "grid" };
            let _ = writeln!(
                svg,
                "<line class=\"{class}\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{}\" y2=\"{y:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{} %</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                per_mille / 10
            );
        }
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::summary::{self, tests::report};

    #[test]
    fn each_arm_has_a_curve_inside_the_picture() {
        let groups = summary::groups(&report());
        let html = section(&groups[1]);
        assert_eq!(html.matches("<polyline").count(), 2, "{html}");
        assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
        assert_eq!(section(&groups[0]), "", "a boot has no curve");
        let axis = Axis::new(1000.0, 9000.0);
        assert!(axis.x(1000.0) >= LEFT && axis.x(9000.0) <= WIDTH - RIGHT);
        assert!(Axis::new(5.0, 5.0).x(5.0).is_finite());
    }
}
