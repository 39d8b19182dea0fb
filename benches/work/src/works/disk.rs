//! The disk that `read1` and `read32` read: opening it, what it should hold, which blocks to read.
//!
//! The host makes the disk so that block number `n` (of 4 KiB) begins with `n` as a little-endian
//! u64. A disk without that pattern can be read too, but then only lengths are checked.

use super::bench::Failure;
use crate::sys::memory::{Pages, PAGE_BYTES};
use crate::sys::time;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// For a disk whose driver is still starting.
const DISK_TIMEOUT: Duration = Duration::from_secs(2);
const DISK_RETRY: Duration = Duration::from_millis(10);

/// A disk opened past the guest's page cache.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) file: File,
    pub(super) blocks: Blocks,
    has_pattern: bool,
}

impl Disk {
    /// Waits for the disk to appear and looks at its first two blocks.
    pub(super) fn open(path: &Path) -> Result<Disk, Failure> {
        let name = path.display();
        let mut file = wait_for(path)?;
        let len = file
            .seek(SeekFrom::End(0))
            .map_err(|error| format!("cannot find the size of {name}: {error}"))?;
        let nr_blocks = len / PAGE_BYTES as u64;
        if nr_blocks < 2 {
            return Err(Failure::Skip(format!("{name} holds only {len} bytes")));
        }
        let mut page =
            Pages::map_touched(1).map_err(|error| format!("cannot map a buffer: {error}"))?;
        let mut first_words = [0; 2];
        for (block, word) in (0..).zip(&mut first_words) {
            let got = file
                .read_at(page.bytes_mut(0), block * PAGE_BYTES as u64)
                .map_err(|error| format!("cannot read block {block} of {name}: {error}"))?;
            if got != PAGE_BYTES {
                return Err(Failure::Error(format!(
                    "block {block} of {name} has {got} bytes"
                )));
            }
            *word = u64::from_le(page.word(0).load(Ordering::Relaxed));
        }
        Ok(Disk {
            file,
            blocks: Blocks::new(nr_blocks),
            has_pattern: first_words == [0, 1],
        })
    }

    /// Whether block `block` may begin with this word.
    #[inline]
    pub(super) fn accepts(&self, block: u64, word: u64) -> bool {
        !self.has_pattern || u64::from_le(word) == block
    }

    /// What a reader of the record has to know about the check.
    pub(super) fn note(&self) -> Option<String> {
        (!self.has_pattern).then(|| "pattern absent, only read lengths were checked".to_string())
    }
}

/// Block numbers that look random and are the same in each run (a splitmix64 sequence).
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    nr_blocks: u64,
    state: u64,
}

impl Blocks {
    fn new(nr_blocks: u64) -> Blocks {
        Blocks {
            nr_blocks: nr_blocks.max(1),
            state: 0x636f_6f70,
        }
    }

    /// The next block to read.
    #[inline]
    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % self.nr_blocks
    }
}

fn wait_for(path: &Path) -> Result<File, Failure> {
    let name = path.display();
    let start_ns = time::read_clock_ns();
    loop {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(path);
        let error = match opened {
            Ok(file) => return Ok(file),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                return Err(Failure::Skip(format!("{name} has no O_DIRECT")));
            }
            Err(error) => error,
        };
        // The driver makes the node, or answers ENXIO, before the disk is ready.
        let may_come =
            error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENXIO);
        if !may_come {
            return Err(Failure::Error(format!("cannot open {name}: {error}")));
        }
        let waited = Duration::from_nanos(time::read_clock_ns().saturating_sub(start_ns));
        if waited > DISK_TIMEOUT {
            return Err(Failure::Skip(format!("no {name} after {DISK_TIMEOUT:?}")));
        }
        time::sleep(DISK_RETRY).map_err(|error| format!("cannot wait for {name}: {error}"))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_stay_on_the_disk_and_repeat_in_each_run() {
        let mut blocks = Blocks::new(100);
        let mut again = blocks.clone();
        let numbers: Vec<u64> = (0..1000).map(|_| blocks.next()).collect();
        assert!(numbers.iter().all(|&number| number < 100));
        assert!(numbers.iter().all(|&number| number == again.next()));
        assert!((0..100).all(|number| numbers.contains(&number)));
    }
}
