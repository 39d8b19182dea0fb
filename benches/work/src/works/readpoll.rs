//! `readpoll`: 4 KiB `O_DIRECT` reads, one at a time, polled for. Operation: one read.
//!
//! As `read1`, but by io_uring with `IORING_SETUP_IOPOLL`, through a queue of the disk that has no
//! interrupt (`virtio_blk.poll_queues=1` on the command line, and a disk with two queues). Costs a
//! notification to the host, and where somebody polls there too, nothing. The CPU does not sleep.

use super::bench::{in_phase, Bench, Failure, Measured};
use super::disk::Disk;
use crate::latency::Samples;
use crate::sys::memory::PAGE_BYTES;
use crate::sys::uring::PolledReader;
use coopvirt_spec::work::Work;
use std::fs;
use std::path::Path;

/// At scale 1.
const READS: u64 = 200;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Measured, Failure> {
    let disk = Disk::open(bench.disk())?;
    if !has_poll_queue(bench.disk()) {
        let name = bench.disk().display();
        return Err(Failure::Skip(format!(
            "{name} has no queue without interrupts (virtio_blk.poll_queues=1)"
        )));
    }
    let reads = bench.scaled(READS);
    let _pinned = bench.pin_first()?;
    let mut samples = Samples::with_room(reads);
    let mut blocks = disk.blocks.clone();
    let mut reader = disk
        .file
        .try_clone()
        .and_then(PolledReader::new)
        .map_err(|error| format!("cannot make a polled io_uring: {error}"))?;

    let ((), span) = bench.phase(Work::Readpoll, || {
        for _ in 0..reads {
            let block = blocks.next();
            // What an earlier read left behind must not pass the check.
            let (got, word) = samples
                .time(|| reader.read(block, !block))
                .map_err(in_phase("read"))?;
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

/// Without one the kernel takes such reads too, and waits for their interrupts.
fn has_poll_queue(disk: &Path) -> bool {
    let name = disk.file_name().unwrap_or_default();
    let setting = Path::new("/sys/class/block")
        .join(name)
        .join("queue/io_poll");
    fs::read_to_string(setting).is_ok_and(|text| text.trim() == "1")
}
