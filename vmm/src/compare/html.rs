//! The report as one self-contained page: bars of exits by reason, the same tables, no script.
//!
//! Every text is escaped, guests' words above all. Pure; called by [`super::session`].

mod bars;

use std::fmt::Write;

use super::model::Report;
use super::summary::{self, Group};
use super::table;

use self::bars::Palette;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6675;--line:#d8dde4;--paper:#fff}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa5b4;--line:#39424f;--paper:#151a21}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);\
max-width:72rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin:2.2rem 0 .4rem}h2 small{color:var(--soft);font-weight:400}\
pre{white-space:pre-wrap;color:var(--soft);font-size:.85rem}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;white-space:nowrap}\
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--line)}\
th:first-child,td:first-child,th.text,td.text{text-align:left}\
svg{max-width:100%;height:auto;display:block;margin:.3rem 0}svg text{fill:var(--ink);font:12px system-ui,sans-serif}\
.key{display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.85rem}\
.key i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.35em}\
li{font-size:.9rem;overflow-wrap:anywhere}";

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
         <h1>VM exits per operation</h1>\n<pre>{}</pre>\n{}",
        escape(&table::header(report).join("\n")),
        palette.key()
    );
    for group in &groups {
        let _ = write!(
            page,
            "<h2>{} <small>per {}</small></h2>\n{}{}",
            escape(&group.title),
            escape(group.operation),
            bars::svg(group, &palette),
            rows(group)
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
