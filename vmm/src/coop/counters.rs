//! What the host half has done, over all vCPUs: for the exit report and for tests.
//!
//! Written with relaxed order by whoever serves; read at the end. Names come from the spec's table
//! of operations and counters.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coopvirt_spec::code::Status;
use coopvirt_spec::counter::{HostCounter, GUEST_COUNTERS, HOST_COUNTERS};
use coopvirt_spec::op::{self, Opcode};
use serde::{Deserialize, Serialize};

macro_rules! events {
    ($($(#[doc = $doc:literal])+ $Event:ident = $name:literal,)+) => {
        /// Something that the host counts for itself, beside what the spec names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $($(#[doc = $doc])+ $Event,)+
        }

        const EVENTS: &[&str] = &[$($name),+];
    };
}

events! {
    /// Areas registered.
    Registered = "registered",
    /// Areas unregistered.
    Unregistered = "unregistered",
    /// Areas found broken.
    Broken = "broken",
    /// Synchronous doorbells.
    SyncBell = "sync_bell",
    /// Halts by the synchronous doorbell.
    HaltBell = "halt_bell",
    /// Wake-ups of the polling thread by a doorbell.
    AsyncBell = "async_bell",
    /// Turns of the polling loop.
    PollTurns = "poll_turns",
    /// Turns that found buffers in virtqueues.
    QueueTurns = "queue_turns",
    /// Times that the polling thread went to sleep.
    Sleeps = "sleeps",
    /// Times that a last look before sleep found something.
    LastLookHits = "last_look_hits",
    /// Seats that the polling thread left out because another thread served them.
    SeatBusy = "seat_busy",
    /// Wake-ups by the timer to look without a cause.
    Naps = "naps",
    /// Wake-ups by the timer for armed deadlines.
    TimerWakes = "timer_wakes",
    /// Predicted deadlines that were published without a stock write, and served.
    PredictedHit = "predicted_hit",
    /// Looks at a predicted time that came before any deadline.
    PredictedEarly = "predicted_early",
    /// Predictions before which the guest made a stock write.
    PredictedMissed = "predicted_missed",
    /// Times that the polling thread made no turn for longer than a lease.
    Gaps = "gaps",
    /// How long these turns came late beyond the lease, in microseconds altogether.
    GapMicros = "gap_us",
    /// The longest of these turns, in microseconds.
    LongestTurn = "longest_turn_us",
    /// Looks that the worker made in the place of a polling thread that did not come.
    StandIns = "stand_ins",
    /// Times that the polling thread stopped to poll because it had no CPU to itself.
    Rests = "rests",
    /// How long it did not poll then, in microseconds altogether.
    RestMicros = "rest_us",
    /// Looks that found a vCPU polling in its idle loop where the look before had not.
    IdlePolls = "idle_polls",
    /// The same for a vCPU about to halt.
    IdleHalts = "idle_halts",
    /// Interrupts posted to vCPUs that polled.
    Posted = "posted",
    /// Bytes populated.
    PopulatedBytes = "populated_bytes",
    /// Bytes whose second-stage mapping KVM has made ahead.
    PrefaultedBytes = "prefaulted_bytes",
    /// Bytes released.
    ReleasedBytes = "released_bytes",
    /// Calls left to the memory worker by the polling thread.
    Deferred = "deferred",
    /// Log lines that were dropped.
    LogDropped = "log_dropped",
    /// Guest writes of its TSC.
    TscWrites = "tsc_writes",
}

/// Counters of all vCPUs together.
#[derive(Debug)]
pub struct Totals {
    calls: Vec<AtomicU64>,
    unknown_calls: AtomicU64,
    refused: Vec<AtomicU64>,
    host: Vec<AtomicU64>,
    guest: Vec<AtomicU64>,
    events: Vec<AtomicU64>,
    late: Vec<AtomicU64>,
}

/// How late deadlines are served: below 1 µs, 2 µs, 4 µs and so on.
const LATE_BUCKETS: usize = 24;

impl Default for Totals {
    fn default() -> Self {
        let zeros = |len| (0..len).map(|_| AtomicU64::new(0)).collect();
        Self {
            calls: zeros(op::all().count()),
            unknown_calls: AtomicU64::new(0),
            refused: zeros(Status::ALL.len()),
            host: zeros(HOST_COUNTERS.len()),
            guest: zeros(GUEST_COUNTERS.len()),
            events: zeros(EVENTS.len()),
            late: zeros(LATE_BUCKETS),
        }
    }
}

impl Totals {
    /// Counts how late a deadline was served.
    pub fn late(&self, late: Duration) {
        let micros = late.as_micros();
        let bucket = usize::try_from(u128::BITS - micros.leading_zeros()).unwrap_or(0);
        add(self.late.get(bucket.min(LATE_BUCKETS - 1)), 1);
    }

    /// Counts one call and how it ended.
    pub fn call(&self, opcode: u16, status: Status) {
        let place = op::all().position(|op| op.opcode == Opcode(opcode));
        let counter = place.and_then(|place| self.calls.get(place));
        add(Some(counter.unwrap_or(&self.unknown_calls)), 1);
        if status.is_error() {
            let place = Status::ALL
                .iter()
                .position(|code| code.value == u64::from(status.0));
            add(place.and_then(|place| self.refused.get(place)), 1);
        }
    }

    /// Counts what the spec names for the host.
    pub fn host(&self, counter: HostCounter, more: u64) {
        add(self.host.get(counter as usize), more);
    }

    /// Adds what a guest says of itself, at this place of its table.
    pub fn guest_at(&self, place: usize, value: u64) {
        add(self.guest.get(place), value);
    }

    /// Counts an event of the host's own.
    pub fn event(&self, event: Event, more: u64) {
        add(self.events.get(event as usize), more);
    }

    /// Keeps the largest value of what is no count.
    pub fn event_max(&self, event: Event, value: u64) {
        if let Some(counter) = self.events.get(event as usize) {
            counter.fetch_max(value, Ordering::Relaxed);
        }
    }

    /// The value of a host counter.
    pub fn host_value(&self, counter: HostCounter) -> u64 {
        self.host
            .get(counter as usize)
            .map_or(0, |value| value.load(Ordering::Relaxed))
    }

    /// The value of an event's counter.
    pub fn event_value(&self, event: Event) -> u64 {
        self.events
            .get(event as usize)
            .map_or(0, |value| value.load(Ordering::Relaxed))
    }

    /// All counters by name.
    pub fn snapshot(&self) -> CoopCounts {
        let named = |names: &mut dyn Iterator<Item = &str>, values: &[AtomicU64]| {
            names
                .zip(values)
                .map(|(name, value)| (name.to_owned(), value.load(Ordering::Relaxed)))
                .collect::<BTreeMap<_, _>>()
        };
        let mut operations = named(&mut op::all().map(|op| op.counter), &self.calls);
        operations.insert(
            "op_unknown".into(),
            self.unknown_calls.load(Ordering::Relaxed),
        );
        CoopCounts {
            operations,
            refused: named(&mut Status::ALL.iter().map(|code| code.name), &self.refused),
            host: named(&mut HOST_COUNTERS.iter().map(|(_, name)| *name), &self.host),
            guest: named(
                &mut GUEST_COUNTERS.iter().map(|(_, name)| *name),
                &self.guest,
            ),
            events: named(&mut EVENTS.iter().copied(), &self.events),
            late_below_us: self
                .late
                .iter()
                .enumerate()
                .map(|(bucket, count)| (1 << bucket, count.load(Ordering::Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            ..CoopCounts::default()
        }
    }
}

/// Wraps: a guest chooses some of these values.
fn add(counter: Option<&AtomicU64>, more: u64) {
    if let Some(counter) = counter {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

/// All counters of the host half, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoopCounts {
    /// Calls by operation.
    pub operations: BTreeMap<String, u64>,
    /// Calls that were refused, by status.
    pub refused: BTreeMap<String, u64>,
    /// The host's counters of the spec.
    pub host: BTreeMap<String, u64>,
    /// The guest's counters, as the guest says.
    pub guest: BTreeMap<String, u64>,
    /// What else the host counts.
    pub events: BTreeMap<String, u64>,
    /// Deadlines by lateness: those served less than so many microseconds late.
    pub late_below_us: BTreeMap<u64, u64>,
    /// CPU time of the interface's own threads, by name, in nanoseconds.
    pub thread_cpu_ns: BTreeMap<String, u64>,
    /// How long these threads waited for a CPU of the host, by name, in nanoseconds.
    pub thread_wait_ns: BTreeMap<String, u64>,
    /// Why some vCPU got neither lease nor timers, if so.
    pub no_timing: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_operation_and_refusals_by_status() {
        let totals = Totals::default();
        totals.call(Opcode::ECHO.0, Status::OK);
        totals.call(Opcode::ECHO.0, Status::RESERVED_BITS);
        totals.call(0, Status::UNKNOWN_OPCODE);
        totals.call(0x7777, Status::UNKNOWN_OPCODE);
        let counts = totals.snapshot();
        assert_eq!(counts.operations["op_echo"], 2);
        assert_eq!(counts.operations["op_unknown"], 2);
        assert_eq!(counts.refused["RESERVED_BITS"], 1);
        assert_eq!(counts.refused["UNKNOWN_OPCODE"], 2);
        assert_eq!(counts.operations.len(), op::all().count() + 1);
        assert_eq!(counts.events.len(), EVENTS.len());
    }

    #[test]
    fn a_lying_guest_counter_cannot_overflow() {
        let totals = Totals::default();
        totals.guest_at(6, u64::MAX);
        totals.guest_at(6, 2);
        assert_eq!(totals.snapshot().guest["submitted"], 1);
    }
}
