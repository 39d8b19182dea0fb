//! The check of a disk that may be overwritten: random writes and reads from several threads, every
//! word verified, then zeroing and discarding.
//!
//! `runner` calls it before the works if the settings ask for it. It measures nothing. Each thread has
//! blocks of its own, so it knows what each must hold: words made from the block's number, the number of
//! times it was written and the word's place.

use crate::sys::block;
use crate::sys::memory::{Pages, PAGE_BYTES};
use serde_json::{json, Value};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;

const THREADS_PER_CPU: usize = 4;
/// Blocks of the longest request.
const MAX_BLOCKS: usize = 16;
/// A thread flushes the disk once in so many operations.
const FLUSH_EVERY: u64 = 64;
const BLOCK: u64 = PAGE_BYTES as u64;

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    writes: u64,
    reads: u64,
    flushes: u64,
}

/// Checks the disk with so many operations per thread. Returns the record and whether all was right.
pub(crate) fn run(path: &Path, operations: u64, nr_cpus: usize) -> (Value, bool) {
    let mut record = facts(path);
    record["type"] = json!("disk-check");
    let result = check(path, operations, nr_cpus);
    record["ok"] = json!(result.is_ok());
    match &result {
        Ok((done, threads)) => {
            record["threads"] = json!(threads);
            record["writes"] = json!(done.writes);
            record["reads"] = json!(done.reads);
            record["flushes"] = json!(done.flushes);
        }
        Err(error) => record["error"] = json!(error),
    }
    (record, result.is_ok())
}

/// What the kernel says of the disk.
fn facts(path: &Path) -> Value {
    let name = path.file_name().unwrap_or_default();
    let folder = Path::new("/sys/block").join(name);
    let text = |file: &str| {
        let read = fs::read_to_string(folder.join(file)).unwrap_or_default();
        read.trim().to_owned()
    };
    let number = |file: &str| text(file).parse::<u64>().unwrap_or(0);
    json!({
        "queues": fs::read_dir(folder.join("mq")).map_or(0, Iterator::count),
        "serial": text("serial"),
        "read_only": number("ro") == 1,
        "write_cache": text("queue/write_cache"),
        "physical_block_bytes": number("queue/physical_block_size"),
        "discard_max_bytes": number("queue/discard_max_bytes"),
        "write_zeroes_max_bytes": number("queue/write_zeroes_max_bytes"),
    })
}

fn check(path: &Path, operations: u64, nr_cpus: usize) -> Result<(Done, usize), String> {
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    let len_bytes = std::io::Seek::seek(&mut &disk, std::io::SeekFrom::End(0))
        .map_err(|error| format!("cannot find its size: {error}"))?;
    let threads = nr_cpus * THREADS_PER_CPU;
    let share = len_bytes / BLOCK / threads as u64;
    if share < MAX_BLOCKS as u64 {
        return Err(format!("{len_bytes} bytes are too few"));
    }
    let mut shares: Vec<Share> = (0..threads as u64)
        .map(|index| Share::new(&disk, index * share, share))
        .collect::<Result<_, String>>()?;
    let results: Vec<Result<Done, String>> = thread::scope(|scope| {
        let handles: Vec<_> = shares
            .iter_mut()
            .map(|share| scope.spawn(move || share.exercise(operations)))
            .collect();
        let ended = handles.into_iter().map(|handle| handle.join());
        ended
            .map(|result| result.unwrap_or_else(|_| Err("a thread panicked".to_owned())))
            .collect()
    });
    let mut sum = Done::default();
    for result in results {
        let done = result?;
        sum.writes += done.writes;
        sum.reads += done.reads;
        sum.flushes += done.flushes;
    }
    // The first share becomes zeros, the others are still whole; then the last one is discarded.
    let [first, others @ ..] = &mut *shares else {
        return Err("no share".to_owned());
    };
    block::zero(&disk, 0, share * BLOCK).map_err(|error| format!("cannot zero: {error}"))?;
    first.times.fill(0);
    first.verify_all()?;
    others.iter_mut().try_for_each(Share::verify_all)?;
    if facts(path)["discard_max_bytes"] != json!(0) {
        let offset = (threads as u64 - 1) * share * BLOCK;
        block::discard(&disk, offset, share * BLOCK)
            .map_err(|error| format!("cannot discard: {error}"))?;
        if let [rest @ .., _] = others {
            rest.iter_mut().try_for_each(Share::verify_all)?;
        }
    }
    Ok((sum, threads))
}

/// Blocks that belong to one thread.
struct Share<'d> {
    disk: &'d File,
    start: u64,
    /// How often each was written; what was never written here holds anything, what is zeroed 0.
    times: Vec<u32>,
    is_known: Vec<bool>,
    pages: Pages,
    dice: u64,
}

impl<'d> Share<'d> {
    fn new(disk: &'d File, start: u64, nr_blocks: u64) -> Result<Self, String> {
        let len = usize::try_from(nr_blocks).map_err(|error| error.to_string())?;
        Ok(Self {
            disk,
            start,
            times: vec![0; len],
            is_known: vec![false; len],
            pages: Pages::map_touched(MAX_BLOCKS)
                .map_err(|error| format!("cannot map a buffer: {error}"))?,
            dice: start ^ 0x636f_6f70,
        })
    }

    fn exercise(&mut self, operations: u64) -> Result<Done, String> {
        let mut done = Done::default();
        // First all of it, so that every block is known.
        for first in (0..self.times.len()).step_by(MAX_BLOCKS) {
            self.write(first, (self.times.len() - first).min(MAX_BLOCKS))?;
            done.writes += 1;
        }
        for operation in 0..operations {
            let count = 1 + self.below(MAX_BLOCKS);
            let first = self.below(self.times.len() - count + 1);
            if self.below(2) == 0 {
                self.write(first, count)?;
                done.writes += 1;
            } else {
                self.verify(first, count)?;
                done.reads += 1;
            }
            if operation % FLUSH_EVERY == FLUSH_EVERY - 1 {
                let flushed = self.disk.sync_data();
                flushed.map_err(|error| format!("cannot flush: {error}"))?;
                done.flushes += 1;
            }
        }
        self.verify_all()?;
        Ok(done)
    }

    fn write(&mut self, first: usize, count: usize) -> Result<(), String> {
        for index in 0..count {
            self.times[first + index] += 1;
            self.is_known[first + index] = true;
        }
        let (start, times) = (self.start + first as u64, &self.times[first..]);
        let bytes = self.pages.first_bytes_mut(count);
        for (index, page) in bytes.chunks_exact_mut(PAGE_BYTES).enumerate() {
            let words = page.chunks_exact_mut(8).zip(0..);
            for (word, place) in words {
                let value = expected(start + index as u64, times[index], place);
                word.copy_from_slice(&value.to_le_bytes());
            }
        }
        self.disk
            .write_all_at(bytes, start * BLOCK)
            .map_err(|error| format!("cannot write {count} blocks at {start}: {error}"))
    }

    fn verify_all(&mut self) -> Result<(), String> {
        (0..self.times.len())
            .step_by(MAX_BLOCKS)
            .try_for_each(|first| {
                let count = (self.times.len() - first).min(MAX_BLOCKS);
                self.verify(first, count)
            })
    }

    fn verify(&mut self, first: usize, count: usize) -> Result<(), String> {
        let start = self.start + first as u64;
        let bytes = self.pages.first_bytes_mut(count);
        // What an earlier read left behind must not pass.
        bytes.fill(0xee);
        self.disk
            .read_exact_at(bytes, start * BLOCK)
            .map_err(|error| format!("cannot read {count} blocks at {start}: {error}"))?;
        for (index, page) in bytes.chunks_exact(PAGE_BYTES).enumerate() {
            if !self.is_known[first + index] {
                continue;
            }
            let (block, times) = (start + index as u64, self.times[first + index]);
            for (word, place) in page.chunks_exact(8).zip(0..) {
                let wanted = expected(block, times, place).to_le_bytes();
                if word != wanted {
                    return Err(format!(
                        "block {block}, written {times} times, word {place}: {word:02x?}, not {wanted:02x?}"
                    ));
                }
            }
        }
        Ok(())
    }

    fn below(&mut self, end: usize) -> usize {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        usize::try_from(mix(self.dice) % end as u64).unwrap_or(0)
    }
}

/// The word at `place` of a block that was written so often.
fn expected(block: u64, times: u32, place: u64) -> u64 {
    if times == 0 {
        return 0;
    }
    mix(block << 32 ^ u64::from(times) << 12 ^ place)
}

/// The last steps of splitmix64.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
