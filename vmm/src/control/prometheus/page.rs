//! Lines of the exposition format: families, labels, values.

use std::fmt::{Display, Write as _};

/// A page while it is written.
#[derive(Default)]
pub(super) struct Page {
    pub(super) text: String,
    name: String,
}

impl Page {
    /// Begins a family.
    pub(super) fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.name = format!("coopvirt_{name}");
        let name = &self.name;
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A value of the family; labels without text are left out.
    pub(super) fn line(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.suffixed("", labels, value);
    }

    /// The same for one of a histogram's parts.
    pub(super) fn suffixed(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let escaped = |text: &str| {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            text.replace('\n', "\\n")
        };
        let labels: Vec<String> = labels
            .iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(label, text)| format!("{label}=\"{}\"", escaped(text)))
            .collect();
        let labels = match labels.len() {
            0 => String::new(),
            _ => format!("{{{}}}", labels.join(",")),
        };
        let _ = writeln!(self.text, "{}{suffix}{labels} {value}", self.name);
    }
}

/// Nanoseconds as the seconds that the format wants.
pub(super) fn seconds(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}
