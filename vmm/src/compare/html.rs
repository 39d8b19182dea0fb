//! The report as one self-contained page.
use super::model::Report;

/// Renders the page.
pub fn render(_report: &Report) -> String {
    String::new()
}
