//! What the devices of back ends are to the transport. [`super::blk`] and [`super::fs`] say what is
//! theirs; requests, queues and news are the relay's.

use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::relay::Relay;
use super::request::MAX_PIECES;
use crate::virtio::device::{
    read_config, Progress, QueueError, VirtioDevice, Watched, QUEUE_SIZE_MAX,
};
use crate::virtio::queue::DeviceQueue;

/// PCI class of storage that is none of the older kinds (PCI Code and ID Assignment, 1.1).
const CLASS_STORAGE_OTHER: u32 = 0x01_80_00;

/// What is special about one type of device.
pub trait Personality: Send {
    /// The virtio device type (2 is block).
    const TYPE: u16;
    /// Its name in reports.
    const NAME: &'static str;
    /// Whether the time that its chains take is that of requests: not where one waits for news.
    const IS_TIMED: bool;
    /// The features that its guest is offered.
    fn features(&self) -> u64;
    /// The configuration as the guest sees it. `offered` is the back end's, at most as long as it was
    /// asked for; `nr_queues` counts all queues.
    fn config(&self, offered: &[u8], nr_queues: u16) -> Vec<u8>;
}

/// A device whose requests a back end carries out.
pub struct Served<P> {
    pub(super) relay: Relay,
    pub(super) personality: P,
}

impl<P: Personality> VirtioDevice for Served<P> {
    fn device_type(&self) -> u16 {
        P::TYPE
    }
    fn name(&self) -> &str {
        P::NAME
    }
    fn pci_class(&self) -> u32 {
        CLASS_STORAGE_OTHER
    }
    fn features(&self) -> u64 {
        self.personality.features()
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE_MAX; usize::from(self.relay.nr_queues())]
    }
    // Linux before 5.13 sends what a file system says that it takes, however many buffers that are: a mebibyte by
    // virtio-fs has four more than its queue has entries.
    fn longest_chain(&self) -> Option<u16> {
        u16::try_from(MAX_PIECES).ok()
    }
    fn config_read(&self, offset: u64, data: &mut [u8]) {
        let offered = &self.relay.offer().config;
        let config = self.personality.config(offered, self.relay.nr_queues());
        read_config(&config, offset, data);
    }
    fn take_config_change(&mut self) -> bool {
        self.relay.take_config_change()
    }
    fn is_timed(&self, _queue_index: usize) -> bool {
        P::IS_TIMED
    }
    fn activate(&mut self, features: u64) {
        self.relay.activate(features);
    }
    fn process(
        &mut self,
        queue_index: usize,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        self.relay.turn(queue_index, queue, ram)
    }
    fn reset(&mut self) {
        self.relay.reset();
    }
    fn host_event(&self) -> Option<Arc<EventFd>> {
        Some(self.relay.has_news())
    }
    fn host_event_came(&mut self) {
        self.relay.news_came();
    }
    /// The answers of each ring concern its queue.
    fn watched(&self) -> Vec<Watched> {
        let files = self.relay.calls().into_iter().enumerate();
        files
            .map(|(index, file)| Watched {
                file,
                queues: vec![index],
            })
            .collect()
    }
}
