//! `read32`: 4 KiB `O_DIRECT` reads, 32 in flight. Operation: one read.
//!
//! Costs fewer notifications and interrupts per read than `read1`, if driver and host batch them.
//! Each completion is answered by the next read. Latency is from submission to completion.

use super::bench::{in_phase, Bench, Failure, Measured};
use super::disk::{Blocks, Disk};
use crate::latency::Samples;
use crate::sys::aio::Reader;
use crate::sys::memory::PAGE_BYTES;
use crate::sys::time::read_tsc;
use coopvirt_spec::work::Work;

/// At scale 1.
const READS: u64 = 512;
const IN_FLIGHT: usize = 32;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Measured, Failure> {
    let disk = Disk::open(bench.disk())?;
    let reads = bench.scaled(READS);
    let _pinned = bench.pin_first()?;
    let mut samples = Samples::with_room(reads);
    let mut queue = Queue::new(&disk)?;

    let phase = bench.phase(Work::Read32, || queue.read_all(reads, &disk, &mut samples));

    let ((), span) = phase?;
    Ok(Measured {
        note: disk.note(),
        ..Measured::with_samples(reads, span, samples)
    })
}

/// What each slot is reading, since when.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    block: u64,
    start_ticks: u64,
}

struct Queue {
    reader: Reader,
    blocks: Blocks,
    slots: [Slot; IN_FLIGHT],
    /// Slots that have nothing to do, room for all.
    free: Vec<usize>,
}

impl Queue {
    fn new(disk: &Disk) -> Result<Queue, Failure> {
        let file = disk
            .file
            .try_clone()
            .map_err(|error| format!("cannot share the disk: {error}"))?;
        let reader = Reader::new(file, IN_FLIGHT)
            .map_err(|error| format!("cannot make an AIO context: {error}"))?;
        Ok(Queue {
            reader,
            blocks: disk.blocks.clone(),
            slots: [Slot::default(); IN_FLIGHT],
            free: (0..IN_FLIGHT).collect(),
        })
    }

    fn read_all(&mut self, reads: u64, disk: &Disk, samples: &mut Samples) -> Result<(), String> {
        let mut to_start = reads;
        while to_start != 0 || self.reader.in_flight() != 0 {
            while to_start != 0 {
                let Some(slot) = self.free.pop() else { break };
                self.start(slot)?;
                to_start -= 1;
            }
            self.reader.submit().map_err(in_phase("submit reads"))?;
            self.finish_some(disk, samples)?;
        }
        Ok(())
    }

    fn start(&mut self, slot: usize) -> Result<(), String> {
        let block = self.blocks.next();
        if let Some(state) = self.slots.get_mut(slot) {
            *state = Slot {
                block,
                start_ticks: read_tsc(),
            };
        }
        // What an earlier read left behind must not pass the check.
        self.reader
            .queue(slot, block, !block)
            .map_err(in_phase("queue a read"))
    }

    fn finish_some(&mut self, disk: &Disk, samples: &mut Samples) -> Result<(), String> {
        let Queue {
            reader,
            slots,
            free,
            ..
        } = self;
        let mut result = Ok(());
        reader
            .wait(|index, got, word| {
                let Some(slot) = slots.get(index) else { return };
                samples.add(read_tsc().saturating_sub(slot.start_ticks));
                free.push(index);
                if got != PAGE_BYTES as i64 || !disk.accepts(slot.block, word) {
                    let block = slot.block;
                    result = Err(format!("block {block}: result {got}, first word {word:#x}"));
                }
            })
            .map_err(in_phase("wait for reads"))?;
        result
    }
}
