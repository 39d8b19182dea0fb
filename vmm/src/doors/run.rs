//! Runs the guest on both machines, each once for counts and once for times, and makes the rows.

use std::time::Duration;

use coopvirt_spec::mark::MarkKind;
use serde::Serialize;
use vm_memory::{Bytes, GuestAddress};

use super::figures::{self, Overhead, Samples, Time};
use super::guest::{self, Parameters};
use super::table::{self, Door, Machine as Place};
use crate::account::backend::Backend;
use crate::accounting::host_kernel;
use crate::code_guest::{self, Tracing};
use crate::config::{MachineConfig, Mode};
use crate::coop::{CoopOptions, SidecoreOptions, SidecorePolicy};
use crate::machine::BuildError;
use crate::stop::StopReason;
use crate::validate::kinds::is_own;

/// Blocks that are timed: enough that the 99th percentile is no extreme.
const BLOCKS: u64 = 200;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Iterations for the counts.
    pub count: u64,
    /// Shortest time for the timed blocks of one door together.
    pub duration: Duration,
    /// Longest time for one run of the guest.
    pub limit: Duration,
    /// Host CPUs for the vCPU and for all other threads; empty: no pinning.
    pub pin: Vec<usize>,
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum DoorsError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("could not read what the guest wrote down")]
    Memory(#[from] vm_memory::GuestMemoryError),
    #[error("the guest did not finish within {limit:?}; it was at {door:?}")]
    Timeout {
        limit: Duration,
        door: Option<&'static str>,
    },
    #[error("the guest was refused the interface, or a call did not end well")]
    Refused,
    #[error("the guest ended early: {0}")]
    Ended(StopReason),
    #[error("what tracing costs cannot be measured without tracing: {0}")]
    NotTraced(String),
}

/// What one door costs, per operation.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The door.
    pub name: &'static str,
    /// Operations that go through it together.
    pub batch: u32,
    /// Why it was not measured, if so.
    pub not_measured: Option<String>,
    /// Exits of the guest's own doing, interrupts of the host left out; `None`: not traced.
    pub exits: Option<f64>,
    /// Returns to userspace.
    pub userspace_exits: Option<f64>,
    /// How long it takes.
    pub time: Option<Time>,
    /// Returns to userspace in the run that was timed: what a polled door's time depends on, because
    /// it rings where no lease is held.
    pub timed_userspace_exits: Option<f64>,
}

/// All doors.
#[derive(Clone, Debug, Serialize)]
pub struct DoorsReport {
    /// What ran the guest.
    pub backend: Backend,
    /// The host's kernel release.
    pub kernel: String,
    /// The guest's TSC frequency, from its CPUID.
    pub tsc_khz: u32,
    /// Cycles of one empty iteration, which are subtracted.
    pub empty_loop_cycles: f64,
    /// Iterations of each door for the counts.
    pub count: u64,
    /// Why exits were not counted, if so.
    pub not_traced: Option<String>,
    /// One for each door.
    pub rows: Vec<Row>,
}

/// Measures all doors.
pub fn run(options: &Options) -> Result<DoorsReport, DoorsError> {
    let mut report = DoorsReport {
        backend: Backend::probe(),
        kernel: host_kernel(),
        tsc_khz: 0,
        empty_loop_cycles: 0.0,
        count: options.count,
        not_traced: None,
        rows: Vec::new(),
    };
    for place in [Place::Quiet, Place::Polled] {
        let counted = go(options, place, Pass::Count, Tracing::On)?;
        // Tracing has a cost of its own at each exit.
        let timed = go(options, place, Pass::Time, Tracing::Off)?;
        let empty = timed.samples(table::EMPTY)?.map(|s| s.median_cycles());
        if place == Place::Quiet {
            report.tsc_khz = timed.tsc_khz()?;
            report.empty_loop_cycles = empty.unwrap_or(0.0);
            report.not_traced.clone_from(&counted.0.report.not_traced);
        }
        for door in table::ALL.iter().filter(|door| door.machine == place) {
            let mut row = Row {
                name: door.name,
                batch: door.batch,
                not_measured: door.obstacle(),
                exits: None,
                userspace_exits: None,
                time: None,
                timed_userspace_exits: None,
            };
            if row.not_measured.is_none() {
                let operations = figures::to_f64(options.count) * f64::from(door.batch);
                row.exits = counted.exits(door).map(|n| figures::to_f64(n) / operations);
                row.userspace_exits = counted
                    .returns(door)
                    .map(|n| figures::to_f64(n) / operations);
                row.time = time_of(&timed, door)?;
                let timed_operations = row.time.map(|time| {
                    let blocks = figures::to_f64(BLOCKS);
                    figures::to_f64(time.iterations) * blocks * f64::from(door.batch)
                });
                row.timed_userspace_exits = timed
                    .returns(door)
                    .zip(timed_operations)
                    .map(|(n, operations)| figures::to_f64(n) / operations);
            }
            report.rows.push(row);
        }
    }
    Ok(report)
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// A known number of iterations.
    Count,
    /// As many iterations as fill the time.
    Time,
}

/// What is left of one run of the guest.
pub(super) struct Finished(code_guest::Finished);

/// How long one operation of a door took, less the empty loop of the same run.
pub(super) fn time_of(timed: &Finished, door: &Door) -> Result<Option<Time>, DoorsError> {
    let empty = timed.samples(table::EMPTY)?.map(|s| s.median_cycles());
    let overhead = Overhead {
        cycles: empty.unwrap_or(0.0) + figures::to_f64(door.waits_cycles),
        batch: door.batch,
        tsc_khz: timed.tsc_khz()?,
    };
    let samples = timed.samples(*door)?;
    Ok(samples.and_then(|samples| figures::time(&samples, overhead)))
}

pub(super) fn go(
    options: &Options,
    place: Place,
    pass: Pass,
    tracing: Tracing,
) -> Result<Finished, DoorsError> {
    let config = config(options, place, pass);
    let run = code_guest::run(&config, options.limit, tracing)?;
    match run.reason {
        None => {
            let work = run.entries.last().map(|entry| entry.mark.work);
            let at = |door: &Door| work == work_of(door);
            let (limit, door) = (options.limit, table::on(place).find(at));
            let door = door.map(|door| door.name);
            return Err(DoorsError::Timeout { limit, door });
        }
        Some(StopReason::GuestExit(0)) => {}
        Some(StopReason::GuestExit(guest::REFUSED)) => return Err(DoorsError::Refused),
        Some(reason) => return Err(DoorsError::Ended(reason)),
    }
    Ok(Finished(run))
}

fn work_of(door: &Door) -> Option<u8> {
    door.index.map(|index| guest::FIRST_WORK + index)
}

impl Finished {
    /// An error unless its exits were traced to the end.
    pub(super) fn must_be_traced(&self) -> Result<(), DoorsError> {
        match &self.0.report.not_traced {
            None => Ok(()),
            Some(why) => Err(DoorsError::NotTraced(why.clone())),
        }
    }

    /// Exits between the door's marks, less the host's interrupts.
    fn exits(&self, door: &Door) -> Option<u64> {
        let work = work_of(door)?;
        let phases = &self.0.trace.as_ref()?.phases;
        let phase = phases.iter().find(|phase| phase.work == work)?;
        Some(code_guest::own_exits(&phase.counts))
    }

    /// Returns to userspace between the door's marks, less those of the marks and of signals.
    fn returns(&self, door: &Door) -> Option<u64> {
        let work = work_of(door)?;
        let total = |kind| {
            let mut entries = self.0.entries.iter();
            let entry = entries.find(|entry| entry.mark.work == work && entry.mark.kind == kind)?;
            let counted = entry.returns.iter().filter(|(kind, _)| !is_own(**kind));
            Some(counted.map(|(_, count)| count).sum::<u64>())
        };
        total(MarkKind::End)?.checked_sub(total(MarkKind::Begin)?)
    }

    fn tsc_khz(&self) -> Result<u32, DoorsError> {
        Ok(self.0.ram.read_obj(GuestAddress(guest::FACTS))?)
    }

    /// What the guest wrote down; `None` if it did not come to the end of this door.
    fn samples(&self, door: Door) -> Result<Option<Samples>, DoorsError> {
        let Some(index) = door.index else {
            return Ok(None);
        };
        let page = guest::RESULTS + u64::from(index) * guest::RESULT_BYTES;
        let word = |offset| self.0.ram.read_obj::<u64>(GuestAddress(page + offset));
        if word(8)? != 1 {
            return Ok(None);
        }
        let blocks = (0..BLOCKS).map(|block| word(guest::SAMPLES_OFFSET + block * 8));
        Ok(Some(Samples {
            iterations: word(0)?,
            block_cycles: blocks.collect::<Result<_, _>>()?,
        }))
    }
}

fn config(options: &Options, place: Place, pass: Pass) -> MachineConfig {
    let policy = match place {
        Place::Quiet => SidecorePolicy::Off,
        Place::Polled => SidecorePolicy::Always,
    };
    let parameters = parameters(options, place, pass);
    let bytes = guest::MEMORY_BYTES;
    let mut config = code_guest::machine(guest::code(), parameters.to_bytes(), bytes, &options.pin);
    config.backing.prefault = true;
    config.mode = Mode::Coop;
    config.coop = CoopOptions {
        features: place.features(),
        sidecore: SidecoreOptions {
            policy,
            host_cpu: None,
        },
    };
    config
}

fn parameters(options: &Options, place: Place, pass: Pass) -> Parameters {
    let doors = table::on(place).filter_map(|door| door.index);
    let doors = doors.fold(0, |doors, index| doors | 1 << index);
    let features = place.features().0;
    let (iterations, blocks, block_cycles) = match pass {
        Pass::Count => (options.count, 1, 0),
        Pass::Time => (1, BLOCKS, block_cycles(options.duration)),
    };
    Parameters {
        is_amd: code_guest::is_amd(),
        iterations,
        block_cycles,
        blocks,
        doors,
        features,
    }
}

/// How long a block has to take, in cycles of the TSC that a new VM sees.
fn block_cycles(duration: Duration) -> u64 {
    // Where it cannot be read the machine cannot be built either, which says why.
    let tsc_khz = crate::compare::host::tsc_khz().unwrap_or(1_000_000);
    let block_ns = duration.as_nanos() / u128::from(BLOCKS);
    u64::try_from(block_ns * u128::from(tsc_khz) / 1_000_000).unwrap_or(u64::MAX)
}
