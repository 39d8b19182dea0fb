//! What all devices of back ends have in common: requests go from the guest's queues to the back end's
//! rings and their answers back, and survive the back end.
//!
//! [`Relay::turn`] moves them, on the I/O thread, as the in-process devices do: so doorbells, interrupts,
//! checks of chains and counters are theirs, and the guest makes no more exits than with them. Only
//! descriptors pass through this process, never data.
//!
//! `changes` is about drivers and back ends that come and go.

mod changes;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use vhost::VhostUserMemoryRegionInfo;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::connection::{Connection, Offer};
use super::keeper::{Keeper, Search};
use super::open::VhostUserError;
use super::request::{Fail, Request};
use super::ring::{Ring, RingError, RINGS_GPA, RING_BYTES};
use crate::mem::shared;
use crate::virtio::device::{Progress, QueueError};
use crate::virtio::queue::DeviceQueue;
use crate::virtio::GuestRam;

/// A back end can come and go in a loop; the log is not its to fill.
const MAX_MESSAGES: u32 = 64;

/// What kind of device it is, as far as this matters here.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    /// For messages.
    pub(super) name: &'static str,
    /// Whether requests may be made again by another back end.
    pub(super) is_repeatable: bool,
    /// How a request fails.
    pub(super) fail: Fail,
}

pub(super) struct Relay {
    kind: Kind,
    name: String,
    ram: GuestRam,
    rings: Vec<Ring>,
    rings_memory: Arc<GuestMemoryMmap<()>>,
    keeper: Keeper,
    patience: Duration,
    connection: Option<Connection>,
    offer: Offer,
    /// Of the driver that is there.
    features: Option<u64>,
    /// Whether the back end serves the rings.
    is_started: bool,
    /// Whether a back end has served this driver, and so may have known of it what no other one knows.
    has_served: bool,
    /// Whether requests fail instead of waiting.
    is_failing: bool,
    has_new_config: bool,
    messages_left: u32,
}

impl Relay {
    /// A relay for the back end that has been found, with so many queues.
    pub(super) fn new(
        kind: Kind,
        search: Search,
        connection: Connection,
        nr_queues: u16,
        ram: &GuestRam,
    ) -> Result<Self, VhostUserError> {
        let path = search.path.clone();
        let io = |what| {
            let path = path.clone();
            move |source| VhostUserError::Io { what, path, source }
        };
        let nr_queues = usize::from(nr_queues);
        let memory = shared::map(RINGS_GPA, nr_queues * RING_BYTES);
        let memory = Arc::new(memory.map_err(io("make memory for the rings"))?);
        let rings = (0..nr_queues).map(|index| Ring::new(&memory, index));
        let rings: Vec<Ring> = rings
            .collect::<Result<_, _>>()
            .map_err(io("make the rings"))?;
        if regions(ram).is_none() {
            return Err(VhostUserError::PrivateMemory);
        }
        let patience = search.patience;
        let keeper = Keeper::start(search, &connection).map_err(io("watch the back end"))?;
        Ok(Self {
            kind,
            name: format!("{} at {}", kind.name, path.display()),
            ram: ram.clone(),
            rings,
            rings_memory: memory,
            keeper,
            patience,
            offer: connection.offer.clone(),
            connection: Some(connection),
            features: None,
            is_started: false,
            has_served: false,
            is_failing: false,
            has_new_config: false,
            messages_left: MAX_MESSAGES,
        })
    }

    /// What the back end has; the latest, if there were several.
    pub(super) fn offer(&self) -> &Offer {
        &self.offer
    }

    pub(super) fn nr_queues(&self) -> u16 {
        u16::try_from(self.rings.len()).unwrap_or(u16::MAX)
    }

    pub(super) fn has_news(&self) -> Arc<EventFd> {
        self.keeper.has_news()
    }

    /// What is signalled by answers, ring by ring.
    pub(super) fn calls(&self) -> Vec<Arc<File>> {
        let files = self.rings.iter().map(Ring::call_file);
        files.collect::<Result<_, _>>().unwrap_or_else(|error| {
            complain!("{}: answers cannot be listened to: {error}", self.name);
            Vec::new()
        })
    }

    /// Whether the configuration has changed since this was last asked.
    pub(super) fn take_config_change(&mut self) -> bool {
        std::mem::take(&mut self.has_new_config)
    }

    /// Moves what there is to move in one queue.
    pub(super) fn turn(
        &mut self,
        queue_index: usize,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        let fail = self.kind.fail;
        let Some(ring) = self.rings.get_mut(queue_index) else {
            return Ok(Progress::Drained);
        };
        let collected = ring.collect();
        while let Some((head, len_bytes)) = ring.take_answered() {
            queue.add_used(ram, head, len_bytes)?;
        }
        if let Err(error) = collected {
            self.distrust(error);
        }
        let ring = &mut self.rings[queue_index];
        if self.is_failing {
            for request in ring.take_in_flight() {
                queue.add_used(ram, request.head(), fail(&request, ram))?;
            }
            while let Some(chain) = queue.pop(ram)? {
                let request = Request::new(&chain, ram)?;
                queue.add_used(ram, request.head(), fail(&request, ram))?;
            }
            return Ok(Progress::Drained);
        }
        if !self.is_started {
            return Ok(Progress::Waiting);
        }
        let before = ring.nr_in_flight();
        let taken = take(ring, queue, ram);
        // Also if the queue is broken now: what came before that has to come to its end.
        if ring.nr_in_flight() > before {
            ring.notify();
        }
        let is_full = ring.is_full();
        if let Err(error) = taken? {
            self.distrust(error);
        }
        Ok(if is_full {
            Progress::Waiting
        } else {
            Progress::Drained
        })
    }

    fn say(&mut self, what: impl Display) {
        if self.messages_left == 0 {
            return;
        }
        self.messages_left -= 1;
        let last = if self.messages_left == 0 {
            " (its last message)"
        } else {
            ""
        };
        complain!("coopvirt: {}: {what}{last}", self.name);
    }
}

/// Takes chains until there is none, the batch's budget is spent or the ring is full.
fn take(
    ring: &mut Ring,
    queue: &mut DeviceQueue,
    ram: &GuestMemoryMmap<()>,
) -> Result<Result<(), RingError>, QueueError> {
    while !ring.is_full() {
        let Some(chain) = queue.pop(ram)? else {
            break;
        };
        if let Err(error) = ring.submit(Request::new(&chain, ram)?) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

/// Memory as a back end is told of it; `None` if it cannot be shared.
fn regions(memory: &GuestMemoryMmap<()>) -> Option<Vec<VhostUserMemoryRegionInfo>> {
    let region = |region: &vm_memory::GuestRegionMmap<()>| {
        let file = region.file_offset()?;
        Some(VhostUserMemoryRegionInfo {
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
            mmap_offset: file.start(),
            mmap_handle: file.file().as_raw_fd(),
        })
    };
    memory.iter().map(region).collect()
}
