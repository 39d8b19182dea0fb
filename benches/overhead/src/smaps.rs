//! Resident memory of a process, without the mapping that is its guest's RAM.

use anyhow::{ensure, Context, Result};

/// Resident memory in KiB.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Resident {
    /// All of it, shared library pages included.
    pub(crate) total_kib: u64,
    /// What only this process has.
    pub(crate) private_kib: u64,
}

/// Sums all mappings of process `pid` smaller than `guest_bytes`; the others are guest memory.
pub(crate) fn resident(pid: u32, guest_bytes: u64) -> Result<Resident> {
    let path = format!("/proc/{pid}/smaps");
    let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
    let (sum, guests) = sum(&text, guest_bytes);
    ensure!(
        guests > 0,
        "no mapping of process {pid} is as large as the guest's memory"
    );
    Ok(sum)
}

fn sum(smaps: &str, guest_bytes: u64) -> (Resident, usize) {
    let mut sum = Resident::default();
    let mut is_guest = false;
    let mut guests = 0;
    for line in smaps.lines() {
        if let Some(bytes) = mapping_bytes(line) {
            is_guest = bytes >= guest_bytes;
            guests += usize::from(is_guest);
        } else if !is_guest {
            sum.total_kib += field(line, "Rss:");
            sum.private_kib += field(line, "Private_Clean:") + field(line, "Private_Dirty:");
        }
    }
    (sum, guests)
}

/// The size of the mapping that a line such as `7f00-7f10 rw-p ...` begins.
fn mapping_bytes(line: &str) -> Option<u64> {
    let (first, last) = line.split_once(' ')?.0.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    address(last)?.checked_sub(address(first)?)
}

fn field(line: &str, name: &str) -> u64 {
    line.strip_prefix(name)
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_is_left_out() {
        let text = "1000-3000 r-xp 0 0:0 0 /bin/x\nRss: 8 kB\nPrivate_Clean: 4 kB\n\
                    100000-8100000 rw-p 0 0:0 0\nRss: 99999 kB\nPrivate_Dirty: 99999 kB\n";
        let (resident, guests) = sum(text, 128 << 20);
        assert_eq!(
            resident,
            Resident {
                total_kib: 8,
                private_kib: 4
            }
        );
        assert_eq!(guests, 1);
    }
}
