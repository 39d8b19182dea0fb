//! virtio-net: a network interface of the guest on a tap of the host.
//!
//! Two ways for packets. By default the kernel moves them (vhost-net, `kernel.rs`): the guest's
//! notifications and interrupts go there and come from there, and no thread of this process sees
//! a packet. Where that is not possible or not wanted, the I/O thread moves them (`pair.rs`). The
//! control queue is always ours.
//!
//! Queues are pairs (receive, send), one pair per vCPU if the tap has as many; the control queue
//! comes behind the pairs that the driver knows of. A driver uses one pair until it asks for more.
//!
//! A tap that is removed leaves a device whose link is down.

mod control;
mod kernel;
mod links;
mod open;
mod pair;
mod tap;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use self::kernel::KernelServer;
use self::links::LinkNews;
pub use self::open::NetError;
use self::pair::Pair;
use self::tap::{Tap, OFFLOAD_CSUM, OFFLOAD_ECN, OFFLOAD_TSO4, OFFLOAD_TSO6};
use super::device::{
    read_config, HandedQueue, Polled, Progress, QueueError, VirtioDevice, Watched, QUEUE_SIZE_MAX,
};
use super::queue::DeviceQueue;
use crate::config::NetConfig;

const TYPE_NETWORK: u16 = 1;
const CLASS_ETHERNET: u32 = 0x02_00_00;

/// Length of the header before each packet, in virtio 1.x always with the number of chains.
const HEADER_BYTES: usize = 12;

const FEATURE_CSUM: u64 = 1 << 0;
const FEATURE_GUEST_CSUM: u64 = 1 << 1;
const FEATURE_MAC: u64 = 1 << 5;
const FEATURE_GUEST_TSO4: u64 = 1 << 7;
const FEATURE_GUEST_TSO6: u64 = 1 << 8;
const FEATURE_GUEST_ECN: u64 = 1 << 9;
const FEATURE_HOST_TSO4: u64 = 1 << 11;
const FEATURE_HOST_TSO6: u64 = 1 << 12;
const FEATURE_HOST_ECN: u64 = 1 << 13;
const FEATURE_MRG_RXBUF: u64 = 1 << 15;
const FEATURE_STATUS: u64 = 1 << 16;
const FEATURE_CTRL_VQ: u64 = 1 << 17;
const FEATURE_MQ: u64 = 1 << 22;

const OFFLOADS: u64 = FEATURE_CSUM
    | FEATURE_GUEST_CSUM
    | FEATURE_GUEST_TSO4
    | FEATURE_GUEST_TSO6
    | FEATURE_GUEST_ECN
    | FEATURE_HOST_TSO4
    | FEATURE_HOST_TSO6
    | FEATURE_HOST_ECN;

/// Of a receiving queue. A packet of 64 KiB takes 17 buffers of a page, so that 256 were 1 MiB: a
/// driver that was not let run for a moment, or that works by the batch, finds the queue empty and has
/// to notify that it is filled again.
const RECEIVE_QUEUE_SIZE: u16 = 1024;

/// The control queue where the driver knows of one pair only.
const CONTROL_OF_ONE_PAIR: usize = 2;
const STATUS_LINK_UP: u16 = 1;

/// The network device.
pub struct Net {
    tap_name: String,
    mac: [u8; 6],
    offered: u64,
    pairs: Vec<Pair>,
    news: LinkNews,
    // None: packets go through this process.
    server: Option<KernelServer>,
    // What the driver has agreed to; None without a driver.
    features: Option<u64>,
    is_link_up: bool,
    config_changed: bool,
    // The kernel has given up on a ring of this driver.
    has_failed: bool,
    // How long the I/O thread looks for more packets.
    lingers: Duration,
}

impl Net {
    fn new(
        config: &NetConfig,
        taps: Vec<Tap>,
        news: LinkNews,
        server: Option<KernelServer>,
        lingers: Duration,
    ) -> io::Result<Self> {
        let mut offered = FEATURE_MAC | FEATURE_STATUS | FEATURE_MRG_RXBUF | FEATURE_CTRL_VQ;
        if config.offloads {
            offered |= OFFLOADS;
        }
        if taps.len() > 1 {
            offered |= FEATURE_MQ;
        }
        if let Some(server) = &server {
            offered &= server.features() | !FEATURE_MRG_RXBUF;
        }
        let mut net = Self {
            tap_name: config.tap.clone(),
            mac: config.mac_address(),
            offered,
            pairs: taps.into_iter().map(Pair::new).collect(),
            news,
            server,
            features: None,
            is_link_up: true,
            config_changed: false,
            has_failed: false,
            lingers,
        };
        net.enable_pairs(1)?;
        Ok(net)
    }

    /// A device whose taps are sockets.
    #[cfg(test)]
    pub(super) fn stand_in(taps: Vec<std::fs::File>) -> Self {
        Self::stand_in_lingering(taps, Duration::ZERO)
    }

    /// The same, for which the I/O thread lingers.
    #[cfg(test)]
    pub(super) fn stand_in_lingering(taps: Vec<std::fs::File>, lingers: Duration) -> Self {
        let config = crate::config::net("tap=test").expect("a good configuration");
        let taps = taps.into_iter().map(Tap::stand_in).collect();
        let news = LinkNews::open().expect("anybody may listen");
        Self::new(&config, taps, news, None, lingers).expect("nothing to fail")
    }

    /// Lets the tap use the first `count` pairs only.
    fn enable_pairs(&mut self, count: usize) -> io::Result<()> {
        for (index, pair) in self.pairs.iter_mut().enumerate() {
            let is_enabled = index < count;
            if pair.is_enabled != is_enabled {
                pair.tap.enable(is_enabled)?;
                pair.is_enabled = is_enabled;
            }
        }
        Ok(())
    }

    fn has(&self, feature: u64) -> bool {
        self.features.unwrap_or(0) & feature != 0
    }

    fn control_queue(&self) -> usize {
        if self.features.is_none() || self.has(FEATURE_MQ) {
            self.pairs.len() * 2
        } else {
            CONTROL_OF_ONE_PAIR
        }
    }

    /// Takes the link down, once, if the interface has gone.
    fn look_after_the_tap(&mut self) {
        let is_gone = self.pairs.first().is_some_and(|pair| !pair.tap.is_there());
        if is_gone && self.is_link_up {
            self.is_link_up = false;
            self.config_changed = true;
            complain!(
                "virtio-net: tap {} was removed: the guest's link is down until the machine is started again",
                self.tap_name
            );
        }
    }

    fn run_control(
        &mut self,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        let most = if self.has(FEATURE_MQ) {
            self.pairs.len()
        } else {
            0
        };
        control::process(queue, ram, |count| {
            let count = usize::from(count);
            (1..=most).contains(&count) && self.enable_pairs(count).is_ok()
        })
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u16 {
        TYPE_NETWORK
    }
    fn name(&self) -> &str {
        "virtio-net"
    }
    fn pci_class(&self) -> u32 {
        CLASS_ETHERNET
    }
    fn features(&self) -> u64 {
        self.offered
    }
    fn queue_sizes(&self) -> Vec<u16> {
        let pairs = [RECEIVE_QUEUE_SIZE, QUEUE_SIZE_MAX].repeat(self.pairs.len());
        [pairs, vec![QUEUE_SIZE_MAX]].concat()
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 10];
        let status = if self.is_link_up { STATUS_LINK_UP } else { 0 };
        let pairs = u16::try_from(self.pairs.len()).unwrap_or(u16::MAX);
        config[0..6].copy_from_slice(&self.mac);
        config[6..8].copy_from_slice(&status.to_le_bytes());
        config[8..10].copy_from_slice(&pairs.to_le_bytes());
        read_config(&config, offset, data);
    }

    fn activate(&mut self, features: u64) {
        self.features = Some(features);
        let offloads = [
            (FEATURE_GUEST_CSUM, OFFLOAD_CSUM),
            (FEATURE_GUEST_TSO4, OFFLOAD_TSO4),
            (FEATURE_GUEST_TSO6, OFFLOAD_TSO6),
            (FEATURE_GUEST_ECN, OFFLOAD_ECN),
        ];
        let offloads = offloads
            .into_iter()
            .filter(|&(feature, _)| self.has(feature))
            .fold(0, |all, (_, offload)| all | offload);
        // Segments need checksums left to the other side, or the kernel refuses all of it.
        let offloads = if offloads & OFFLOAD_CSUM == 0 {
            0
        } else {
            offloads
        };
        for pair in &self.pairs {
            // It fails where the interface has gone; then there is nothing to receive either.
            if pair.is_enabled && pair.tap.set_offloads(offloads).is_err() {
                let _ = pair.tap.set_offloads(0);
            }
        }
    }

    fn process(
        &mut self,
        queue_index: usize,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        if queue_index == self.control_queue() {
            return self.run_control(queue, ram);
        }
        let merges = self.has(FEATURE_MRG_RXBUF);
        let is_receiving = queue_index.is_multiple_of(2);
        match self.pairs.get_mut(queue_index / 2) {
            // A queue behind those that the driver may use: left alone.
            None => Ok(Progress::Waiting),
            Some(pair) if !is_receiving => pair.transmit(queue, ram),
            Some(pair) if pair.is_enabled => pair.receive(queue, ram, merges),
            Some(_) => Ok(Progress::Waiting),
        }
    }

    fn can_be_polled(&self, queue_index: usize) -> bool {
        // What is received comes from the tap, which the I/O thread watches; buffers for it are asked
        // for only when they have run out.
        let is_sending = queue_index % 2 == 1 && queue_index < self.pairs.len() * 2;
        self.server.is_none() && is_sending
    }

    fn lingers(&self) -> Duration {
        match self.server {
            None => self.lingers,
            Some(_) => Duration::ZERO,
        }
    }

    /// The tap takes a packet at once or not at all.
    fn process_now(
        &mut self,
        queue_index: usize,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Polled, QueueError> {
        self.process(queue_index, queue, ram).map(Polled::from)
    }

    fn reset(&mut self) {
        if let Some(server) = &mut self.server {
            server.stop();
        }
        self.features = None;
        self.has_failed = false;
        self.pairs.iter_mut().for_each(Pair::reset);
        // Both fail only where the interface has gone. The next driver may want no offloads, and what waits for it
        // must not have been left unfinished for this one.
        let _ = self.enable_pairs(1);
        let first = self.pairs.first();
        let _ = first.map(|pair| pair.tap.set_offloads(0));
    }

    fn host_event(&self) -> Option<Arc<EventFd>> {
        self.server.as_ref().map(KernelServer::errors)
    }

    fn host_event_came(&mut self) {
        if let Some(server) = &mut self.server {
            server.stop();
            self.has_failed = true;
        }
    }

    fn has_failed_elsewhere(&self) -> bool {
        self.has_failed
    }

    fn watched(&self) -> Vec<Watched> {
        let mut watched = vec![Watched {
            file: self.news.0.clone(),
            queues: Vec::new(),
        }];
        if self.server.is_none() {
            watched.extend((0..).zip(&self.pairs).map(|(index, pair)| Watched {
                file: pair.tap.file.clone(),
                queues: vec![index * 2, index * 2 + 1],
            }));
        }
        watched
    }

    fn file_ready(&mut self, index: usize) {
        if index == 0 {
            self.news.drain();
            self.look_after_the_tap();
        }
    }

    fn take_config_change(&mut self) -> bool {
        std::mem::take(&mut self.config_changed)
    }

    /// Buffers for receiving wait for packets.
    fn is_timed(&self, queue_index: usize) -> bool {
        !queue_index.is_multiple_of(2) && queue_index < self.control_queue()
    }

    fn is_served_elsewhere(&self, queue_index: usize) -> bool {
        // Without a driver, the queue that may become the control queue counts as ours too: a
        // doorbell may have two listeners.
        let may_be_control = self.features.is_none() && queue_index == CONTROL_OF_ONE_PAIR;
        self.server.is_some() && queue_index < self.control_queue() && !may_be_control
    }

    fn hand_over(&mut self, features: u64, queues: &[HandedQueue<'_>]) -> Result<(), QueueError> {
        let all = self.pairs.len();
        self.enable_pairs(all)
            .map_err(|error| QueueError::Backend(error.to_string()))?;
        let taps: Vec<&Tap> = self.pairs.iter().map(|pair| &pair.tap).collect();
        let started = match &mut self.server {
            Some(server) => server.start(features, queues, &taps),
            None => Ok(()),
        };
        // The kernel takes a queue of a tap only while the tap uses it; now it need not any more.
        let _ = self.enable_pairs(1);
        started
    }
}
