//! The report as one self-contained page: plots as inline SVG, the same tables, no script.
//!
//! Every text is escaped, guests' words above all. Pure; called by [`super::session`].

mod bars;
mod curves;
mod ink;
mod matrix;
mod steps;
mod style;
mod times;

use std::fmt::Write;

use super::model::Report;
use super::summary::{self, Group};
use super::table;
use super::text::number;

use self::bars::Palette;
use self::style::STYLE;

const HEADINGS: [&str; 13] = [
    "arm",
    "n",
    "exits net [least - greatest]",
    "gross",
    "ratio",
    "differs",
    "to best stock",
    "reasons",
    "userspace",
    "latency",
    "p99",
    "CPU",
    "CPU of all",
];

/// Places in a line.
const MAX_PLACES: usize = 5;

/// Renders the page.
pub fn render(report: &Report) -> String {
    let groups = summary::groups(report);
    let palette = Palette::of(&groups);
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>VM exits compared</title>\n<style>{STYLE}</style>\n\
         {}<h1>VM exits per operation</h1>\n<pre>{}</pre>\n{}{}",
        ink::definitions(),
        escape(&table::header(report).join("\n")),
        matrix::section(&groups, &report.params.reference),
        palette.key()
    );
    for group in &groups {
        let _ = write!(
            page,
            "<h2>{} <small>per {}</small></h2>\n{}{}{}{}{}{}",
            escape(&group.title),
            escape(group.operation),
            bars::svg(group, &palette),
            rows(group),
            steps::section(group, &report.params.reference),
            curves::section(group),
            times::section(group, &palette),
            places(group)
        );
    }
    for (title, lines) in table::footer(report) {
        let _ = writeln!(page, "<h2>{}</h2>\n<ul>", escape(title));
        for line in lines {
            let _ = writeln!(page, "<li>{}</li>", escape(&line));
        }
        page += "</ul>\n";
    }
    page + "</html>\n"
}

fn rows(group: &Group) -> String {
    let mut html = String::from("<div class=\"wide\"><table>\n<tr>");
    for (index, heading) in HEADINGS.iter().enumerate() {
        let class = class_of(index);
        let _ = write!(html, "<th{class}>{}</th>", escape(heading));
    }
    html += "</tr>\n";
    for row in &group.rows {
        let _ = write!(html, "<tr><td>{}</td>", escape(&row.arm));
        match &row.figures {
            Ok(figures) => {
                let cells = table::columns(figures, table::is_best(group, row));
                for (index, cell) in cells.iter().enumerate() {
                    let class = class_of(index + 1);
                    let _ = write!(html, "<td{class}>{}</td>", escape(cell));
                }
            }
            Err(why) => {
                let _ = write!(
                    html,
                    "<td colspan=\"12\" class=\"text\">{}</td>",
                    escape(why)
                );
            }
        }
        html += "</tr>\n";
    }
    html + "</table></div>\n"
}

/// The share of explained exits, and where the guest was at most of them.
fn places(group: &Group) -> String {
    let mut items = String::new();
    for row in &group.rows {
        let Ok(figures) = &row.figures else {
            continue;
        };
        let attribution = &figures.attribution;
        let Some(percent) = attribution.explained_percent else {
            continue;
        };
        let top = attribution.places.iter().take(MAX_PLACES);
        let top = top.map(|(place, mean)| format!("{place} {}", number(*mean)));
        let top: Vec<String> = top.collect();
        let _ = writeln!(
            items,
            "<li><b>{}</b>: {percent:.1} % with a cause beyond the reason{}{}</li>",
            escape(&row.arm),
            if top.is_empty() {
                ""
            } else {
                "; most exits at "
            },
            escape(&top.join(", "))
        );
    }
    match items.is_empty() {
        true => items,
        false => format!("<h3>Attribution</h3>\n<ul>{items}</ul>\n"),
    }
}

/// Columns of words stand left.
fn class_of(column: usize) -> &'static str {
    match column == table::REASONS_COLUMN + 1 {
        true => " class=\"text\"",
        false => "",
    }
}

/// Text that cannot become markup.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::summary::tests::report;

    #[test]
    fn the_page_is_self_contained_and_has_bars_and_tables() {
        let page = render(&report());
        for part in [
            "<svg",
            "boot (virtio)",
            "0.507 [",
            "MSR",
            "failed: the guest&#39;s",
        ] {
            assert!(page.contains(part), "{part}");
        }
        for part in ["http", "<script", "NaN", "inf"] {
            assert!(!page.contains(part), "{part}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }

    #[test]
    fn words_of_guests_cannot_become_markup() {
        let page = render(&report());
        assert!(page.contains("&lt;b&gt;clocksource&lt;/b&gt;"));
        assert!(!page.contains("<b>"));
    }
}
