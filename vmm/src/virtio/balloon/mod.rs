//! virtio-balloon: memory that the guest gives up on demand, and free memory that it reports by itself.
//!
//! The host sets a target ([`BalloonControl`], which the control socket has); the guest then hands
//! over pages until as much is in the balloon, and the host takes their memory back at once
//! (`frames.rs`). A smaller target gives pages back: the guest takes them out and uses them, and the
//! host backs them again at the first touch. The guest may take pages out by itself before it runs
//! out of memory (DEFLATE_ON_OOM). It says how it is off for memory in one buffer that waits here
//! until somebody asks (`statistics.rs`). Free page reporting is apart from all that
//! (`reports.rs`): reported memory stays the guest's, and only its contents go.
//!
//! Nothing here protects a guest from itself: memory that it gave up and still uses is zero. Host
//! memory comes back only as far as nobody fills it again: khugepaged may, where guest memory is
//! advised for huge pages and `max_ptes_none` is large.

mod control;
mod frames;
mod reports;
mod statistics;

use std::io;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

pub use self::control::{BalloonControl, BalloonError, BalloonState};
pub use self::statistics::BalloonStatistics;
use super::device::{read_config, Progress, QueueError, VirtioDevice, QUEUE_SIZE_MAX};
use super::queue::DeviceQueue;

const TYPE_BALLOON: u16 = 5;
const CLASS_OTHER: u32 = 0xff_00_00;

const F_STATS_VQ: u64 = 1 << 1;
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_REPORTING: u64 = 1 << 5;

const INFLATE_QUEUE: usize = 0;
const STATISTICS_QUEUE: usize = 2;
/// As the specification numbers them (virtio 1.3, 5.5.2), with one for free page hints that nobody
/// gets.
const NR_QUEUES: usize = 5;

/// Pages wanted, then pages in the balloon, which the driver writes.
const CONFIG_BYTES: usize = 8;
const ACTUAL_AT: usize = 4;

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Statistics,
    Report,
}

/// The balloon device.
pub struct Balloon {
    control: Arc<BalloonControl>,
    features: u64,
    has_new_target: bool,
    // Head of the buffer that waits for somebody to ask for statistics.
    held: Option<u16>,
}

impl Balloon {
    /// Creates the device, with nothing wanted.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            control: Arc::new(BalloonControl::new()?),
            features: 0,
            has_new_target: false,
            held: None,
        })
    }

    /// The host's way to it.
    pub fn control(&self) -> Arc<BalloonControl> {
        Arc::clone(&self.control)
    }

    /// Linux numbers the queues of features that it has without gaps (`vp_find_vqs_msix`,
    /// drivers/virtio/virtio_pci_common.c), other drivers as the specification does. No number means
    /// two things.
    fn role(&self, queue_index: usize) -> Role {
        match queue_index {
            INFLATE_QUEUE => Role::Inflate,
            STATISTICS_QUEUE if self.features & F_STATS_VQ != 0 => Role::Statistics,
            STATISTICS_QUEUE.. => Role::Report,
            _ => Role::Deflate,
        }
    }

    /// Takes what the guest says, and gives its buffer back once there is a newer one or somebody asks.
    fn statistics(
        &mut self,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        while let Some(mut chain) = queue.pop(ram)? {
            self.control
                .take_statistics(statistics::read(&mut chain.readable));
            if let Some(older) = self.held.replace(chain.head()) {
                queue.add_used(ram, older, 0)?;
            }
        }
        if self.held.is_some() && self.control.take_question() {
            if let Some(head) = self.held.take() {
                queue.add_used(ram, head, 0)?;
            }
        }
        Ok(Progress::Drained)
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u16 {
        TYPE_BALLOON
    }
    fn name(&self) -> &str {
        "virtio-balloon"
    }
    fn pci_class(&self) -> u32 {
        CLASS_OTHER
    }
    fn features(&self) -> u64 {
        F_STATS_VQ | F_DEFLATE_ON_OOM | F_REPORTING
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE_MAX; NR_QUEUES]
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        read_config(&self.control.config(), offset, data);
    }

    fn config_write(&mut self, offset: u64, data: &[u8]) {
        let mut config = self.control.config();
        let Ok(offset) = usize::try_from(offset) else {
            return;
        };
        for (step, byte) in data.iter().enumerate() {
            let at = offset.saturating_add(step);
            if let (ACTUAL_AT.., Some(place)) = (at, config.get_mut(at)) {
                *place = *byte;
            }
        }
        let [.., a, b, c, d] = config;
        self.control.set_actual(u32::from_le_bytes([a, b, c, d]));
    }

    fn activate(&mut self, features: u64) {
        self.features = features;
        self.control
            .driver_comes(features & F_STATS_VQ != 0, features & F_DEFLATE_ON_OOM != 0);
    }

    fn process(
        &mut self,
        queue_index: usize,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        let role = self.role(queue_index);
        if role == Role::Statistics {
            return self.statistics(queue, ram);
        }
        let (mut nr_frames, mut reports) = (0, reports::Turn::new());
        while let Some(mut chain) = queue.pop(ram)? {
            match role {
                Role::Inflate => {
                    let frames = frames::read(&mut chain.readable);
                    nr_frames += frames.len();
                    self.control.count_inflated(frames::release(frames, ram));
                }
                Role::Report => {
                    let bytes = reports.release(&mut chain.writable, ram);
                    self.control.count_reported(bytes);
                }
                // Backed again when it is touched.
                Role::Deflate | Role::Statistics => {}
            }
            queue.add_used(ram, chain.head(), 0)?;
            if nr_frames >= frames::MAX_FRAMES || reports.is_over() {
                // Others get their turn; the rest comes with the next batch.
                queue.end_batch();
            }
        }
        Ok(Progress::Drained)
    }

    fn reset(&mut self) {
        self.features = 0;
        self.held = None;
        self.control.driver_goes();
    }

    fn host_event(&self) -> Option<Arc<EventFd>> {
        Some(self.control.event())
    }

    fn host_event_came(&mut self) {
        self.has_new_target |= self.control.take_new_target();
    }

    fn take_config_change(&mut self) -> bool {
        std::mem::take(&mut self.has_new_target)
    }
}
