//! The rates as CSV (RFC 4180): one row per counter that is not zero.

use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

use super::watch::Watched;

/// The first line. `seconds` is the interval: `per_second` times it is what `total` grew by.
pub(super) const HEADER: &str = "time,seconds,pid,vcpu,group,name,total,per_second";

/// The rows of a machine's last interval, if it has had one.
pub(super) fn rows(watched: &Watched) -> String {
    let mut text = String::new();
    let (Some(sample), Some(rates)) = (&watched.sample, &watched.rates) else {
        return text;
    };
    let time = sample.time.duration_since(UNIX_EPOCH);
    let time = time.map_or(0.0, |time| time.as_secs_f64());
    for (key, (total, rate)) in rates.all.iter().filter(|(_, (total, _))| *total > 0) {
        let vcpu = key.vcpu.map(|vcpu| vcpu.to_string()).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{time:.3},{:.6},{},{vcpu},{},{},{total},{rate:.6}",
            rates.seconds,
            watched.state.pid,
            key.group.name(),
            quoted(&key.name),
        );
    }
    text
}

/// A machine says what it likes.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_commas_and_quotes_are_quoted() {
        assert_eq!(quoted("OUT 0x3f8"), "OUT 0x3f8");
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
