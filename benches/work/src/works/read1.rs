//! `read1`: 4 KiB `O_DIRECT` reads, one at a time. Operation: one read.
//!
//! Costs a notification to the host, an interrupt back, and a CPU that sleeps in between.

use super::bench::{in_phase, Bench, Failure, Measured};
use super::disk::Disk;
use crate::latency::Samples;
use crate::sys::memory::{Pages, PAGE_BYTES};
use coopvirt_spec::work::Work;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

/// At scale 1.
const READS: u64 = 200;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Measured, Failure> {
    let disk = Disk::open(bench.disk())?;
    let reads = bench.scaled(READS);
    let _pinned = bench.pin_first()?;
    let mut samples = Samples::with_room(reads);
    let mut blocks = disk.blocks.clone();
    let mut page =
        Pages::map_touched(1).map_err(|error| format!("cannot map a buffer: {error}"))?;

    let ((), span) = bench.phase(Work::Read1, || {
        for _ in 0..reads {
            let block = blocks.next();
            // What an earlier read left behind must not pass the check.
            page.word(0).store(!block, Ordering::Relaxed);
            let got = samples
                .time(|| {
                    disk.file
                        .read_at(page.bytes_mut(0), block * PAGE_BYTES as u64)
                })
                .map_err(in_phase("read"))?;
            let word = page.word(0).load(Ordering::Relaxed);
            if got != PAGE_BYTES || !disk.accepts(block, word) {
                return Err(format!("block {block}: {got} bytes, first word {word:#x}"));
            }
        }
        Ok(())
    })?;
    Ok(Measured {
        note: disk.note(),
        ..Measured::with_samples(reads, span, samples)
    })
}
