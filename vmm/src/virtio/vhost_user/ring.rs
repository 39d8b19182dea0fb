//! A ring between this process and a back end, of which this process is the driver.
//!
//! It lies in memory of the VMM's own, not in the guest's: a request of the guest is one descriptor
//! here, with an indirect table that names the guest's buffers. So a request is known from the time
//! that it is handed over until its answer is taken, and can be handed over again to another back end
//! or given back as failed, whatever the first one has done. Data is never copied.
//!
//! Called by `relay` with the device's lock held. What the back end writes (the used ring) is read once
//! and checked: an answer to nothing that was asked is an error, after which it is not trusted with
//! anything more.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::atomic::{fence, Ordering};
use std::sync::Arc;

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::connection::RingPlace;
use super::request::{Request, MAX_PIECES};
use crate::virtio::device::QUEUE_SIZE_MAX;
use crate::virtio::sys;

/// Where the rings are for a back end: above everything that x86 can address as memory.
pub(super) const RINGS_GPA: GuestAddress = GuestAddress(1 << 52);

const DESCRIPTOR_BYTES: usize = 16;
const PAGE_BYTES: usize = 4096;
const AVAIL: u64 = PAGE_BYTES as u64;
const USED: u64 = 2 * PAGE_BYTES as u64;
const HEADER_BYTES: usize = 3 * PAGE_BYTES;
const TABLE_BYTES: usize = MAX_PIECES * DESCRIPTOR_BYTES;
/// Memory of a ring: descriptors, available and used ring with a page each, then the tables.
pub(super) const RING_BYTES: usize =
    (HEADER_BYTES + QUEUE_SIZE_MAX as usize * TABLE_BYTES).next_multiple_of(PAGE_BYTES);

// Offsets in both rings (virtio 1.2, 2.7.6 and 2.7.8).
const INDEX: u64 = 2;
const ENTRIES: u64 = 4;
const AVAIL_ENTRY_BYTES: u64 = 2;
const USED_ENTRY_BYTES: u64 = 8;

const DESCRIPTOR_NEXT: u16 = 1;
const DESCRIPTOR_WRITE: u16 = 2;
const DESCRIPTOR_INDIRECT: u16 = 4;
const USED_NO_NOTIFY: u16 = 1;

/// Why a ring cannot be used any more with its present back end.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum RingError {
    #[error("it answered a request that it does not have ({0})")]
    Answer(u32),
    #[error(
        "its used index makes no sense ({used} with {in_flight} requests in flight, {taken} taken)"
    )]
    Index {
        used: u16,
        in_flight: usize,
        taken: u16,
    },
    #[error("the ring's memory cannot be accessed")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// A ring.
pub(super) struct Ring {
    memory: Arc<GuestMemoryMmap<()>>,
    base: GuestAddress,
    kick: EventFd,
    call: EventFd,
    next_avail: u16,
    next_used: u16,
    /// By descriptor: the request, and a number that grows with each.
    in_flight: Vec<Option<(u64, Request)>>,
    free: Vec<u16>,
    next_number: u64,
    /// Answered, but not yet told to the guest: its head and how many bytes were written.
    answered: VecDeque<(u16, u32)>,
}

impl Ring {
    /// The ring at `index` of this memory.
    pub(super) fn new(memory: &Arc<GuestMemoryMmap<()>>, index: usize) -> io::Result<Self> {
        let base = GuestAddress(RINGS_GPA.0 + (index * RING_BYTES) as u64);
        Ok(Self {
            memory: memory.clone(),
            base,
            kick: EventFd::new(EFD_NONBLOCK)?,
            call: EventFd::new(EFD_NONBLOCK)?,
            next_avail: 0,
            next_used: 0,
            in_flight: (0..QUEUE_SIZE_MAX).map(|_| None).collect(),
            free: (0..QUEUE_SIZE_MAX).rev().collect(),
            next_number: 0,
            answered: VecDeque::new(),
        })
    }

    /// What a back end has to know of it.
    pub(super) fn place(&self) -> Result<RingPlace<'_>, RingError> {
        let host = |offset| {
            let address = self.memory.get_host_address(self.at(offset))?;
            Ok::<u64, RingError>(address as u64)
        };
        Ok(RingPlace {
            size: QUEUE_SIZE_MAX,
            descriptors: host(0)?,
            avail: host(AVAIL)?,
            used: host(USED)?,
            kick: &self.kick,
            call: &self.call,
        })
    }

    /// What the back end signals after an answer. Nobody has to read it: each signal is an edge.
    pub(super) fn call_file(&self) -> io::Result<Arc<File>> {
        Ok(Arc::new(sys::file_of(&self.call)?))
    }

    /// How many requests have no answer.
    pub(super) fn nr_in_flight(&self) -> usize {
        self.in_flight.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Hands a request over, if there is room; [`Ring::notify`] tells the back end.
    pub(super) fn submit(&mut self, request: Request) -> Result<(), RingError> {
        let Some(id) = self.free.pop() else {
            debug_assert!(false, "the caller asks first");
            return Ok(());
        };
        let number = self.next_number;
        self.next_number += 1;
        let offered = self.offer(id, &request);
        // Kept also if that failed: then it is one of those that wait for the next back end.
        self.in_flight[usize::from(id)] = Some((number, request));
        offered
    }

    fn offer(&mut self, id: u16, request: &Request) -> Result<(), RingError> {
        let table = self.at((HEADER_BYTES + usize::from(id) * TABLE_BYTES) as u64);
        let last = request.pieces().len().saturating_sub(1);
        let mut at = table;
        for (index, piece) in request.pieces().iter().enumerate() {
            let more = if index < last { DESCRIPTOR_NEXT } else { 0 };
            let write = if piece.is_written {
                DESCRIPTOR_WRITE
            } else {
                0
            };
            let next = u16::try_from(index + 1).unwrap_or(0);
            let descriptor = Descriptor::new(piece.gpa, piece.len_bytes, more | write, next);
            self.memory.write_obj(descriptor, at)?;
            at.0 += DESCRIPTOR_BYTES as u64;
        }
        let len = u32::try_from(at.0 - table.0).unwrap_or(0);
        let head = Descriptor::new(table.0, len, DESCRIPTOR_INDIRECT, 0);
        let descriptor = self.at(u64::from(id) * DESCRIPTOR_BYTES as u64);
        self.memory.write_obj(head, descriptor)?;
        let slot = u64::from(self.next_avail % QUEUE_SIZE_MAX) * AVAIL_ENTRY_BYTES;
        self.memory
            .write_obj(id.to_le(), self.at(AVAIL + ENTRIES + slot))?;
        self.next_avail = self.next_avail.wrapping_add(1);
        // Pairs with the back end's load of the index: what it then sees of the entry is all of it.
        let index = self.at(AVAIL + INDEX);
        self.memory
            .store(self.next_avail.to_le(), index, Ordering::Release)?;
        Ok(())
    }

    /// Tells the back end that there is something new, unless it has said that it looks by itself.
    pub(super) fn notify(&self) {
        // The index must be out before the flag is read: the back end clears the flag, does the same
        // in the other order, and looks at the index once more. Without it both could miss the other.
        fence(Ordering::SeqCst);
        let flags = self
            .memory
            .load::<u16>(self.at(USED), Ordering::Relaxed)
            .map(u16::from_le);
        if !flags.is_ok_and(|flags| flags & USED_NO_NOTIFY != 0) {
            // Fails only if the counter is full, and then it is signalled.
            let _ = self.kick.write(1);
        }
    }

    /// Takes what has been answered from the used ring.
    pub(super) fn collect(&mut self) -> Result<(), RingError> {
        // Pairs with the back end's store: the entries and the guest's data are there.
        let used = self
            .memory
            .load::<u16>(self.at(USED + INDEX), Ordering::Acquire)
            .map(u16::from_le)?;
        let count = used.wrapping_sub(self.next_used);
        if usize::from(count) > self.nr_in_flight() {
            return Err(RingError::Index {
                used,
                in_flight: self.nr_in_flight(),
                taken: self.next_used,
            });
        }
        for _ in 0..count {
            let slot = u64::from(self.next_used % QUEUE_SIZE_MAX) * USED_ENTRY_BYTES;
            let entry: [u32; 2] = self.memory.read_obj(self.at(USED + ENTRIES + slot))?;
            let [id, len] = entry.map(u32::from_le);
            let asked = usize::try_from(id)
                .ok()
                .and_then(|id| self.in_flight.get_mut(id)?.take());
            let Some((_, request)) = asked else {
                return Err(RingError::Answer(id));
            };
            self.next_used = self.next_used.wrapping_add(1);
            // It is below the ring's size, or there would be no request by it.
            self.free.push(u16::try_from(id).unwrap_or(0));
            let written = len.min(request.writable_bytes());
            self.answered.push_back((request.head(), written));
        }
        Ok(())
    }

    /// The next request to be given back: head and how many bytes were written.
    pub(super) fn take_answered(&mut self) -> Option<(u16, u32)> {
        self.answered.pop_front()
    }

    /// All requests without an answer, in the order in which they came.
    pub(super) fn take_in_flight(&mut self) -> Vec<Request> {
        let mut requests: Vec<_> = self.in_flight.iter_mut().filter_map(Option::take).collect();
        self.free = (0..QUEUE_SIZE_MAX).rev().collect();
        requests.sort_by_key(|(number, _)| *number);
        requests.into_iter().map(|(_, request)| request).collect()
    }

    /// Empties the ring for a back end that begins; what was in flight is in it again.
    pub(super) fn begin(&mut self) -> Result<(), RingError> {
        let requests = self.take_in_flight();
        self.memory.write_slice(&[0; HEADER_BYTES], self.at(0))?;
        (self.next_avail, self.next_used) = (0, 0);
        // What an earlier back end had not heard says nothing to this one.
        let _ = self.kick.read();
        // All of them are kept, also if one cannot be written.
        let mut result = Ok(());
        for request in requests {
            let submitted = self.submit(request);
            result = result.and(submitted);
        }
        result
    }

    /// Forgets all requests: the guest has.
    pub(super) fn forget(&mut self) {
        self.take_in_flight();
        self.answered.clear();
    }

    fn at(&self, offset: u64) -> GuestAddress {
        // Inside the memory that RING_BYTES describes, far from an overflow.
        GuestAddress(self.base.0 + offset)
    }
}
