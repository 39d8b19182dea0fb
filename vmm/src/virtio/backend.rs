//! The half of a device that works: the device itself, its live queues, and the I/O thread's worker.
//!
//! The transport (vCPU threads) activates and resets; [`QueueWorker`] (I/O thread) processes. Both
//! lock the [`Backend`], so a reset waits for the batch in progress and nothing touches guest memory
//! after it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::counters::DeviceCounters;
use super::device::{HandedQueue, Progress, QueueError, VirtioDevice, Watched};
use super::interrupt::Interrupts;
use super::queue::{DeviceQueue, QueueSetup};
use super::GuestRam;

// A guest can break its queues in a loop; our log is not its to fill.
const MAX_COMPLAINTS: u32 = 8;
const HOST_EVENT: u32 = u32::MAX;
/// Tags from here on are watched files.
const FIRST_FILE: u32 = 1 << 16;

enum QueueState {
    /// Not set up by the guest.
    Off,
    Live(DeviceQueue),
    /// The kernel serves it.
    Elsewhere,
    /// Nothing of it is processed until a reset.
    Broken,
}

pub(super) struct Backend {
    device: Box<dyn VirtioDevice>,
    queues: Vec<QueueState>,
    ram: GuestRam,
    interrupts: Arc<Interrupts>,
    complaints_left: u32,
    counters: Arc<DeviceCounters>,
}

pub(super) type SharedBackend = Arc<Mutex<Backend>>;

impl Backend {
    pub(super) fn new(
        device: Box<dyn VirtioDevice>,
        nr_queues: usize,
        ram: GuestRam,
        interrupts: Arc<Interrupts>,
    ) -> Self {
        let queues = (0..nr_queues).map(|_| QueueState::Off).collect();
        Self {
            device,
            queues,
            ram,
            interrupts,
            complaints_left: MAX_COMPLAINTS,
            counters: Arc::default(),
        }
    }

    pub(super) fn device(&mut self) -> &mut dyn VirtioDevice {
        &mut *self.device
    }

    pub(super) fn counters(&self) -> &Arc<DeviceCounters> {
        &self.counters
    }

    /// Takes off what the transport rings for a driver that starts, as far as it is heard here.
    pub(super) fn count_first_rings(&self) {
        let is_ours = |index: &usize| !self.device.is_served_elsewhere(*index);
        let rings = (0..self.queues.len()).filter(is_ours).count();
        self.counters.add_own_rings(rings as u64);
    }

    /// Makes the queues live that the guest enabled.
    pub(super) fn activate(
        &mut self,
        features: u64,
        uses_event_idx: bool,
        setups: &[QueueSetup],
        doorbells: &[EventFd],
    ) {
        self.device.activate(features);
        let mut handed = Vec::new();
        for (index, setup) in setups
            .iter()
            .enumerate()
            .filter(|(_, setup)| setup.is_enabled)
        {
            match DeviceQueue::new(setup, uses_event_idx, &self.ram) {
                Ok(_) if self.device.is_served_elsewhere(index) => {
                    self.queues[index] = QueueState::Elsewhere;
                    handed.push(index);
                }
                Ok(mut queue) => {
                    if self.device.is_timed(index) {
                        queue.time(self.counters.histogram());
                    }
                    self.queues[index] = QueueState::Live(queue);
                }
                Err(error) => self.break_queue(index, &error),
            }
        }
        self.count_elsewhere();
        if handed.is_empty() {
            return;
        }
        if let Err(error) = self.hand_over(features, &handed, setups, doorbells) {
            handed
                .iter()
                .for_each(|&index| self.break_queue(index, &error));
        }
    }

    fn hand_over(
        &mut self,
        features: u64,
        handed: &[usize],
        setups: &[QueueSetup],
        doorbells: &[EventFd],
    ) -> Result<(), QueueError> {
        let queues = handed.iter().map(|&index| {
            let call = self.interrupts.call_fd(index);
            Ok(HandedQueue {
                index,
                size: setups[index].size,
                descriptors: setups[index].descriptors,
                avail: setups[index].avail,
                used: setups[index].used,
                kick: &doorbells[index],
                call: call.map_err(|error| QueueError::Backend(error.to_string()))?,
            })
        });
        let queues: Vec<HandedQueue<'_>> = queues.collect::<Result<_, QueueError>>()?;
        self.device.hand_over(features, &queues)
    }

    /// Tells the guest if the device has changed its configuration.
    fn report_config_change(&mut self) {
        if self.device.take_config_change() {
            self.interrupts.signal_config();
        }
    }

    /// Stops all queues and forgets everything that the guest set.
    pub(super) fn reset(&mut self) {
        self.queues
            .iter_mut()
            .for_each(|queue| *queue = QueueState::Off);
        self.count_elsewhere();
        self.device.reset();
    }

    /// Processes one batch of a queue. Returns whether there is more to do at once.
    fn process(&mut self, index: usize) -> bool {
        let queue = match self.queues.get_mut(index) {
            Some(QueueState::Live(queue)) => queue,
            Some(QueueState::Elsewhere) if self.device.has_failed_elsewhere() => {
                let error = QueueError::Backend("the ring is corrupt".into());
                self.break_queue(index, &error);
                return false;
            }
            _ => return false,
        };
        let batch = run_batch(&mut *self.device, index, queue, &self.ram);
        self.counters.add_work(queue.take_work());
        let has_used = queue.has_used();
        self.report_config_change();
        match batch {
            Ok(batch) => {
                if has_used {
                    self.counters.add_batch(batch.interrupt);
                }
                if batch.interrupt {
                    self.interrupts.signal_queue(index);
                }
                batch.again
            }
            Err(error) => {
                self.break_queue(index, &error);
                false
            }
        }
    }

    fn count_elsewhere(&self) {
        let elsewhere = |queue: &&QueueState| matches!(queue, QueueState::Elsewhere);
        let queues = self.queues.iter().filter(elsewhere).count();
        self.counters.set_queues_elsewhere(queues);
    }

    fn break_queue(&mut self, index: usize, error: &QueueError) {
        self.queues[index] = QueueState::Broken;
        self.count_elsewhere();
        self.interrupts.signal_needs_reset();
        if self.complaints_left == 0 {
            return;
        }
        self.complaints_left -= 1;
        let name = self.device.name();
        let last = if self.complaints_left == 0 {
            " (its last message of this kind)"
        } else {
            ""
        };
        eprintln!("{name}: queue {index} is broken until the guest resets it: {error}{last}");
    }
}

struct Batch {
    interrupt: bool,
    again: bool,
}

fn run_batch(
    device: &mut dyn VirtioDevice,
    index: usize,
    queue: &mut DeviceQueue,
    ram: &GuestRam,
) -> Result<Batch, QueueError> {
    queue.begin_batch();
    let again = loop {
        queue.disable_notification(ram)?;
        if device.process(index, queue, ram)? == Progress::Waiting {
            break false;
        }
        // With more to do, notifications stay off: the worker comes back by itself.
        if queue.is_budget_spent() {
            break true;
        }
        if !queue.enable_notification(ram)? {
            break false;
        }
        // A driver that adds one chain per round must not keep us here.
        if !queue.spend() {
            break true;
        }
    };
    Ok(Batch {
        interrupt: queue.needs_interrupt(ram)?,
        again,
    })
}

/// The I/O thread's side of one device: waits for doorbells and host events, processes queues.
///
/// Register it with an event manager; it then works whenever that runs.
pub struct QueueWorker {
    backend: SharedBackend,
    doorbells: Arc<[EventFd]>,
    host_event: Option<Arc<EventFd>>,
    watched: Vec<Watched>,
    counters: Arc<DeviceCounters>,
}

impl QueueWorker {
    pub(super) fn new(
        backend: SharedBackend,
        doorbells: Arc<[EventFd]>,
        host_event: Option<Arc<EventFd>>,
    ) -> Self {
        let watched = lock(&backend).device().watched();
        let counters = Arc::clone(lock(&backend).counters());
        Self {
            backend,
            doorbells,
            host_event,
            watched,
            counters,
        }
    }

    /// What the device has done.
    pub fn counters(&self) -> Arc<DeviceCounters> {
        Arc::clone(&self.counters)
    }

    fn process_queue(&self, index: usize) {
        if lock(&self.backend).process(index) {
            // The lock was dropped in between, so that a vCPU that waits for it gets its turn.
            if let Some(doorbell) = self.doorbells.get(index) {
                self.counters.add_own_rings(1);
                ring(doorbell);
            }
        }
    }
}

impl MutEventSubscriber for QueueWorker {
    fn init(&mut self, ops: &mut EventOps) {
        let is_ours = |index: &usize| !lock(&self.backend).device().is_served_elsewhere(*index);
        let ours: Vec<usize> = (0..self.doorbells.len()).filter(is_ours).collect();
        let doorbells = (0..)
            .zip(&*self.doorbells)
            .filter(|(tag, _)| ours.contains(&(*tag as usize)));
        let host_event = self.host_event.iter().map(|event| (HOST_EVENT, &**event));
        let events = doorbells
            .chain(host_event)
            .map(|(tag, event)| Events::with_data(event, tag, EventSet::IN));
        let files = (FIRST_FILE..).zip(&self.watched).map(|(tag, watched)| {
            let edges = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
            Events::with_data(&*watched.file, tag, edges)
        });
        for event in events.chain(files) {
            if let Err(error) = ops.add(event) {
                let name = lock(&self.backend).device().name().to_owned();
                eprintln!("{name}: could not listen to its doorbell: {error}");
            }
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.data() == HOST_EVENT {
            // Cleared before the work: what arrives during it gives another event.
            let _ = self.host_event.as_ref().map(|event| event.read());
            lock(&self.backend).device().host_event_came();
            (0..self.doorbells.len()).for_each(|index| self.process_queue(index));
            return;
        }
        if let Some(file) = events.data().checked_sub(FIRST_FILE) {
            let file = file as usize;
            if let Some(watched) = self.watched.get(file) {
                let mut backend = lock(&self.backend);
                backend.device().file_ready(file);
                backend.report_config_change();
                drop(backend);
                watched
                    .queues
                    .iter()
                    .for_each(|&index| self.process_queue(index));
            }
            return;
        }
        let index = events.data() as usize;
        if let Some(doorbell) = self.doorbells.get(index) {
            // It was not signalled after all: then nobody rang.
            self.counters.add_doorbells(doorbell.read().unwrap_or(0));
            self.process_queue(index);
        }
    }
}

/// Signals an eventfd. It fails only when its counter is full, and then it is signalled.
pub(super) fn ring(event: &EventFd) {
    let _ = event.write(1);
}

pub(super) fn lock(backend: &SharedBackend) -> MutexGuard<'_, Backend> {
    backend.lock().unwrap_or_else(PoisonError::into_inner)
}
