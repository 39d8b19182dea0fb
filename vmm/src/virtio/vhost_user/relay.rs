//! What all devices of back ends have in common: requests go from the guest's queues to the back end's
//! rings and their answers back, and survive the back end.
//!
//! [`Relay::turn`] moves them, on the I/O thread, as the in-process devices do: so doorbells, interrupts,
//! checks of chains and counters are theirs, and the guest makes no more exits than with them. Only
//! descriptors pass through this process, never data.
//!
//! A back end that has gone leaves requests behind which it may or may not have carried out. A device
//! whose requests can be made twice (`is_repeatable`) has them made again by the next back end; any
//! other fails them, and begins afresh when its driver does. Nothing is answered twice.

use std::fmt::Display;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vhost::VhostUserMemoryRegionInfo;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::connection::{Connection, ConnectionError, Offer};
use super::keeper::{Keeper, Search};
use super::open::VhostUserError;
use super::request::{Fail, Request};
use super::ring::{Ring, RingError, RINGS_GPA, RING_BYTES};
use crate::mem::shared;
use crate::virtio::device::{Progress, QueueError};
use crate::virtio::queue::DeviceQueue;
use crate::virtio::GuestRam;

/// How long a reset waits for answers.
const ANSWERED: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 10_000 });
const POLL: Duration = Duration::from_millis(1);
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
            eprintln!("{}: answers cannot be listened to: {error}", self.name);
            Vec::new()
        })
    }

    /// Whether the configuration has changed since this was last asked.
    pub(super) fn take_config_change(&mut self) -> bool {
        std::mem::take(&mut self.has_new_config)
    }

    /// A driver is there.
    pub(super) fn activate(&mut self, features: u64) {
        self.features = Some(features);
        if self.connection.is_some() {
            self.is_failing = false;
            self.start();
        }
    }

    /// The driver is gone, with all its requests.
    pub(super) fn reset(&mut self) {
        if std::mem::take(&mut self.is_started) {
            self.await_answers();
            let nr_rings = self.rings.len();
            let stopped = self.connection.as_mut().map(|c| c.stop(nr_rings));
            if let Some(Err(error)) = stopped {
                self.distrust(error);
            }
        }
        self.rings.iter_mut().for_each(Ring::forget);
        self.features = None;
    }

    /// Looks at what the keeper has found out. All queues have to be processed next.
    pub(super) fn news_came(&mut self) {
        let news = self.keeper.take_news();
        if news.is_lost {
            self.lose();
        }
        if let Some(error) = news.given_up {
            let waited = self.patience.as_secs();
            self.is_failing = true;
            self.say(format_args!(
                "no other back end within {waited} s ({error}): requests fail until there is one"
            ));
        }
        if let Some(connection) = news.found {
            self.take_over(connection);
        }
    }

    fn lose(&mut self) {
        self.connection = None;
        self.is_started = false;
        // What it had answered it has answered.
        for ring in &mut self.rings {
            if let Err(error) = ring.collect() {
                eprintln!("{}: {error}", self.name);
            }
        }
        let waiting: usize = self.rings.iter().map(Ring::nr_in_flight).sum();
        if self.kind.is_repeatable {
            let patience = self.patience.as_secs();
            self.say(format_args!(
                "its back end is gone; {waiting} requests without an answer, and all new ones, wait {patience} s \
                 for another"
            ));
        } else {
            self.is_failing = true;
            self.say(format_args!(
                "its back end is gone, and what it knew with it: {waiting} requests without an answer, and all \
                 new ones, fail"
            ));
        }
    }

    fn take_over(&mut self, connection: Connection) {
        let new = &connection.offer;
        let lacks = self.offer.features & !new.features;
        if lacks != 0 || usize::from(new.nr_queues) < self.rings.len() {
            let (has, needed) = (new.nr_queues, self.rings.len());
            // The keeper goes on looking.
            connection.close();
            self.say(format_args!(
                "a back end has come that cannot take over (features {lacks:#x} are missing, {has} of {needed} \
                 queues)"
            ));
            return;
        }
        self.has_new_config |= self.offer.config != new.config;
        self.offer.config.clone_from(&new.config);
        self.connection = Some(connection);
        if self.features.is_none() || !self.kind.is_repeatable {
            self.say(format_args!("a back end is there again"));
            return;
        }
        let again: usize = self.rings.iter().map(Ring::nr_in_flight).sum();
        self.is_failing = false;
        self.start();
        if self.is_started {
            self.say(format_args!(
                "a back end is there again, and has got {again} requests once more"
            ));
        }
    }

    /// Lets the back end begin, with what is in flight.
    fn start(&mut self) {
        let started = self.try_start();
        self.is_started = started.is_ok();
        if let Err(error) = started {
            self.distrust(error);
        }
    }

    fn try_start(&mut self) -> Result<(), ConnectionError> {
        let (Some(features), Some(connection)) = (self.features, &mut self.connection) else {
            return Err(ConnectionError::Closed);
        };
        for ring in &mut self.rings {
            ring.begin().map_err(ConnectionError::Memory)?;
        }
        let places = self.rings.iter().map(Ring::place);
        let places: Vec<_> = places
            .collect::<Result<_, RingError>>()
            .map_err(ConnectionError::Memory)?;
        let mut memory = regions(&self.ram).unwrap_or_default();
        memory.extend(regions(&self.rings_memory).unwrap_or_default());
        connection.start(features, &memory, &places)?;
        self.rings.iter().for_each(Ring::notify);
        Ok(())
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

    /// Waits until the back end has answered everything: until then it writes to the guest's memory.
    fn await_answers(&mut self) {
        let until = Instant::now() + ANSWERED;
        loop {
            // A ring that is corrupt has no more answers.
            let is_bad = self.rings.iter_mut().any(|ring| ring.collect().is_err());
            let left: usize = self.rings.iter().map(Ring::nr_in_flight).sum();
            if left == 0 {
                return;
            }
            let is_gone = self.keeper.has_lost();
            if is_bad || is_gone || Instant::now() >= until {
                self.distrust(format_args!("{left} requests were not answered at a reset"));
                return;
            }
            thread::sleep(POLL);
        }
    }

    /// Parts from a back end that cannot be trusted; the keeper sees that and looks for another one.
    fn distrust(&mut self, why: impl Display) {
        self.is_started = false;
        if let Some(connection) = self.connection.take() {
            connection.close();
            self.say(format_args!("its back end is given up: {why}"));
        }
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
        eprintln!("coopvirt: {}: {what}{last}", self.name);
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

/// Waits a little for a back end that is just starting.
pub(super) fn connect(search: &Search, patience: Duration) -> Result<Connection, ConnectionError> {
    let until = Instant::now() + patience;
    let path: &Path = &search.path;
    loop {
        match Connection::open(path, &search.needs) {
            Err(ConnectionError::Connect(error))
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
                ) && Instant::now() < until =>
            {
                thread::sleep(Duration::from_millis(100));
            }
            result => return result,
        }
    }
}
