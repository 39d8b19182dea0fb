//! The device: packets out of one ring, packets into the other.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::gauges::VsockGauges;
use super::header::{Header, HEADER_BYTES};
use super::host::{Host, UnixVsockError};
use super::hub::Hub;
use super::HALF_OPEN;
use crate::virtio::device::{
    read_config, Progress, QueueError, VirtioDevice, Watched, QUEUE_SIZE_MAX,
};
use crate::virtio::queue::DeviceQueue;
use crate::virtio::vsock::{CLASS_COMMUNICATION, FEATURE_STREAM, NR_QUEUES, TYPE_SOCKET};

const QUEUE_RECEIVE: usize = 0;
const QUEUE_SEND: usize = 1;

/// The socket device that is joined to UNIX sockets.
pub struct UnixVsock {
    cid: u32,
    hub: Hub,
    // Has all queues processed again: there is something for the guest, or room for its packets.
    again: Arc<EventFd>,
    // Packets of the guest's wait for room for their answers.
    is_held_up: bool,
}

impl UnixVsock {
    /// Listens on this path for programs that want to be joined to the guest.
    pub fn open(cid: u32, path: &Path) -> Result<Self, UnixVsockError> {
        Self::open_for(cid, path, HALF_OPEN)
    }

    pub(in crate::virtio) fn open_for(
        cid: u32,
        path: &Path,
        half_open: Duration,
    ) -> Result<Self, UnixVsockError> {
        let failed = |source: io::Error| UnixVsockError::Make {
            path: path.to_owned(),
            source,
        };
        let again = Arc::new(EventFd::new(EFD_NONBLOCK).map_err(failed)?);
        Ok(Self {
            cid,
            hub: Hub::new(cid, Host::listen(path)?, half_open),
            again,
            is_held_up: false,
        })
    }

    /// What it has done, for metrics.
    pub fn gauges(&self) -> Arc<VsockGauges> {
        self.hub.gauges()
    }

    fn call_again(&self) {
        // It fails only when the counter is full, and then it is signalled.
        let _ = self.again.write(1);
    }

    fn hear(&mut self) {
        if self.hub.hear() {
            self.call_again();
        }
    }

    /// Fills the guest's buffers with what there is for it.
    fn receive(
        &mut self,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        let progress = loop {
            if !self.hub.has_packet() {
                break Progress::Waiting;
            }
            let Some(mut chain) = queue.pop(ram)? else {
                break Progress::Drained;
            };
            let mut header_room = chain.writable.take_front(HEADER_BYTES as u64);
            let room_bytes = chain.writable.len_bytes();
            if room_bytes == 0 {
                return Err(chain.malformed("no room for a packet"));
            }
            let Some((header, data)) = self.hub.next(room_bytes) else {
                queue.unpop();
                break Progress::Waiting;
            };
            header_room.write(&header.to_bytes());
            let len = HEADER_BYTES + chain.writable.write(data);
            queue.add_used(ram, chain.head(), u32::try_from(len).unwrap_or(u32::MAX))?;
        };
        if self.is_held_up && self.hub.can_answer() {
            self.is_held_up = false;
            self.call_again();
        }
        Ok(progress)
    }

    /// Takes the guest's packets.
    fn send(
        &mut self,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        let mut has_taken = false;
        let progress = loop {
            if !self.hub.can_answer() {
                self.is_held_up = true;
                break Progress::Waiting;
            }
            let Some(mut chain) = queue.pop(ram)? else {
                break Progress::Drained;
            };
            has_taken = true;
            let mut bytes = [0; HEADER_BYTES];
            if chain.readable.read(&mut bytes) < HEADER_BYTES {
                return Err(chain.malformed("shorter than a packet's header"));
            }
            let header = Header::from_bytes(&bytes);
            let mut data = chain.readable.take_front(header.len_bytes.into());
            self.hub.take(&header, &mut data);
            queue.add_used(ram, chain.head(), 0)?;
        };
        if has_taken && self.hub.has_packet() {
            self.call_again();
        }
        Ok(progress)
    }
}

impl VirtioDevice for UnixVsock {
    fn device_type(&self) -> u16 {
        TYPE_SOCKET
    }
    fn name(&self) -> &str {
        "virtio-vsock"
    }
    fn pci_class(&self) -> u32 {
        CLASS_COMMUNICATION
    }
    fn features(&self) -> u64 {
        FEATURE_STREAM
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE_MAX; NR_QUEUES]
    }
    fn config_read(&self, offset: u64, data: &mut [u8]) {
        read_config(&u64::from(self.cid).to_le_bytes(), offset, data);
    }

    fn activate(&mut self, _features: u64) {
        self.hub.has_driver = true;
    }

    fn process(
        &mut self,
        queue_index: usize,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        match queue_index {
            QUEUE_RECEIVE => self.receive(queue, ram),
            QUEUE_SEND => self.send(queue, ram),
            // Its buffers wait for a transport reset, which only a machine that moves has.
            _ => Ok(Progress::Waiting),
        }
    }

    fn reset(&mut self) {
        self.hub.reset();
        self.is_held_up = false;
    }

    fn host_event(&self) -> Option<Arc<EventFd>> {
        Some(Arc::clone(&self.again))
    }

    fn host_event_came(&mut self) {
        self.hear();
    }

    fn watched(&self) -> Vec<Watched> {
        vec![Watched {
            file: self.hub.news_file(),
            queues: vec![QUEUE_RECEIVE, QUEUE_SEND],
        }]
    }

    fn file_ready(&mut self, _index: usize) {
        self.hear();
    }
}
