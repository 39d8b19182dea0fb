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
use super::device::{Progress, QueueError, VirtioDevice};
use super::interrupt::Interrupts;
use super::queue::{DeviceQueue, QueueSetup};
use super::GuestRam;

// A guest can break its queues in a loop; our log is not its to fill.
const MAX_COMPLAINTS: u32 = 8;
const HOST_EVENT: u32 = u32::MAX;

enum QueueState {
    /// Not set up by the guest.
    Off,
    Live(DeviceQueue),
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

    /// Makes the queues live that the guest enabled.
    pub(super) fn activate(&mut self, features: u64, uses_event_idx: bool, setups: &[QueueSetup]) {
        self.device.activate(features);
        for (index, setup) in setups
            .iter()
            .enumerate()
            .filter(|(_, setup)| setup.is_enabled)
        {
            match DeviceQueue::new(setup, uses_event_idx, &self.ram) {
                Ok(queue) => self.queues[index] = QueueState::Live(queue),
                Err(error) => self.break_queue(index, &error),
            }
        }
    }

    /// Stops all queues and forgets everything that the guest set.
    pub(super) fn reset(&mut self) {
        self.queues
            .iter_mut()
            .for_each(|queue| *queue = QueueState::Off);
        self.device.reset();
    }

    /// Processes one batch of a queue. Returns whether there is more to do at once.
    fn process(&mut self, index: usize) -> bool {
        let Some(QueueState::Live(queue)) = self.queues.get_mut(index) else {
            return false;
        };
        let result = run_batch(&mut *self.device, index, queue, &self.ram);
        self.counters.add_work(queue.take_work());
        match result {
            Ok(batch) => {
                if queue.has_used() {
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

    fn break_queue(&mut self, index: usize, error: &QueueError) {
        self.queues[index] = QueueState::Broken;
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
    counters: Arc<DeviceCounters>,
}

impl QueueWorker {
    pub(super) fn new(
        backend: SharedBackend,
        doorbells: Arc<[EventFd]>,
        host_event: Option<Arc<EventFd>>,
    ) -> Self {
        let counters = Arc::clone(lock(&backend).counters());
        Self {
            backend,
            doorbells,
            host_event,
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
        let doorbells = self.doorbells.iter().zip(0..);
        let host_event = self.host_event.iter().map(|event| (&**event, HOST_EVENT));
        for (event, tag) in doorbells.chain(host_event) {
            if let Err(error) = ops.add(Events::with_data(event, tag, EventSet::IN)) {
                let name = lock(&self.backend).device().name().to_owned();
                eprintln!("{name}: could not listen to its doorbell: {error}");
            }
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.data() == HOST_EVENT {
            // Cleared before the work: what arrives during it gives another event.
            let _ = self.host_event.as_ref().map(|event| event.read());
            (0..self.doorbells.len()).for_each(|index| self.process_queue(index));
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
