//! Shows a report: one line for each finding, with the remedy below it.

use std::fmt::Write as _;

use super::advice::{Report, Status};

/// The report as JSON.
pub fn to_json(report: &Report) -> String {
    serde_json::to_string_pretty(report).expect("strings and enums always serialise")
}

/// The report for a terminal.
pub fn to_text(report: &Report) -> String {
    let mut text = String::new();
    let mut group = "";
    for item in &report.items {
        if item.group != group {
            group = item.group;
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{group}");
        }
        let mark = match item.status {
            Status::Ok => "  ok  ",
            Status::Warn => "  warn",
            Status::Fail => "  FAIL",
        };
        let _ = writeln!(text, "{mark}  {}: {}", item.name, item.found);
        if let Some(advice) = &item.advice {
            let _ = writeln!(text, "        -> {advice}");
        }
    }
    let verdict = match report.can_run {
        true => "a VM can run here",
        false => "no VM whose exits mean anything can run here",
    };
    let _ = write!(text, "{verdict} (backend: {})", report.backend);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::advice::Item;

    fn report() -> Report {
        let item = |status, advice: Option<&str>| Item {
            group: "kvm",
            name: "irqfd".into(),
            status,
            found: "1".into(),
            advice: advice.map(str::to_string),
        };
        Report {
            backend: "AMD-V".into(),
            can_run: true,
            items: vec![item(Status::Ok, None), item(Status::Warn, Some("do this"))],
        }
    }

    #[test]
    fn text_has_a_heading_per_group_and_advice_below_its_line() {
        let text = to_text(&report());
        assert_eq!(
            text,
            "kvm\n  ok    irqfd: 1\n  warn  irqfd: 1\n        -> do this\n\
             a VM can run here (backend: AMD-V)"
        );
    }

    #[test]
    fn json_has_lower_case_statuses() {
        let json: serde_json::Value = serde_json::from_str(&to_json(&report())).unwrap();
        assert_eq!(json["items"][1]["status"], "warn");
        assert_eq!(json["can_run"], true);
    }
}
