//! Colours and patterns: every series has both, so that neither eyes nor a printer need colour.
//!
//! The colours are those of Okabe and Ito, "Color Universal Design" (2008). Patterns are defined once
//! for the whole page, and [`fill`] refers to them.

use std::fmt::Write;

/// Colour, the pattern's strokes over it, and the ink of words in it.
const SERIES: [(&str, &str, &str); NR_SERIES] = [
    ("#0072b2", "", "#fff"),
    ("#e69f00", "M-2,2L2,-2M0,8L8,0M6,10L10,6", "#000"),
    ("#009e73", "M0,4H8", "#fff"),
    ("#cc79a7", "M4,0V8", "#000"),
    ("#56b4e9", "M-2,6L2,10M0,0L8,8M6,-2L10,2", "#000"),
    ("#d55e00", "M2,2h2v2h-2z", "#fff"),
    ("#f0e442", "M0,4H8M4,0V8", "#000"),
    ("#9aa0a6", "", "#000"),
];
/// How many series can be told apart; the last is for all others.
pub(super) const NR_SERIES: usize = 8;
/// Dashes of lines, one for each series.
const DASHES: [&str; NR_SERIES] = [
    "none", "7 3", "2 3", "9 3 2 3", "12 4", "4 2 1 2", "1 2", "5 5",
];
/// Less is blue, more is vermilion: the pair that most eyes tell apart.
pub(super) const FEWER: usize = 0;
/// See [`FEWER`].
pub(super) const MORE: usize = 5;

/// The pattern definitions, once for each page.
pub(super) fn definitions() -> String {
    let mut svg = String::from("<svg class=\"defs\" aria-hidden=\"true\"><defs>\n");
    for (index, (colour, strokes, _)) in SERIES.iter().enumerate() {
        let _ = writeln!(
            svg,
            "<pattern id=\"p{index}\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\">\
             <rect width=\"8\" height=\"8\" fill=\"{colour}\"/>\
             <path d=\"{strokes}\" stroke=\"#fff\" stroke-opacity=\".75\" stroke-width=\"1.5\" fill=\"none\"/>\
             </pattern>"
        );
    }
    svg + "</defs></svg>\n"
}

/// The fill of a series; those beyond the last share its.
pub(super) fn fill(series: usize) -> String {
    format!("url(#p{})", series.min(NR_SERIES - 1))
}

/// The line of a series: colour and dashes.
pub(super) fn line(series: usize) -> (&'static str, &'static str) {
    let index = series % NR_SERIES;
    (SERIES[index].0, DASHES[index])
}

/// The ink of words inside a series' fill.
pub(super) fn words(series: usize) -> &'static str {
    SERIES[series.min(NR_SERIES - 1)].2
}

/// A small picture of a series for a key.
pub(super) fn swatch(series: usize) -> String {
    let fill = fill(series);
    format!(
        "<svg width=\"18\" height=\"12\" aria-hidden=\"true\"><rect width=\"18\" height=\"12\" fill=\"{fill}\"/></svg>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_series_has_its_own_looks() {
        let definitions = definitions();
        for series in 0..NR_SERIES {
            assert!(definitions.contains(&format!("id=\"p{series}\"")));
        }
        assert_eq!(fill(99), fill(NR_SERIES - 1));
        for series in 1..NR_SERIES {
            assert_ne!(line(series), line(series - 1));
        }
    }
}
