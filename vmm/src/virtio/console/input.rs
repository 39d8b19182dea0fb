//! What is typed into a console, until the guest takes it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

const CAPACITY_BYTES: usize = 64 << 10;

/// A handle for typing into a console, from any thread.
#[derive(Clone)]
pub struct ConsoleInput {
    buffer: Arc<Mutex<VecDeque<u8>>>,
    event: Arc<EventFd>,
}

impl ConsoleInput {
    pub(super) fn new(event: Arc<EventFd>) -> Self {
        Self {
            buffer: Arc::default(),
            event,
        }
    }

    /// Types bytes. Returns how many were accepted: fewer than given if the guest does not read.
    pub fn push(&self, bytes: &[u8]) -> usize {
        let accepted = {
            let mut buffer = self.buffer();
            let accepted = bytes.len().min(CAPACITY_BYTES.saturating_sub(buffer.len()));
            buffer.extend(&bytes[..accepted]);
            accepted
        };
        if accepted > 0 {
            // Fails only if the event is signalled already.
            let _ = self.event.write(1);
        }
        accepted
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buffer().is_empty()
    }

    /// Takes bytes for the guest. Returns how many.
    pub(super) fn pop(&self, target: &mut [u8]) -> usize {
        let mut buffer = self.buffer();
        let len = target.len().min(buffer.len());
        target
            .iter_mut()
            .zip(buffer.drain(..len))
            .for_each(|(target, byte)| *target = byte);
        len
    }

    fn buffer(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
