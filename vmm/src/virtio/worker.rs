//! The I/O thread's side of a device: doorbells, events of the host's, and queues that are processed then.
//!
//! Made with the device (`pci_function.rs`), run by the I/O thread's event manager. It owns nothing that
//! the guest set up: that is the [`Backend`]'s, which it locks for one batch at a time.
//!
//! [`Backend`]: super::backend::Backend

use std::cell::Cell;
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::backend::{lock, ring, SharedBackend};
use super::bindings::Bindings;
use super::counters::DeviceCounters;
use super::device::Watched;
use super::linger::{Lingerer, Lingering};
use super::poll::{PollState, PolledDevice};
use super::receiver::Receiver;

const HOST_EVENT: u32 = u32::MAX;
/// Tags from here on are watched files, and from there on queues' own events.
const FIRST_FILE: u32 = 1 << 16;
const FIRST_QUEUE_EVENT: u32 = 1 << 24;

/// The I/O thread's side of one device: waits for doorbells and host events, processes queues.
///
/// Register it with an event manager; it then works whenever that runs.
pub struct QueueWorker {
    backend: SharedBackend,
    doorbells: Arc<[EventFd]>,
    host_event: Option<Arc<EventFd>>,
    // By queue.
    queue_events: Vec<Option<Arc<EventFd>>>,
    watched: Vec<Watched>,
    counters: Arc<DeviceCounters>,
    poll: Arc<PollState>,
    can_be_polled: Vec<bool>,
    lingering: Option<Arc<Lingering>>,
    bindings: Arc<Bindings>,
    // Who receives, by queue, as far as `bindings` have been told.
    receivers: Vec<Cell<Receiver>>,
}

impl QueueWorker {
    pub(super) fn new(
        backend: SharedBackend,
        doorbells: Arc<[EventFd]>,
        host_event: Option<Arc<EventFd>>,
        bindings: Arc<Bindings>,
    ) -> Self {
        let mut locked = lock(&backend);
        let watched = locked.device().watched();
        let queue_events = (0..doorbells.len()).map(|index| locked.device().queue_event(index));
        let queue_events = queue_events.collect();
        let counters = Arc::clone(locked.counters());
        let poll = Arc::clone(&locked.poll);
        let can_be_polled = locked.can_be_polled.clone();
        let lingering = Lingering::new(locked.device().lingers());
        let receivers = (0..doorbells.len()).map(|index| Cell::new(locked.receiver(index)));
        let receivers = receivers.collect();
        drop(locked);
        Self {
            backend,
            doorbells,
            host_event,
            queue_events,
            watched,
            counters,
            poll,
            can_be_polled,
            lingering,
            bindings,
            receivers,
        }
    }

    /// The device as a polling thread sees it; `None` if it has no queue for one.
    pub fn polled(&self) -> Option<PolledDevice> {
        self.can_be_polled.contains(&true).then(|| {
            PolledDevice::new(
                Arc::clone(&self.backend),
                Arc::clone(&self.doorbells),
                Arc::clone(&self.poll),
                self.counters(),
            )
        })
    }

    /// The device as the I/O thread sees it between two events; `None` if it does not linger for it.
    pub fn lingerer(&self) -> Option<Lingerer> {
        self.lingering.as_ref().map(|lingering| {
            Lingerer::new(
                Arc::clone(&self.backend),
                Arc::clone(&self.doorbells),
                Arc::clone(&self.poll),
                Arc::clone(lingering),
            )
        })
    }

    /// What the device has done.
    pub fn counters(&self) -> Arc<DeviceCounters> {
        Arc::clone(&self.counters)
    }

    fn process_queue(&self, index: usize) {
        let mut backend = lock(&self.backend);
        if self.poll.is_given_up() {
            backend.hand_back(&self.doorbells);
        }
        let again = backend.process(index);
        let receiver = backend.receiver(index);
        drop(backend);
        if again {
            // The lock was dropped in between, so that a vCPU that waits for it gets its turn.
            if let Some(doorbell) = self.doorbells.get(index) {
                self.counters.add_own_rings(1);
                ring(doorbell);
            }
        }
        self.change_receiver(index, receiver);
    }

    /// Queues were processed, because the guest has notified or not: what follows may come soon.
    fn linger(&self, is_notified: bool) {
        if let Some(lingering) = &self.lingering {
            lingering.worked(is_notified);
        }
    }

    /// Has the notifications of a queue come to `receiver`. Here, where it may be waited for the kernel.
    fn change_receiver(&self, index: usize, receiver: Receiver) {
        let known = self
            .receivers
            .get(index)
            .map(|known| known.replace(receiver));
        if known.is_none_or(|known| known == receiver) {
            return;
        }
        self.counters.add_receiver_change();
        self.bindings.set_receiver(index, receiver);
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
        let queue_events = (FIRST_QUEUE_EVENT..)
            .zip(&self.queue_events)
            .filter_map(|(tag, event)| Some((tag, &**event.as_ref()?)));
        let events = doorbells
            .chain(host_event)
            .chain(queue_events)
            .map(|(tag, event)| Events::with_data(event, tag, EventSet::IN));
        let files = (FIRST_FILE..).zip(&self.watched).map(|(tag, watched)| {
            let edges = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
            Events::with_data(&*watched.file, tag, edges)
        });
        for event in events.chain(files) {
            if let Err(error) = ops.add(event) {
                let name = lock(&self.backend).device().name().to_owned();
                complain!("{name}: could not listen to its doorbell: {error}");
            }
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.data() == HOST_EVENT {
            // Cleared before the work: what arrives during it gives another event. Not signalled any more: it was
            // about what a reset has ended meanwhile.
            let Some(Ok(_)) = self.host_event.as_ref().map(|event| event.read()) else {
                return;
            };
            lock(&self.backend).device().host_event_came();
            (0..self.doorbells.len()).for_each(|index| self.process_queue(index));
            return;
        }
        if let Some(index) = events.data().checked_sub(FIRST_QUEUE_EVENT) {
            let index = index as usize;
            let event = self.queue_events.get(index).and_then(Option::as_ref);
            // Not signalled any more: the device has taken it back, with the work.
            if event.is_some_and(|event| event.read().is_ok()) {
                self.process_queue(index);
            }
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
                if !watched.queues.is_empty() {
                    self.linger(false);
                }
            }
            return;
        }
        let index = events.data() as usize;
        if let Some(doorbell) = self.doorbells.get(index) {
            // It was not signalled after all: then nobody rang.
            self.counters.add_doorbells(doorbell.read().unwrap_or(0));
            let is_given_up = self.poll.is_given_up();
            self.process_queue(index);
            let can_be_polled = self.can_be_polled.get(index).is_some_and(|can| *can);
            if can_be_polled && self.lingering.is_some() {
                self.linger(true);
            } else if can_be_polled && !is_given_up {
                // Who polls and has just given up rang this bell itself.
                self.poll.note_kick(index);
            }
        }
    }
}
