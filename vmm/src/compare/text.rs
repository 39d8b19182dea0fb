//! Figures and times as people read them. Pure; used by [`super::table`] and [`super::html`].

/// Three significant digits, more only left of the point: "0.123", "4.57", "12.3", "95,123".
pub fn number(value: f64) -> String {
    let magnitude = value.abs();
    if !value.is_finite() {
        return "-".into();
    }
    match magnitude {
        0.0 => "0".into(),
        m if m < 0.0005 => "<0.001".into(),
        m if m < 0.9995 => format!("{value:.3}"),
        m if m < 9.995 => format!("{value:.2}"),
        m if m < 99.95 => format!("{value:.1}"),
        _ => grouped(&format!("{value:.0}")),
    }
}

fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        let right = digits.len() - index;
        if index > 0 && right.is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time with its unit: "12.3 µs".
pub fn time(ns: f64) -> String {
    let (value, unit) = match ns.abs() {
        t if t < 1e3 => (ns, "ns"),
        t if t < 1e6 => (ns / 1e3, "µs"),
        t if t < 1e9 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    format!("{} {unit}", number(value))
}

/// A probability: "0.029", "<0.001".
pub fn probability(p: f64) -> String {
    match p < 0.001 {
        true => "<0.001".into(),
        false => format!("{p:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let cases = [
            (0.0, "0"),
            (0.0001, "<0.001"),
            (0.1234, "0.123"),
            (0.9999, "1.00"),
            (4.567, "4.57"),
            (12.34, "12.3"),
            (99.99, "100"),
            (999.6, "1,000"),
            (95123.4, "95,123"),
            (1_234_567.0, "1,234,567"),
            (f64::INFINITY, "-"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!(time(12_345.0), "12.3 µs");
        assert_eq!(time(7.2e9), "7.20 s");
        assert_eq!(probability(0.0286), "0.029");
    }
}
