//! Waterfalls: from the reference arm's exits to another's, a bar for each cause that changed.

use std::fmt::Write;

use super::escape;
use super::ink;
use crate::compare::summary::Group;
use crate::compare::text::number;
use crate::compare::waterfall::{signed, Waterfall};

/// Causes with a bar of their own.
const NR_STEPS: usize = 8;

const LABELS: f64 = 330.0;
const BARS: f64 = 500.0;
const VALUES: f64 = 80.0;
const BAR_HEIGHT: f64 = 15.0;
const STEP: f64 = 21.0;

/// All waterfalls of a group, from the reference arm.
pub(super) fn section(group: &Group, reference: &str) -> String {
    let waterfalls = Waterfall::all(group, reference);
    if waterfalls.is_empty() {
        return String::new();
    }
    let mut html = format!(
        "<h3>Where the exits went <small>means per {}, gross; {} fewer, {} more</small></h3>\n\
         <div class=\"row\">\n",
        escape(group.operation),
        ink::swatch(ink::FEWER),
        ink::swatch(ink::MORE)
    );
    // A picture inside a heading stands in its line.
    html = html.replace("<svg width", "<svg style=\"display:inline\" width");
    for waterfall in &waterfalls {
        html += &figure(waterfall);
    }
    html + "</div>\n"
}

fn figure(waterfall: &Waterfall) -> String {
    let notes = [waterfall.cpu_text(), waterfall.price_text()];
    let notes: Vec<String> = notes.into_iter().flatten().collect();
    format!(
        "<figure><figcaption><b>{}</b> to <b>{}</b></figcaption>{}<p class=\"note\">{}</p></figure>\n",
        escape(&waterfall.from),
        escape(&waterfall.to),
        svg(waterfall),
        escape(&notes.join("; "))
    )
}

fn svg(waterfall: &Waterfall) -> String {
    let steps = waterfall.top_steps(NR_STEPS);
    // The running level may rise above both ends.
    let mut level = waterfall.exits.before;
    let mut greatest = level.max(waterfall.exits.after);
    for step in &steps {
        level += step.exits.by();
        greatest = greatest.max(level);
    }
    let scale = BARS / greatest.max(f64::MIN_POSITIVE);
    let nr_rows = steps.len() + 2;
    let (width, height) = (LABELS + BARS + VALUES, STEP * nr_rows as f64);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" role=\"img\" aria-label=\"from {} to {}\">\n",
        escape(&waterfall.from),
        escape(&waterfall.to)
    );
    let mut row = Row { index: 0, scale };
    let (before, after) = (waterfall.exits.before, waterfall.exits.after);
    let whole = ink::NR_SERIES - 1;
    svg += &row.bar(&waterfall.from, 0.0, before, whole, &number(before));
    let mut level = before;
    for step in &steps {
        let next = level + step.exits.by();
        let series = match next < level {
            true => ink::FEWER,
            false => ink::MORE,
        };
        svg += &row.bar(&step.cause, level, next, series, &signed(step.exits.by()));
        level = next;
    }
    svg += &row.bar(&waterfall.to, 0.0, after, whole, &number(after));
    svg + "</svg>\n"
}

/// Lays bars out from top to bottom.
struct Row {
    index: usize,
    scale: f64,
}

impl Row {
    fn bar(&mut self, label: &str, from: f64, to: f64, series: usize, value: &str) -> String {
        let top = STEP * self.index as f64;
        self.index += 1;
        let baseline = top + 12.0;
        let left = LABELS + from.min(to).max(0.0) * self.scale;
        let length = ((to - from).abs() * self.scale).max(1.0);
        let label = escape(&short(label));
        let mut svg = format!(
            "<text x=\"{}\" y=\"{baseline}\" text-anchor=\"end\">{label}</text>\n",
            LABELS - 8.0
        );
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{top}\" width=\"{length:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{}\">\
             <title>{label}: {value}</title></rect>\
             <text x=\"{:.1}\" y=\"{baseline}\">{value}</text>",
            ink::fill(series),
            left + length + 6.0
        );
        svg
    }
}

/// What fits into the column of labels.
fn short(label: &str) -> String {
    const MAX_CHARS: usize = 48;
    match label.chars().count() > MAX_CHARS {
        true => label.chars().take(MAX_CHARS - 1).chain(['…']).collect(),
        false => label.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::summary;
    use crate::compare::waterfall::tests::moved;

    #[test]
    fn each_change_is_a_bar_between_the_two_arms() {
        let groups = summary::groups(&moved());
        let html = section(&groups[1], "qemu-pci");
        // Two arms, three causes, two keys.
        assert_eq!(html.matches("<rect").count(), 2 + 3 + 2, "{html}");
        assert!(html.contains("-8.00"), "{html}");
        assert!(html.contains("+2.00"), "{html}");
        assert!(html.contains("exits saved per CPU-second spent"), "{html}");
        assert_eq!(section(&groups[2], "qemu-pci"), "");
    }

    #[test]
    fn long_labels_are_cut() {
        assert_eq!(short(&"x".repeat(100)).chars().count(), 48);
        assert_eq!(short("MSR"), "MSR");
    }
}
