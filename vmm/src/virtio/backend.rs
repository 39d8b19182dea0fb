//! The half of a device that works: the device itself and its live queues.
//!
//! The transport (vCPU threads) activates and resets; the worker (I/O thread, `worker.rs`) processes, and so
//! does a polling thread, if there is one (`poll.rs`), and a vCPU thread whose notification comes to it
//! (`vcpu_notify.rs`). All lock the [`Backend`], so a reset waits for
//! the batch in progress and nothing touches guest memory after it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::counters::DeviceCounters;
use super::device::{HandedQueue, Polled, Progress, QueueError, VirtioDevice};
use super::interrupt::Interrupts;
use super::poll::PollState;
use super::queue::{DeviceQueue, Poller, QueueSetup};
use super::receiver::{Choice, Receiver};
use super::GuestRam;

// A guest can break its queues in a loop; our log is not its to fill.
const MAX_COMPLAINTS: u32 = 8;

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
    // By queue.
    pub(super) can_be_polled: Vec<bool>,
    pub(super) poll: Arc<PollState>,
    // By queue; what is learnt outlives a reset.
    choices: Vec<Choice>,
}

/// What became of a notification in its vCPU's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// There is nothing left to do for it.
    Served,
    /// It is served, and the driver has published more since: the I/O thread has to be called.
    More,
    /// It is the I/O thread's.
    Left,
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
        let can_be_polled = (0..nr_queues).map(|index| device.can_be_polled(index));
        let choices = (0..nr_queues).map(|index| Choice::new(device.notify_policy(index)));
        Self {
            can_be_polled: can_be_polled.collect(),
            choices: choices.collect(),
            poll: Arc::new(PollState::new(nr_queues)),
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

    /// What is said to a polling thread, if that may own the queue.
    pub(super) fn poll_state(&self, index: usize) -> Option<Arc<PollState>> {
        let can = self.can_be_polled.get(index).is_some_and(|can| *can);
        can.then(|| Arc::clone(&self.poll))
    }

    /// Who shall receive a queue's notifications now.
    pub(super) fn receiver(&self, index: usize) -> Receiver {
        let choice = self.choices.get(index);
        choice.map_or(Receiver::Thread, Choice::receiver)
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
                    if let Some(longest) = self.device.longest_chain() {
                        queue.allow_chains(longest);
                    }
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
    pub(super) fn report_config_change(&mut self) {
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

    /// The guest has taken the device's right to touch its memory (PCI 3.0, 6.2.2, "Bus Master"): its queues stop until a
    /// driver begins anew. A kernel that starts another one in its place counts on it.
    pub(super) fn cease(&mut self) {
        let survivor = self.device.outlives_bus_master();
        for (index, queue) in self.queues.iter_mut().enumerate() {
            if survivor != Some(index) {
                *queue = QueueState::Off;
            }
        }
        self.count_elsewhere();
        if survivor.is_none() {
            self.device.reset();
        }
    }

    /// One look of the polling thread at a queue, which it takes over if it has not. Returns whether
    /// there was anything new.
    pub(super) fn poll(&mut self, index: usize, doorbell: &EventFd) -> bool {
        if !self.can_be_polled.get(index).is_some_and(|can| *can) {
            return false;
        }
        let Some(QueueState::Live(queue)) = self.queues.get_mut(index) else {
            self.poll.set_hot(index, false);
            return false;
        };
        // One that the I/O thread lingers at goes on to be looked at; it is taken over behind that.
        if !queue.is_polled() {
            if let Err(error) = queue.take_over(&self.ram, Poller::Thread) {
                self.break_queue(index, &error);
                return false;
            }
            self.poll.has_taken(index);
            self.counters.add_take_over();
        }
        self.look(index, doorbell)
    }

    /// One look of the I/O thread that lingers at a queue, which it takes over if nobody has. Returns whether there was
    /// anything new.
    pub(super) fn linger(&mut self, index: usize, doorbell: &EventFd) -> bool {
        if !self.can_be_polled.get(index).is_some_and(|can| *can) {
            return false;
        }
        let Some(QueueState::Live(queue)) = self.queues.get_mut(index) else {
            return false;
        };
        if !queue.is_polled() {
            if let Err(error) = queue.take_over(&self.ram, Poller::Lingering) {
                self.break_queue(index, &error);
                return false;
            }
        }
        self.look(index, doorbell)
    }

    /// One look at a queue that is polled. Returns whether there was anything new.
    fn look(&mut self, index: usize, doorbell: &EventFd) -> bool {
        let Some(QueueState::Live(queue)) = self.queues.get_mut(index) else {
            return false;
        };
        match queue.begin_look(&self.ram) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(error) => {
                self.break_queue(index, &error);
                return false;
            }
        }
        self.counters.add_find();
        let batch = run_look(&mut *self.device, index, queue, &self.ram);
        if batch.as_ref().is_ok_and(|batch| batch.rings) {
            // What waits in the queue is the I/O thread's, which is not told by the driver.
            self.counters.add_own_rings(1);
            ring(doorbell);
        }
        self.finish(index, batch);
        true
    }

    /// The I/O thread owns all queues of the polling thread from now on; it is called for those with buffers. Returns
    /// whether any has some that nobody has looked at.
    pub(super) fn hand_back(&mut self, doorbells: &[EventFd]) -> bool {
        let is_work = self.give_back(doorbells, Poller::Thread);
        self.poll.has_given_back();
        is_work
    }

    /// The I/O thread does not linger any more: it is notified again, and called for queues with buffers.
    pub(super) fn end_lingering(&mut self, doorbells: &[EventFd]) {
        self.give_back(doorbells, Poller::Lingering);
    }

    fn give_back(&mut self, doorbells: &[EventFd], poller: Poller) -> bool {
        let mut is_work = false;
        for (index, doorbell) in doorbells.iter().enumerate() {
            let Some(QueueState::Live(queue)) = self.queues.get_mut(index) else {
                continue;
            };
            if queue.poller() != Some(poller) {
                continue;
            }
            if poller == Poller::Thread {
                self.poll.set_hot(index, queue.has_found());
                self.counters.add_hand_back();
            }
            let is_left = queue.is_left();
            match queue.hand_back(&self.ram) {
                Ok(has_buffers) => {
                    // A thread that lingers is called by what it waits for, and would call itself without end.
                    if has_buffers && !(is_left && poller == Poller::Lingering) {
                        self.counters.add_own_rings(1);
                        ring(doorbell);
                    }
                    is_work |= has_buffers && !is_left;
                }
                Err(error) => self.break_queue(index, &error),
            }
        }
        is_work
    }

    /// A vCPU thread has come with a notification of its own. It serves the one request that there is, if
    /// that takes nothing but a copy.
    pub(super) fn hear(&mut self, index: usize) -> Heard {
        let (Some(QueueState::Live(queue)), Some(choice)) =
            (self.queues.get_mut(index), self.choices.get_mut(index))
        else {
            return Heard::Left;
        };
        // Sent before the polling thread took the queue: the I/O thread looks, as ever.
        if queue.is_polled() {
            return Heard::Left;
        }
        match queue.begin_lone(&self.ram) {
            // Somebody has seen it already, and has asked for what is next or been called for it.
            Ok(0) => return Heard::Served,
            Ok(1) if choice.is_trial() => return Heard::Left,
            Ok(1) => {}
            // Another thread beside the guest pays.
            Ok(_) => {
                choice.vcpu_left();
                return Heard::Left;
            }
            Err(error) => {
                self.break_queue(index, &error);
                return Heard::Served;
            }
        }
        let batch = run_lone(&mut *self.device, index, queue, &self.ram);
        let heard = match &batch {
            Ok(batch) if batch.rings => Heard::Left,
            Ok(batch) if batch.again => Heard::More,
            Ok(_) | Err(_) => Heard::Served,
        };
        match heard {
            Heard::Left => choice.vcpu_left(),
            Heard::Served | Heard::More => choice.vcpu_served(),
        }
        self.finish(index, batch);
        heard
    }

    /// Processes one batch of a queue. Returns whether there is more to do at once.
    pub(super) fn process(&mut self, index: usize) -> bool {
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
        if let Some(choice) = self.choices.get_mut(index).filter(|_| !queue.is_polled()) {
            choice.thread_did(queue.work());
        }
        self.finish(index, batch)
    }

    /// Counts a batch and tells the guest. Returns whether there is more to do at once.
    fn finish(&mut self, index: usize, batch: Result<Batch, QueueError>) -> bool {
        let Some(QueueState::Live(queue)) = self.queues.get_mut(index) else {
            return false;
        };
        self.counters.add_work(queue.take_work());
        let has_used = queue.has_used();
        if let Ok(batch) = &batch {
            queue.set_left(batch.is_left);
        }
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
        complain!("{name}: queue {index} is broken until the guest resets it: {error}{last}");
    }
}

struct Batch {
    interrupt: bool,
    again: bool,
    /// What is next is the I/O thread's, when it is called or its own events come.
    is_left: bool,
    /// It has to be called.
    rings: bool,
}

fn run_batch(
    device: &mut dyn VirtioDevice,
    index: usize,
    queue: &mut DeviceQueue,
    ram: &GuestRam,
) -> Result<Batch, QueueError> {
    queue.begin_batch();
    let mut is_waiting = false;
    let again = loop {
        queue.disable_notification(ram)?;
        if device.process(index, queue, ram)? == Progress::Waiting {
            is_waiting = true;
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
        is_left: is_waiting,
        rings: false,
    })
}

/// The same for who polls, who stays as long as the driver goes on to publish: what comes
/// together is answered with one interrupt.
fn run_look(
    device: &mut dyn VirtioDevice,
    index: usize,
    queue: &mut DeviceQueue,
    ram: &GuestRam,
) -> Result<Batch, QueueError> {
    let polled = loop {
        let polled = device.process_now(index, queue, ram)?;
        if polled != Polled::Drained || queue.is_look_over() {
            break polled;
        }
        if !queue.has_more(ram)? || !queue.spend() {
            break polled;
        }
    };
    Ok(Batch {
        interrupt: queue.needs_interrupt(ram)?,
        again: false,
        is_left: polled != Polled::Drained,
        rings: polled == Polled::Left,
    })
}

/// The same on the thread of a vCPU that has notified, for one chain.
fn run_lone(
    device: &mut dyn VirtioDevice,
    index: usize,
    queue: &mut DeviceQueue,
    ram: &GuestRam,
) -> Result<Batch, QueueError> {
    queue.disable_notification(ram)?;
    let polled = device.process_now(index, queue, ram)?;
    // What is left to the I/O thread has that ask the driver again, which is called for it.
    let again = polled == Polled::Drained && queue.enable_notification(ram)?;
    Ok(Batch {
        interrupt: queue.needs_interrupt(ram)?,
        again,
        is_left: false,
        rings: polled == Polled::Left,
    })
}

/// Signals an eventfd. It fails only when its counter is full, and then it is signalled.
pub(super) fn ring(event: &EventFd) {
    let _ = event.write(1);
}

pub(super) fn lock(backend: &SharedBackend) -> MutexGuard<'_, Backend> {
    backend.lock().unwrap_or_else(PoisonError::into_inner)
}
