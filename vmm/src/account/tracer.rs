//! Counts the exits of one VM by the kernel's tracepoints, whatever VMM runs it.
//!
//! Start a [`Tracer`] before the VM, tell it the VMM's process as soon as that exists, and
//! [`Tracer::finish`] it after the VM has ended. A thread of its own drains the rings; nothing
//! runs on the VM's behalf in between.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use coopvirt_spec::mark::MARK_PORT;

use super::aggregate::event::Event;
use super::aggregate::Aggregator;
use super::model::{Counts, Phase, Trace};
use super::names::{NameOf, PcNames};
use super::threads::{Threads, Times};
use super::trace::cpu_clock;
use super::trace::decode::{Decoder, Detail};
use super::trace::error::TraceError;
use super::trace::kallsyms;
use super::trace::rings::{Rings, Sink};
use super::trace::tracefs::Tracefs;

/// A record may be written this much later than its time says (a CPU that is held up between).
const SETTLE_NS: u64 = 2_000_000;
/// A sample of CPU time is good if the two clocks were read this close together (on a busy machine
/// this thread may be held up between them).
const CPU_SAMPLE_WIDTH_NS: u64 = 200_000;
const CPU_SAMPLE_TRIES: u32 = 3;
/// A file for each thread is read: seldom enough to disturb nobody.
const READ_THREADS_EVERY_NS: u64 = 50_000_000;
/// Events kept while the target is not known yet.
const MAX_WAITING: usize = 1 << 18;

/// How to trace.
#[derive(Clone)]
pub struct TracerOptions {
    /// Size of each CPU's ring.
    pub ring_bytes: usize,
    /// Time between two drains.
    pub drain_every: Duration,
    /// The port that carries marks.
    pub mark_port: u16,
    /// Names of ports and addresses.
    pub names: Arc<dyn NameOf>,
    /// How much is traced.
    pub detail: Detail,
}

impl Default for TracerOptions {
    fn default() -> TracerOptions {
        TracerOptions {
            ring_bytes: 4 << 20,
            drain_every: Duration::from_millis(50),
            mark_port: MARK_PORT,
            names: Arc::new(PcNames),
            detail: Detail::default(),
        }
    }
}

/// A running trace.
pub struct Tracer {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    /// Process whose events count; 0 while not known.
    target: AtomicU32,
    is_over: AtomicBool,
    /// `None` only after the end.
    aggregator: Mutex<Option<Aggregator>>,
}

impl Tracer {
    /// Starts tracing on all CPUs. Needs root or CAP_PERFMON.
    pub fn start(options: TracerOptions) -> Result<Tracer, TraceError> {
        let (rings, host_tick_unknown) = open_rings(&options)?;
        let aggregator = Aggregator::new(options.names, options.mark_port, host_tick_unknown);
        let shared = Arc::new(Shared {
            target: AtomicU32::new(0),
            is_over: AtomicBool::new(false),
            aggregator: Mutex::new(Some(aggregator)),
        });
        let drain = Drain {
            rings,
            queue: Queue::default(),
            threads: Threads::default(),
            threads_read_ns: 0,
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new()
            .name("exit-trace".into())
            .spawn(move || drain.run(options.drain_every))
            .map_err(|error| TraceError::Thread(format!("could not start: {error}")))?;
        Ok(Tracer { shared, thread })
    }

    /// Says whose exits count: the VMM's process, this one or a child. Events before this call
    /// count too, as far as they were kept.
    pub fn target(&self, pid: u32) {
        self.shared.target.store(pid, Ordering::Release);
    }

    /// The phases that have ended so far (with a delay of about one drain).
    pub fn phases_so_far(&self) -> Vec<Phase> {
        self.shared
            .lock()
            .as_ref()
            .map(Aggregator::phases)
            .unwrap_or_default()
    }

    /// A way to look at the counts while they grow.
    pub fn watch(&self) -> TraceWatch {
        TraceWatch(Arc::clone(&self.shared))
    }

    /// Ends the trace: call it after the VM has ended.
    pub fn finish(self) -> Result<Trace, TraceError> {
        self.shared.is_over.store(true, Ordering::Release);
        self.thread.thread().unpark();
        self.thread
            .join()
            .map_err(|_| TraceError::Thread("panicked".into()))?;
        let aggregator = self.shared.lock().take();
        let aggregator = aggregator.ok_or(TraceError::Thread("left no result".into()))?;
        Ok(aggregator.finish())
    }
}

/// Looks at a trace while it is made.
#[derive(Clone)]
pub struct TraceWatch(Arc<Shared>);

impl TraceWatch {
    /// All exits so far, up to about one drain ago; `None` once the trace has ended.
    pub fn counts(&self) -> Option<Counts> {
        self.0.lock().as_ref().map(Aggregator::so_far)
    }
}

/// Opens everything; if the host's tick cannot be traced, everything else and the reason.
fn open_rings(options: &TracerOptions) -> Result<(Rings, Option<String>), TraceError> {
    let tracefs = Tracefs::find()?;
    let open = |timers| {
        let decoder = Decoder::new(&tracefs, options.mark_port, timers, options.detail)?;
        Rings::open(decoder, options.ring_bytes)
    };
    let reason = match kallsyms::timer_functions() {
        Ok(timers) => match open(Some(timers)) {
            Ok(rings) => return Ok((rings, None)),
            Err(error) => error.to_string(),
        },
        Err(reason) => reason,
    };
    // If it was not the timer's event that failed, this fails too and says why.
    Ok((open(None)?, Some(reason)))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Aggregator>> {
        self.aggregator
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The drain thread's own state.
struct Drain {
    rings: Rings,
    queue: Queue,
    threads: Threads,
    /// When they were read, and all later times are not known yet.
    threads_read_ns: u64,
    shared: Arc<Shared>,
}

/// Events read but not yet handed on.
#[derive(Default)]
struct Queue {
    /// With their process; sorted by time up to the last merge.
    events: VecDeque<(u32, Event)>,
    lost: u64,
}

impl Sink for Queue {
    fn event(&mut self, pid: u32, event: Event) {
        self.events.push_back((pid, event));
    }

    fn lost(&mut self, events: u64) {
        self.lost = self.lost.saturating_add(events);
    }
}

impl Drain {
    fn run(mut self, drain_every: Duration) {
        self.rings.bind_drain_thread();
        while !self.shared.is_over.load(Ordering::Acquire) {
            self.round(false);
            self.rings.note_online_cpus();
            std::thread::park_timeout(drain_every);
        }
        let untraced = self.rings.untraced_cpus();
        if let Some(aggregator) = self.shared.lock().as_mut() {
            aggregator.feed_untraced_cpus(untraced);
        }
        self.rings.disable();
        self.round(true);
    }

    /// CPU time of the target's threads, now and then; 0 in `threads_read_ns` once they are gone.
    fn read_threads(&mut self, target: u32, is_last: bool) -> Option<(u64, Times)> {
        let now_ns = cpu_clock::monotonic_ns();
        let is_due = now_ns.saturating_sub(self.threads_read_ns) >= READ_THREADS_EVERY_NS;
        if target == 0 || !(is_due || is_last) {
            return None;
        }
        let times = self.threads.read(target);
        self.threads_read_ns = if times.is_some() { now_ns } else { 0 };
        Some((now_ns, times?))
    }

    /// Reads the rings and hands on what can no longer be overtaken by another CPU's event.
    fn round(&mut self, is_last: bool) {
        let target = self.shared.target.load(Ordering::Acquire);
        self.threads.settle();
        let cpu_sample = target_cpu_ns(target);
        let thread_sample = self.read_threads(target, is_last);
        let now_ns = cpu_clock::monotonic_ns();
        self.rings.drain(&mut self.queue);
        // Stable: events of one CPU keep their order. Mostly sorted already, so this is cheap.
        self.queue
            .events
            .make_contiguous()
            .sort_by_key(|(_, event)| event.time_ns);
        let lost = std::mem::take(&mut self.queue.lost);

        let mut aggregator = self.shared.lock();
        let Some(aggregator) = aggregator.as_mut() else {
            return;
        };
        aggregator.feed_lost(lost);
        if target == 0 {
            let excess = self.queue.events.len().saturating_sub(MAX_WAITING);
            self.queue.events.drain(..excess);
            return;
        }
        // Marks up to here must lie between two samples; without a sample they wait no longer.
        let mut until_ns = now_ns.saturating_sub(SETTLE_NS);
        if let Some((time_ns, cpu_ns)) = cpu_sample {
            aggregator.feed_cpu_time(time_ns, cpu_ns);
            until_ns = until_ns.min(time_ns);
        }
        if let Some((time_ns, times)) = thread_sample {
            aggregator.feed_thread_times(time_ns, times);
        }
        if self.threads_read_ns != 0 {
            until_ns = until_ns.min(self.threads_read_ns);
        }
        if is_last {
            until_ns = u64::MAX;
        }
        while let Some((pid, event)) = self.queue.events.front() {
            if event.time_ns > until_ns {
                break;
            }
            if *pid == target {
                aggregator.feed(event);
            }
            self.queue.events.pop_front();
        }
    }
}

/// CPU time of the target with the moment it holds for; if that is this process, without what the
/// drain thread takes.
fn target_cpu_ns(target: u32) -> Option<(u64, u64)> {
    if target == 0 {
        return None;
    }
    let mut best: Option<(u64, u64, u64)> = None;
    for _ in 0..CPU_SAMPLE_TRIES {
        let before_ns = cpu_clock::monotonic_ns();
        let cpu_ns = cpu_clock::process_ns(target)?;
        let own_ns = if target == std::process::id() {
            cpu_clock::this_thread_ns()
        } else {
            0
        };
        let width_ns = cpu_clock::monotonic_ns().saturating_sub(before_ns);
        if best.is_none_or(|(width, ..)| width_ns < width) {
            best = Some((
                width_ns,
                before_ns + width_ns / 2,
                cpu_ns.saturating_sub(own_ns),
            ));
        }
        if width_ns < CPU_SAMPLE_WIDTH_NS {
            break;
        }
    }
    best.map(|(_, time_ns, cpu_ns)| (time_ns, cpu_ns))
}
