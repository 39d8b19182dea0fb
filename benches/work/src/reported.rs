//! How much of the guest's free memory its kernel has reported to the host.
//!
//! Linux marks a free block that it has reported, and `/proc/kpageflags` shows the mark. Whoever
//! reports (a balloon's driver or our module), this says when it is done; whether the host took the
//! memory is for the host to say. Called by `refill`, never between marks.

use crate::sys::time;
use crate::works::Failure;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

const FLAGS: &str = "/proc/kpageflags";
/// Linux reports blocks of this many pages and larger ones.
const BLOCK_PAGES: usize = 512;
const ENTRY_BYTES: usize = 8;
/// The page is free; on the first page of a free block "up to date" means reported.
const BUDDY: u64 = 1 << 10;
const UP_TO_DATE: u64 = 1 << 3;

/// So much of the free memory must have been reported, in percent.
const ENOUGH_PERCENT: usize = 95;
/// Linux looks every two seconds; if it has reported nothing by then, it never will.
const FIRST_REPORT: Duration = Duration::from_secs(12);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Free blocks, and those of them that have been reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Blocks {
    free: usize,
    reported: usize,
}

impl Blocks {
    fn is_enough(self) -> bool {
        self.free > 0 && self.reported * 100 >= self.free * ENOUGH_PERCENT
    }
}

/// Waits until nearly all free memory has been reported; says how much that is.
pub(crate) fn wait_for_all(longest: Duration) -> Result<String, Failure> {
    let flags = File::open(FLAGS).map_err(|error| format!("cannot open {FLAGS}: {error}"))?;
    let start_ns = time::read_clock_ns();
    loop {
        let blocks = read(&flags).map_err(|error| format!("cannot read {FLAGS}: {error}"))?;
        let Blocks { free, reported } = blocks;
        let waited = Duration::from_nanos(time::read_clock_ns().saturating_sub(start_ns));
        if blocks.is_enough() {
            let seconds = waited.as_secs();
            return Ok(format!(
                "{reported} of {free} free blocks reported after {seconds} s"
            ));
        }
        if reported == 0 && waited > FIRST_REPORT {
            return Err(Failure::Skip(
                "nobody reports free memory to the host".to_string(),
            ));
        }
        if waited > longest {
            return Err(Failure::Skip(format!(
                "only {reported} of {free} free blocks were reported within {longest:?}"
            )));
        }
        time::sleep(LOOK_EVERY).map_err(|error| format!("cannot wait: {error}"))?;
    }
}

fn read(flags: &File) -> io::Result<Blocks> {
    let mut blocks = Blocks::default();
    let mut bytes = [0u8; BLOCK_PAGES * ENTRY_BYTES];
    let mut offset = 0u64;
    // A block of twice the size has one mark, on its first page.
    let mut is_pair_reported = false;
    for number in 0u64.. {
        let got = flags.read_at(&mut bytes, offset)?;
        let Some(whole) = bytes.get(..got).filter(|whole| whole.len() == bytes.len()) else {
            break;
        };
        offset += got as u64;
        let is_second = number % 2 == 1;
        let (is_free, is_marked) = look(whole);
        let is_reported = is_free && (is_marked || (is_second && is_pair_reported));
        is_pair_reported = !is_second && is_free && is_marked;
        blocks.free += usize::from(is_free);
        blocks.reported += usize::from(is_reported);
    }
    Ok(blocks)
}

/// Whether all pages of a block are free, and whether its first one bears the mark.
fn look(entries: &[u8]) -> (bool, bool) {
    let mut flags = entries
        .chunks_exact(ENTRY_BYTES)
        .map(|entry| u64::from_ne_bytes(entry.try_into().unwrap_or_default()));
    let first = flags.next().unwrap_or(0);
    let is_free = first & BUDDY != 0 && flags.all(|flags| flags & BUDDY != 0);
    (is_free, first & UP_TO_DATE != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A file of blocks, each given by its first page's flags and all others'.
    fn flags_of(name: &str, blocks: &[(u64, u64)]) -> Blocks {
        let path = std::env::temp_dir().join(format!("flags-{name}-{}", std::process::id()));
        let mut file = File::create(&path).unwrap();
        for &(first, rest) in blocks {
            file.write_all(&first.to_ne_bytes()).unwrap();
            for _ in 1..BLOCK_PAGES {
                file.write_all(&rest.to_ne_bytes()).unwrap();
            }
        }
        file.write_all(&[0xff; 24]).unwrap();
        let blocks = read(&File::open(&path).unwrap()).unwrap();
        std::fs::remove_file(path).unwrap();
        blocks
    }

    #[test]
    fn a_mark_counts_for_its_block_and_for_the_second_half_of_a_pair() {
        let marked = (BUDDY | UP_TO_DATE, BUDDY);
        let free = (BUDDY, BUDDY);
        let used = (UP_TO_DATE, UP_TO_DATE);
        let partly = (BUDDY | UP_TO_DATE, 0);
        let blocks = flags_of(
            "pairs",
            &[marked, free, free, marked, used, free, partly, free],
        );
        // The pair, the second half of the next one, and neither of what follows.
        assert_eq!(
            blocks,
            Blocks {
                free: 6,
                reported: 3
            }
        );
    }

    #[test]
    fn nothing_free_is_never_enough() {
        assert!(!flags_of("none", &[]).is_enough());
        let blocks = |free, reported| Blocks { free, reported };
        assert!(blocks(100, 95).is_enough());
        assert!(!blocks(100, 94).is_enough());
    }
}
