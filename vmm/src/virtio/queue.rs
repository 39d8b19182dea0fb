//! A live queue: chains out, used entries in, and when to tell whom.
//!
//! Belongs to the backend and is touched only with its lock held, on the I/O thread, the polling thread
//! or a vCPU thread that has notified it. The ring itself is the `virtio-queue` crate's; this adds a budget per batch, the check of
//! whole chains, the interrupt flag of drivers that do not use event indices, and who owns the queue
//! (`ownership.rs`).

use std::sync::atomic::{fence, Ordering};
use std::sync::Arc;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::chain::Chain;
use super::counters::Work;
use super::device::{QueueError, QUEUE_SIZE_MAX};
use super::latency::{Histogram, Stopwatch};
use super::ownership::{self, RingWords};

// VIRTQ_USED_F_NO_NOTIFY.
const USED_NO_NOTIFY: u16 = 1;
// VIRTQ_AVAIL_F_NO_INTERRUPT.
const AVAIL_NO_INTERRUPT: u16 = 1;
const AVAIL_HEADER_BYTES: u64 = 4;
const USED_HEADER_BYTES: u64 = 4;
const USED_ENTRY_BYTES: u64 = 8;

/// With event indices, how far behind the next buffer the index is put that the driver shall notify
/// for. The driver passes it after 2^16 less so many buffers, so it is moved on in time.
const QUIET_BEHIND: u16 = 0x4000;
/// Chains of a batch at most: all of a queue of the common size.
const BATCH_CHAINS: u16 = QUEUE_SIZE_MAX;
/// Chains that a look of the polling thread takes at most: 2 MiB of the largest packets, which are
/// copied in well under the time of a lease.
const LOOK_CHAINS: u16 = 32;
/// After so much a look goes no further, if there are more chains; and no request of more is copied.
const LOOK_BYTES: u64 = 512 << 10;
/// The largest request that a vCPU serves which has notified of it. To copy more takes about as long as
/// to wake another thread, which then works beside the guest.
const LONE_BYTES: u64 = 64 << 10;

/// What a guest set up for a queue, unchecked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct QueueSetup {
    pub(super) max_size: u16,
    pub(super) size: u16,
    pub(super) is_enabled: bool,
    pub(super) descriptors: u64,
    pub(super) avail: u64,
    pub(super) used: u64,
}

/// A queue that the guest's driver made live.
pub struct DeviceQueue {
    queue: Queue,
    // Chains that this batch may still take.
    budget: u16,
    // Whether this batch has put anything in the used ring.
    has_used: bool,
    // The used index before this batch.
    used_before: u16,
    // Since `take_work`.
    work: Work,
    // Of the chain that was taken last.
    last_bytes: u64,
    // What may be copied without waiting, in this batch.
    copy_bytes: u64,
    polling: Option<Polling>,
    stopwatch: Option<Stopwatch>,
    /// Buffers that a chain may have.
    longest_chain: u16,
}

/// Who looks at a queue by himself, without being notified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Poller {
    /// The polling thread.
    Thread,
    /// The I/O thread, for a moment (`linger.rs`).
    Lingering,
}

/// What is known of a queue that is polled.
#[derive(Clone, Copy, Debug)]
struct Polling {
    poller: Poller,
    // The next buffer when the driver was last asked not to notify.
    quiet_since: u16,
    // Whether any look has found something.
    has_found: bool,
    // The I/O thread was called for what is next, or will be by its own events.
    is_left: bool,
}

impl DeviceQueue {
    /// Checks what the guest set up.
    pub(super) fn new(
        setup: &QueueSetup,
        uses_event_idx: bool,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Self, QueueError> {
        let mut queue = Queue::new(setup.max_size).map_err(|_| QueueError::Setup)?;
        queue
            .try_set_size(setup.size)
            .and_then(|()| queue.try_set_desc_table_address(GuestAddress(setup.descriptors)))
            .and_then(|()| queue.try_set_avail_ring_address(GuestAddress(setup.avail)))
            .and_then(|()| queue.try_set_used_ring_address(GuestAddress(setup.used)))
            .map_err(|_| QueueError::Setup)?;
        queue.set_event_idx(uses_event_idx);
        queue.set_ready(true);
        if !queue.is_valid(ram) {
            return Err(QueueError::Setup);
        }
        Ok(Self {
            queue,
            budget: 0,
            has_used: false,
            used_before: 0,
            work: Work::default(),
            last_bytes: 0,
            copy_bytes: 0,
            polling: None,
            stopwatch: None,
            // Also by an indirect table: devices count on it.
            longest_chain: setup.max_size,
        })
    }

    /// From now on a chain may have so many buffers.
    pub(super) fn allow_chains(&mut self, longest: u16) {
        self.longest_chain = longest;
    }

    /// From now on its requests are timed.
    pub(super) fn time(&mut self, histogram: Arc<Histogram>) {
        self.stopwatch = Some(Stopwatch::new(histogram, self.queue.size()));
    }

    /// Whether somebody owns the queue who polls it.
    pub(super) fn is_polled(&self) -> bool {
        self.polling.is_some()
    }

    /// Who that is.
    pub(super) fn poller(&self) -> Option<Poller> {
        self.polling.map(|polling| polling.poller)
    }

    /// This one owns the queue from now on, and looks.
    pub(super) fn take_over(
        &mut self,
        ram: &GuestMemoryMmap<()>,
        poller: Poller,
    ) -> Result<(), QueueError> {
        let quiet_since = self.queue.next_avail();
        let words = Words {
            queue: &self.queue,
            ram,
        };
        // What there is already is found by the look that follows.
        let _has_buffers = ownership::take_over(&words, quiet_since)?;
        self.polling = Some(Polling {
            poller,
            quiet_since,
            has_found: false,
            is_left: false,
        });
        Ok(())
    }

    /// The I/O thread owns the queue from now on, and is notified. Returns whether there are buffers of which the driver
    /// may not tell it.
    pub(super) fn hand_back(&mut self, ram: &GuestMemoryMmap<()>) -> Result<bool, QueueError> {
        self.polling = None;
        let words = Words {
            queue: &self.queue,
            ram,
        };
        ownership::hand_back(&words, self.queue.next_avail())
    }

    /// Whether a look of who polls, since he owns the queue, has found anything.
    pub(super) fn has_found(&self) -> bool {
        self.polling.is_some_and(|polling| polling.has_found)
    }

    /// Whether what is next is the I/O thread's.
    pub(super) fn is_left(&self) -> bool {
        self.polling.is_some_and(|polling| polling.is_left)
    }

    /// What is next is the I/O thread's, or not any more. Of no effect while that owns the queue.
    pub(super) fn set_left(&mut self, is_left: bool) {
        if let Some(polling) = &mut self.polling {
            polling.is_left = is_left;
        }
    }

    /// Starts a look of who polls. Returns whether there is anything for him.
    pub(super) fn begin_look(&mut self, ram: &GuestMemoryMmap<()>) -> Result<bool, QueueError> {
        let (next, has_more) = (self.queue.next_avail(), self.has_more(ram)?);
        let Some(polling) = &mut self.polling else {
            return Ok(false);
        };
        if polling.is_left || !has_more {
            return Ok(false);
        }
        polling.has_found = true;
        if next.wrapping_sub(polling.quiet_since) >= QUIET_BEHIND {
            polling.quiet_since = next;
            let words = Words {
                queue: &self.queue,
                ram,
            };
            words.suppress(next)?;
        }
        self.begin_batch();
        self.budget = self.budget.min(LOOK_CHAINS);
        self.copy_bytes = LOOK_BYTES;
        Ok(true)
    }

    /// Starts a look of the vCPU that has notified, at one chain. Returns how many there are, which is
    /// more than one if the driver's index cannot be right.
    pub(super) fn begin_lone(&mut self, ram: &GuestMemoryMmap<()>) -> Result<u16, QueueError> {
        let avail = self.queue.avail_idx(ram, Ordering::Acquire).map_err(ring)?;
        self.begin_batch();
        self.budget = 1;
        self.copy_bytes = LONE_BYTES;
        Ok(avail.0.wrapping_sub(self.queue.next_avail()))
    }

    /// What `process_now` may copy in all, in this batch.
    pub fn copy_bytes(&self) -> u64 {
        self.copy_bytes
    }

    /// A request of so many bytes was a copy of memory, which a vCPU could have made as well if it is a
    /// small one.
    pub fn note_copy(&mut self, len_bytes: u64) {
        self.work.copies += u64::from(len_bytes <= LONE_BYTES);
    }

    /// Whether the driver has published more than was taken. Anything but equal counts: an index that
    /// cannot be right is found out when a chain is taken.
    pub(super) fn has_more(&self, ram: &GuestMemoryMmap<()>) -> Result<bool, QueueError> {
        let avail = self.queue.avail_idx(ram, Ordering::Acquire).map_err(ring)?;
        Ok(avail.0 != self.queue.next_avail())
    }

    /// Whether a look has done enough: others wait for the polling thread.
    pub(super) fn is_look_over(&self) -> bool {
        let moved = self.work.bytes_from_guest + self.work.bytes_to_guest;
        self.is_budget_spent() || moved >= LOOK_BYTES
    }

    /// Takes the next chain. `None`: there is none now, or the batch's budget is spent.
    pub fn pop<'r>(
        &mut self,
        ram: &'r GuestMemoryMmap<()>,
    ) -> Result<Option<Chain<'r>>, QueueError> {
        if self.budget == 0 {
            return Ok(None);
        }
        let Some(descriptors) = self.queue.iter(ram).map_err(ring)?.next() else {
            return Ok(None);
        };
        self.budget -= 1;
        let chain = Chain::parse(descriptors, self.longest_chain, ram)?;
        self.last_bytes = chain.readable.len_bytes();
        self.work.bytes_from_guest += self.last_bytes;
        if let Some(stopwatch) = &mut self.stopwatch {
            stopwatch.takes(chain.head());
        }
        Ok(Some(chain))
    }

    /// Puts back the chain that was taken last, to be taken again later.
    pub fn unpop(&mut self) {
        self.work.bytes_from_guest -= std::mem::take(&mut self.last_bytes);
        self.queue.go_to_previous_position();
    }

    /// Gives a chain back to the guest, with how many bytes were written to it.
    pub fn add_used(
        &mut self,
        ram: &GuestMemoryMmap<()>,
        head: u16,
        len_bytes: u32,
    ) -> Result<(), QueueError> {
        self.has_used = true;
        self.work.requests += 1;
        self.work.bytes_to_guest += u64::from(len_bytes);
        if let Some(stopwatch) = &mut self.stopwatch {
            stopwatch.gives_back(head);
        }
        self.queue.add_used(ram, head, len_bytes).map_err(ring)
    }

    /// Gives several chains back at once: the driver sees all of them or none. Each is a head and
    /// how many bytes were written.
    pub fn add_used_together(
        &mut self,
        ram: &GuestMemoryMmap<()>,
        chains: &[(u16, u32)],
    ) -> Result<(), QueueError> {
        let Some((&(last, len_bytes), others)) = chains.split_last() else {
            return Ok(());
        };
        let mut index = self.queue.next_used();
        for &(head, len_bytes) in others {
            let entry = u64::from(index % self.queue.size()) * USED_ENTRY_BYTES + USED_HEADER_BYTES;
            let address = self.queue.used_ring().checked_add(entry);
            let address = address.ok_or(QueueError::Setup)?;
            let element = [u32::from(head).to_le(), len_bytes.to_le()];
            ram.write_obj(element, GuestAddress(address))
                .map_err(|error| QueueError::Ring(error.to_string()))?;
            index = index.wrapping_add(1);
        }
        // The last one's index makes all of them visible.
        self.queue.set_next_used(index);
        self.add_used(ram, last, len_bytes)
    }

    /// Chains that a batch takes at most, so that other queues get their turn, and the driver is told
    /// of the first while there is room for more.
    pub fn batch_size(&self) -> u16 {
        self.queue.size().min(BATCH_CHAINS)
    }

    /// Starts a batch.
    pub(super) fn begin_batch(&mut self) {
        self.budget = self.batch_size();
        self.used_before = self.queue.next_used();
        self.has_used = false;
    }

    /// What has been done since `take_work` was called last.
    pub(super) fn work(&self) -> Work {
        self.work
    }

    /// What has been done since the last call.
    pub(super) fn take_work(&mut self) -> Work {
        self.last_bytes = 0;
        std::mem::take(&mut self.work)
    }

    /// Whether this batch gave anything back.
    pub(super) fn has_used(&self) -> bool {
        self.has_used
    }

    /// Spends one unit of the budget without a chain. Returns whether any is left.
    pub(super) fn spend(&mut self) -> bool {
        self.budget = self.budget.saturating_sub(1);
        self.budget > 0
    }

    /// Takes no more chains in this batch; what is left has the next one.
    pub(super) fn end_batch(&mut self) {
        self.budget = 0;
    }

    pub(super) fn is_budget_spent(&self) -> bool {
        self.budget == 0
    }

    /// Asks the driver not to notify while a batch is worked on. While the queue is polled, that has
    /// been done.
    pub(super) fn disable_notification(
        &mut self,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<(), QueueError> {
        if self.is_polled() {
            return Ok(());
        }
        self.queue.disable_notification(ram).map_err(ring)
    }

    /// Asks the driver to notify again, unless the queue is polled. Returns whether chains have come in
    /// the meantime, which it may not have told.
    pub(super) fn enable_notification(
        &mut self,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<bool, QueueError> {
        if self.is_polled() {
            return self.has_more(ram);
        }
        self.queue.enable_notification(ram).map_err(ring)
    }

    /// Whether the driver wants an interrupt for what this batch gave back.
    pub(super) fn needs_interrupt(
        &mut self,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<bool, QueueError> {
        if !self.has_used {
            return Ok(false);
        }
        // Has the fence between our used index and the driver's wish that both ways need.
        self.queue.needs_notification(ram).map_err(ring)?;
        let avail_word = |offset: u64| {
            let address = self.queue.avail_ring().checked_add(offset);
            ram.load::<u16>(
                GuestAddress(address.ok_or(QueueError::Setup)?),
                Ordering::Relaxed,
            )
            .map(u16::from_le)
            .map_err(|error| QueueError::Ring(error.to_string()))
        };
        if self.queue.event_idx_enabled() {
            // The crate counts chains that were added one by one; here some come together.
            let used_event = avail_word(AVAIL_HEADER_BYTES + u64::from(self.queue.size()) * 2)?;
            let now = self.queue.next_used();
            let since_event = now.wrapping_sub(used_event).wrapping_sub(1);
            return Ok(since_event < now.wrapping_sub(self.used_before));
        }
        Ok(avail_word(0)? & AVAIL_NO_INTERRUPT == 0)
    }
}

/// A live queue's words in guest memory. Places are those that `Queue::is_valid` has checked.
struct Words<'a> {
    queue: &'a Queue,
    ram: &'a GuestMemoryMmap<()>,
}

impl Words<'_> {
    /// Stores `avail_event`, the last word of the used ring.
    fn store_event(&self, event: u16) -> Result<(), QueueError> {
        let entries = u64::from(self.queue.size()) * USED_ENTRY_BYTES;
        self.store_used(USED_HEADER_BYTES + entries, event)
    }

    fn store_used(&self, offset: u64, value: u16) -> Result<(), QueueError> {
        let address = self.queue.used_ring().checked_add(offset);
        let address = GuestAddress(address.ok_or(QueueError::Setup)?);
        self.ram
            .store(value.to_le(), address, Ordering::Relaxed)
            .map_err(|error| QueueError::Ring(error.to_string()))
    }
}

impl RingWords for Words<'_> {
    type Error = QueueError;

    fn suppress(&self, next: u16) -> Result<(), QueueError> {
        if self.queue.event_idx_enabled() {
            self.store_event(next.wrapping_sub(QUIET_BEHIND))
        } else {
            self.store_used(0, USED_NO_NOTIFY)
        }
    }

    fn ask(&self, next: u16) -> Result<(), QueueError> {
        if self.queue.event_idx_enabled() {
            self.store_event(next)
        } else {
            self.store_used(0, 0)
        }
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn avail(&self) -> Result<u16, QueueError> {
        let avail = self.queue.avail_idx(self.ram, Ordering::Acquire);
        avail.map(|index| index.0).map_err(ring)
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "used as a function for map_err"
)]
fn ring(error: virtio_queue::Error) -> QueueError {
    QueueError::Ring(error.to_string())
}
