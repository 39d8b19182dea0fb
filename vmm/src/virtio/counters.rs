//! What one device has done so far, for metrics: written by its backend, read by anybody.
//!
//! What the host's kernel serves by itself (vhost) passes by here and is not counted.
//! All figures but `queues_elsewhere` only grow, over resets too. Each is right by itself; two of them may be read at
//! slightly different moments.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::latency::{Histogram, Latency};

/// The counters of one device.
#[derive(Debug, Default)]
pub struct DeviceCounters {
    requests: AtomicU64,
    bytes_from_guest: AtomicU64,
    bytes_to_guest: AtomicU64,
    doorbells: AtomicU64,
    own_rings: AtomicU64,
    interrupts: AtomicU64,
    interrupts_suppressed: AtomicU64,
    polled_finds: AtomicU64,
    take_overs: AtomicU64,
    hand_backs: AtomicU64,
    vcpu_served: AtomicU64,
    vcpu_left: AtomicU64,
    receiver_changes: AtomicU64,
    queues_elsewhere: AtomicU64,
    /// From the first timed queue on.
    latency: OnceLock<Arc<Histogram>>,
}

/// Their values at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCounts {
    /// Buffers given back to the guest, each of which is one request.
    pub requests: u64,
    /// Bytes of the guest's that the device could read, headers of requests included.
    pub bytes_from_guest: u64,
    /// Bytes that the device wrote for the guest, status bytes of requests included.
    pub bytes_to_guest: u64,
    /// Times that the guest notified the device, by a doorbell or in its vCPU's thread.
    pub notifies: u64,
    /// Requests for which it had no need to.
    pub notifies_suppressed: u64,
    /// Interrupts sent to the guest.
    pub interrupts: u64,
    /// Batches of requests after which the guest wanted none.
    pub interrupts_suppressed: u64,
    /// Times that the polling thread, in a queue that it owned, or the I/O thread that lingered found new buffers by
    /// itself.
    #[serde(default)]
    pub polled_finds: u64,
    /// Times that it took a queue over from the I/O thread.
    #[serde(default)]
    pub take_overs: u64,
    /// Times that a queue was given back: by it, by its stand-in, or by the I/O thread at their request.
    /// A queue that the guest resets is given back without this.
    #[serde(default)]
    pub hand_backs: u64,
    /// Of the notifies, those that the vCPU which made them has served itself. Each has returned to
    /// userspace for it.
    #[serde(default)]
    pub notifies_served_by_vcpu: u64,
    /// Of the notifies, those that came to a vCPU thread in the same way and were left to the I/O thread.
    #[serde(default)]
    pub notifies_left_by_vcpu: u64,
    /// Times that the notifies of a queue went from the I/O thread to the vCPUs, or back.
    #[serde(default)]
    pub receiver_changes: u64,
    /// Queues that the host's kernel or another process serves now. What they do passes by here and is
    /// in none of the other figures.
    #[serde(default)]
    pub queues_elsewhere: u64,
}

impl DeviceCounters {
    /// Counts requests given back.
    pub(super) fn add_work(&self, work: Work) {
        add(&self.requests, work.requests);
        add(&self.bytes_from_guest, work.bytes_from_guest);
        add(&self.bytes_to_guest, work.bytes_to_guest);
    }

    /// Counts what came out of a doorbell's eventfd, which adds up between two looks.
    pub(super) fn add_doorbells(&self, rings: u64) {
        add(&self.doorbells, rings);
    }

    /// Counts rings of a doorbell that were the VMM's own. Comes before the ring.
    pub(super) fn add_own_rings(&self, rings: u64) {
        add(&self.own_rings, rings);
    }

    /// Counts the end of a batch that gave something back.
    pub(super) fn add_batch(&self, interrupt: bool) {
        let counter = if interrupt {
            &self.interrupts
        } else {
            &self.interrupts_suppressed
        };
        add(counter, 1);
    }

    /// Counts a look of the polling thread that found something.
    pub(super) fn add_find(&self) {
        add(&self.polled_finds, 1);
    }

    /// Counts a queue that it took over.
    pub(super) fn add_take_over(&self) {
        add(&self.take_overs, 1);
    }

    /// Counts one that was given back.
    pub(super) fn add_hand_back(&self) {
        add(&self.hand_backs, 1);
    }

    /// Counts a notification that the vCPU has served which made it. It rang no doorbell.
    pub(super) fn add_served_by_vcpu(&self) {
        add(&self.vcpu_served, 1);
    }

    /// Counts one for which it has rung the doorbell in the guest's place.
    pub(super) fn add_left_by_vcpu(&self) {
        add(&self.vcpu_left, 1);
    }

    /// Counts a queue whose notifications somebody else receives from now on.
    pub(super) fn add_receiver_change(&self) {
        add(&self.receiver_changes, 1);
    }

    /// So many queues are served elsewhere now.
    pub(super) fn set_queues_elsewhere(&self, queues: usize) {
        self.queues_elsewhere
            .store(queues as u64, Ordering::Relaxed);
    }

    /// Where latencies go.
    pub(super) fn histogram(&self) -> Arc<Histogram> {
        Arc::clone(self.latency.get_or_init(Arc::default))
    }

    /// How long requests took, if the device has queues that are timed and a driver had them.
    pub fn latency(&self) -> Option<Latency> {
        self.latency.get().map(|histogram| histogram.latency())
    }

    /// The values now.
    pub fn counts(&self) -> DeviceCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let requests = load(&self.requests);
        let served_by_vcpu = load(&self.vcpu_served);
        let rung = load(&self.doorbells).saturating_sub(load(&self.own_rings));
        let notifies = rung + served_by_vcpu;
        DeviceCounts {
            requests,
            bytes_from_guest: load(&self.bytes_from_guest),
            bytes_to_guest: load(&self.bytes_to_guest),
            notifies,
            notifies_suppressed: requests.saturating_sub(notifies),
            interrupts: load(&self.interrupts),
            interrupts_suppressed: load(&self.interrupts_suppressed),
            polled_finds: load(&self.polled_finds),
            take_overs: load(&self.take_overs),
            hand_backs: load(&self.hand_backs),
            notifies_served_by_vcpu: served_by_vcpu,
            notifies_left_by_vcpu: load(&self.vcpu_left),
            receiver_changes: load(&self.receiver_changes),
            queues_elsewhere: load(&self.queues_elsewhere),
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// What one queue has done since it was asked last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    pub(super) requests: u64,
    /// Of these, small copies of memory, as far as the device tells.
    pub(super) copies: u64,
    pub(super) bytes_from_guest: u64,
    pub(super) bytes_to_guest: u64,
}
