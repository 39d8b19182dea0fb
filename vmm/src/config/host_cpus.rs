//! Whether threads can run on the host CPUs that they are to be pinned to.
//!
//! A thread that cannot be pinned runs elsewhere, and whoever measures would not know; so it is found out
//! before there is a machine.

use super::ConfigError;
use crate::vcpu::pin::usable_cpus;

/// Checks every CPU that an option names.
pub(super) fn check(option: &'static str, named: &[usize]) -> Result<(), ConfigError> {
    if named.is_empty() {
        return Ok(());
    }
    // Where the kernel does not say, the threads themselves find out.
    let Ok(usable) = usable_cpus() else {
        return Ok(());
    };
    find_missing(option, named, &usable)
}

fn find_missing(
    option: &'static str,
    named: &[usize],
    usable: &[usize],
) -> Result<(), ConfigError> {
    match named.iter().find(|cpu| !usable.contains(cpu)) {
        None => Ok(()),
        Some(&cpu) => Err(ConfigError::HostCpu {
            option,
            cpu,
            usable: list(usable),
        }),
    }
}

/// As the options take it: `0-2,4`. From CPUs in ascending order.
fn list(cpus: &[usize]) -> String {
    let ranges = cpus.chunk_by(|&before, &cpu| before + 1 == cpu);
    let range = |range: &[usize]| match range {
        [first, .., last] => format!("{first}-{last}"),
        _ => range.iter().map(ToString::to_string).collect(),
    };
    ranges.map(range).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_is_not_there_is_named_with_those_that_are() {
        assert_eq!(find_missing("--pin", &[0, 4, 0], &[0, 1, 2, 4]), Ok(()));
        let error = find_missing("--pin", &[0, 3], &[0, 1, 2, 4]).unwrap_err();
        let says = "--pin: host CPU 3 is not usable here; usable: 0-2,4";
        assert_eq!(error.to_string(), says);
    }
}
