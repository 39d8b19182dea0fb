//! virtio-console with one port: bytes in, bytes out.
//!
//! Neither side can hold up the VM. Input waits in a bounded buffer that its writer sees fill up;
//! output goes to a bounded buffer that a thread of its own writes out, and while that is full the
//! guest's buffers simply stay in their queue.

mod input;

use std::io::{self, Write};
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

pub use input::ConsoleInput;

use super::device::{read_config, Polled, Progress, QueueError, VirtioDevice, QUEUE_SIZE_MAX};
use super::queue::DeviceQueue;
use crate::console::writer::ConsoleOutput;

const TYPE_CONSOLE: u16 = 3;
const CLASS_COMMUNICATION_OTHER: u32 = 0x07_80_00;
const QUEUE_RECEIVE: usize = 0;
const QUEUE_TRANSMIT: usize = 1;

/// One buffer of the guest is cut off here; it has to fit in the output buffer as a whole. Linux
/// sends at most 32 KiB.
const MAX_MESSAGE_BYTES: u64 = 64 << 10;
/// Input is handed over in pieces of this size.
const INPUT_CHUNK_BYTES: usize = 4 << 10;

/// The console device.
pub struct Console {
    event: Arc<EventFd>,
    input: ConsoleInput,
    output: ConsoleOutput,
}

impl Console {
    /// Creates a console that writes to `writer`. Returns the device and the handles for its input
    /// and output.
    pub fn new(writer: Box<dyn Write + Send>) -> io::Result<(Self, ConsoleInput, ConsoleOutput)> {
        let event = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let input = ConsoleInput::new(event.clone())?;
        let output = ConsoleOutput::new(writer, Arc::downgrade(&event))?;
        Ok((
            Self {
                event,
                input: input.clone(),
                output: output.clone(),
            },
            input,
            output,
        ))
    }

    fn receive(
        &self,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        let mut buffer = [0; INPUT_CHUNK_BYTES];
        while !self.input.is_empty() {
            let Some(mut chain) = queue.pop(ram)? else {
                return Ok(Progress::Drained);
            };
            let mut written = 0;
            while written < MAX_MESSAGE_BYTES && !chain.writable.is_empty() {
                let room = usize::try_from(chain.writable.len_bytes()).unwrap_or(usize::MAX);
                let len = self.input.pop(&mut buffer[..room.min(INPUT_CHUNK_BYTES)]);
                if len == 0 {
                    break;
                }
                written += chain.writable.write(&buffer[..len]) as u64;
            }
            let written = u32::try_from(written).unwrap_or(0);
            queue.add_used(ram, chain.head(), written)?;
        }
        Ok(Progress::Waiting)
    }

    fn transmit(
        &self,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        while let Some(mut chain) = queue.pop(ram)? {
            let mut source = chain.readable.take_front(MAX_MESSAGE_BYTES);
            let len = usize::try_from(source.len_bytes()).unwrap_or(0);
            let mut message = vec![0; len];
            source.read(&mut message);
            if !self.output.push(&message) {
                queue.unpop();
                return Ok(Progress::Waiting);
            }
            queue.add_used(ram, chain.head(), 0)?;
        }
        Ok(Progress::Drained)
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> u16 {
        TYPE_CONSOLE
    }
    fn name(&self) -> &str {
        "virtio-console"
    }
    fn pci_class(&self) -> u32 {
        CLASS_COMMUNICATION_OTHER
    }
    fn features(&self) -> u64 {
        0
    }
    /// Linux waits in a loop for each line that it has sent, also for the one that it says last before another kernel.
    fn outlives_bus_master(&self) -> Option<usize> {
        Some(QUEUE_TRANSMIT)
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE_MAX; 2]
    }
    fn config_read(&self, offset: u64, data: &mut [u8]) {
        read_config(&[], offset, data);
    }
    fn can_be_polled(&self, queue_index: usize) -> bool {
        queue_index != QUEUE_RECEIVE
    }

    /// Output only goes to a buffer in memory.
    fn process_now(
        &mut self,
        queue_index: usize,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Polled, QueueError> {
        self.process(queue_index, queue, ram).map(Polled::from)
    }

    fn host_event(&self) -> Option<Arc<EventFd>> {
        Some(self.event.clone())
    }

    fn process(
        &mut self,
        queue_index: usize,
        queue: &mut DeviceQueue,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        match queue_index {
            QUEUE_RECEIVE => self.receive(queue, ram),
            _ => self.transmit(queue, ram),
        }
    }
}
