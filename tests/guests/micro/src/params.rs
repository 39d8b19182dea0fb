//! The command line: which tests, and their parameters. Words are `name=value`; the last one counts.

use crate::boot_info;

/// A parameter's value.
pub fn text(name: &str) -> Option<&'static str> {
    let words = boot_info::cmdline().split_ascii_whitespace();
    let mut values = words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    values.next_back()
}

/// A parameter that is a decimal number; panics if it is anything else.
pub fn number(name: &str) -> Option<u64> {
    let value = text(name)?;
    let Ok(number) = value.parse() else {
        panic!("parameter {name} is no number: {value}");
    };
    Some(number)
}
