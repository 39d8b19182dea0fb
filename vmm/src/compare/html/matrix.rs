//! Arms by works, and what each feature is worth: tables of ratios, shaded on either side of 1.

use std::fmt::Write;

use super::escape;
use crate::compare::summary::{Figures, Group};
use crate::compare::text::number;

/// Ratios of this factor have the full shade.
const FULL_SHADE: f64 = 10.0;

/// Both tables; empty for a single arm.
pub(super) fn section(groups: &[Group], reference: &str) -> String {
    let arms = arms(groups);
    if arms.len() < 2 {
        return String::new();
    }
    let others: Vec<(&str, &str)> = arms
        .iter()
        .filter(|arm| **arm != reference)
        .map(|arm| (*arm, reference))
        .collect();
    let mut html = format!(
        "<h2>All arms and works <small>exits as a share of those of {}; below 1 is fewer</small></h2>\n{}",
        escape(reference),
        table(groups, &others)
    );
    // "coop/no-ipi" is "coop" without a feature, "coop/only-ipi" with no other.
    let parts: Vec<(&str, &str)> = arms
        .iter()
        .filter_map(|arm| Some((*arm, arm.split_once('/')?.0)))
        .filter(|(_, whole)| arms.contains(whole))
        .collect();
    if !parts.is_empty() {
        let _ = write!(
            html,
            "<h2>What each feature is worth <small>exits as a share of those of the arm with all of them: \
             what leaving one out costs, and what one alone reaches</small></h2>\n{}",
            table(groups, &parts)
        );
    }
    html
}

fn arms(groups: &[Group]) -> Vec<&str> {
    let mut arms: Vec<&str> = Vec::new();
    for row in groups.iter().flat_map(|group| &group.rows) {
        if !arms.contains(&row.arm.as_str()) {
            arms.push(&row.arm);
        }
    }
    arms
}

/// A row for each pair of an arm and what it is held against, a column for each work.
fn table(groups: &[Group], pairs: &[(&str, &str)]) -> String {
    let mut html = String::from("<div class=\"wide\"><table class=\"matrix\">\n<tr><th></th>");
    for group in groups {
        let _ = write!(html, "<th>{}</th>", escape(&group.title));
    }
    html += "</tr>\n";
    for (arm, against) in pairs {
        let _ = write!(html, "<tr><td>{}</td>", escape(arm));
        for group in groups {
            html += &cell(ratio(group, arm, against));
        }
        html += "</tr>\n";
    }
    html + "</table></div>\n"
}

fn ratio(group: &Group, arm: &str, against: &str) -> Option<f64> {
    let exits = |arm: &str| {
        let row = group.rows.iter().find(|row| row.arm == arm)?;
        let figures: &Figures = row.figures.as_ref().ok()?;
        Some(figures.net.unwrap_or(figures.gross).median)
    };
    let against = exits(against).filter(|exits| *exits > 0.0)?;
    Some(exits(arm)? / against)
}

fn cell(ratio: Option<f64>) -> String {
    let Some(ratio) = ratio else {
        return "<td>-</td>".into();
    };
    // Blue for fewer, vermilion for more, as in the waterfalls; the number says it without either.
    let colour = match ratio < 1.0 {
        true => "0,114,178",
        false => "213,94,0",
    };
    let strength = ratio.max(1e-6).ln().abs() / FULL_SHADE.ln();
    let shade = strength.min(1.0) * 0.55;
    format!(
        "<td style=\"background:rgba({colour},{shade:.2})\">{}</td>",
        number(ratio)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::model::ArmNote;
    use crate::compare::summary::{self, tests::report, tests::run};

    #[test]
    fn features_are_held_against_the_whole() {
        let mut report = report();
        for (name, exits) in [("coop", 15), ("coop/no-ipi", 25)] {
            report.arms.push(ArmNote {
                name: name.into(),
                description: String::new(),
                is_stock: false,
                gap: None,
            });
            report.runs.push(run(0, name, exits));
        }
        let html = section(&summary::groups(&report), "qemu-pci");
        assert_eq!(html.matches("<table").count(), 2);
        // 20 net exits to 10.
        assert!(html.contains(">2.00<"), "{html}");
        assert!(html.contains("<td>coop/no-ipi</td>"));
        assert!(!html.contains("NaN"));
    }

    #[test]
    fn without_exits_to_compare_with_there_is_no_ratio() {
        assert_eq!(cell(None), "<td>-</td>");
        assert!(cell(Some(0.0)).contains(">0<"));
    }
}
