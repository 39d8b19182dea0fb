//! Where the notify addresses of a device are, and who is told of a write to one: the I/O thread, by an
//! eventfd that the kernel signals, or the vCPU thread that made it.
//!
//! [`Bindings::place`] is called by the function on vCPU threads when queues come to life, go or are
//! moved, [`Bindings::set_receiver`] by the I/O thread when the receiver of a queue changes.
//!
//! **No write is lost meanwhile.** A place is in the table of [`Notifies`] for as long as its queue is
//! there, whoever receives, and only the eventfd comes and goes. The kernel looks for an eventfd once for
//! each write: it signals the eventfd, or the write exits and is found in the table, or, where the
//! address has just moved, by the function's own BAR, which rings the doorbell. A signal that came before
//! the eventfd was taken away stays in it, and the I/O thread listens to it all the time. So each write
//! reaches somebody who looks at the queue after it, or calls who does (`vcpu_notify.rs`); twice is
//! harmless.
//!
//! Binding and unbinding wait until no vCPU is in the middle of looking for eventfds. The lock is held
//! over that, and no backend's with it. Lock order: behind the function, before nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::doorbell::DoorbellSink;
use super::receiver::Receiver;
use crate::notifies::{Notified, Notifies};

/// The notify addresses of one device.
pub(super) struct Bindings {
    doorbells: Arc<[EventFd]>,
    sink: Arc<dyn DoorbellSink>,
    notifies: Arc<Notifies>,
    queues: Mutex<Vec<Binding>>,
}

/// That of one queue.
struct Binding {
    /// Who hears writes that exit, if vCPUs may ever receive.
    notified: Option<Arc<dyn Notified>>,
    receiver: Receiver,
    /// Where the address is; `None` while there is no live queue or no BAR.
    place: Option<u64>,
    listed_at: Option<u64>,
    bound_at: Option<u64>,
}

impl Bindings {
    /// Places nothing yet. For each queue, who hears writes that exit, if not the BAR, and who receives
    /// at first.
    pub(super) fn new(
        doorbells: Arc<[EventFd]>,
        sink: Arc<dyn DoorbellSink>,
        notifies: Arc<Notifies>,
        queues: impl Iterator<Item = (Option<Arc<dyn Notified>>, Receiver)>,
    ) -> Self {
        let queues = queues.map(|(notified, receiver)| Binding {
            notified,
            receiver,
            place: None,
            listed_at: None,
            bound_at: None,
        });
        Self {
            doorbells,
            sink,
            notifies,
            queues: Mutex::new(queues.collect()),
        }
    }

    /// The addresses of the queues are here from now on, and nowhere else.
    pub(super) fn place(&self, places: impl Iterator<Item = Option<u64>>) {
        for (index, place) in places.enumerate() {
            let mut queues = self.queues();
            if let Some(queue) = queues.get_mut(index) {
                queue.place = place;
                self.follow(index, queue);
            }
        }
    }

    /// Writes to a queue's address come to this one from now on.
    pub(super) fn set_receiver(&self, index: usize, receiver: Receiver) {
        let mut queues = self.queues();
        if let Some(queue) = queues.get_mut(index) {
            queue.receiver = receiver;
            self.follow(index, queue);
        }
    }

    /// Makes table and eventfd what they shall be.
    fn follow(&self, index: usize, queue: &mut Binding) {
        let Some(doorbell) = self.doorbells.get(index) else {
            return;
        };
        let wanted = queue.place.filter(|_| queue.receiver == Receiver::Thread);
        if queue.bound_at != wanted {
            if let Some(gpa) = queue.bound_at.take() {
                // If it fails, the old address signals a queue for nothing: harmless.
                let _ = self.sink.unregister(doorbell, gpa);
            }
            // If it fails, the guest's write exits, to the table or to the BAR.
            queue.bound_at = wanted.filter(|&gpa| self.sink.register(doorbell, gpa).is_ok());
        }
        if queue.listed_at == queue.place {
            return;
        }
        if let Some(gpa) = queue.listed_at.take() {
            self.notifies.remove(gpa);
        }
        if let (Some(gpa), Some(notified)) = (queue.place, &queue.notified) {
            self.notifies.insert(gpa, Arc::clone(notified));
            queue.listed_at = Some(gpa);
        }
    }

    fn queues(&self) -> MutexGuard<'_, Vec<Binding>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
