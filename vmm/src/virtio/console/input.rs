//! What is typed into a console, until the guest takes it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::console::input::InputSink;
use crate::console::typed::Typed;

/// A handle for typing into a console, from any thread.
#[derive(Clone)]
pub struct ConsoleInput {
    typed: Arc<Mutex<Typed>>,
    event: Arc<EventFd>,
}

impl ConsoleInput {
    pub(super) fn new(event: Arc<EventFd>) -> io::Result<Self> {
        Ok(Self {
            typed: Arc::new(Mutex::new(Typed::new()?)),
            event,
        })
    }

    /// Types bytes. Returns how many were accepted: fewer than given if the guest does not read.
    pub fn push(&self, bytes: &[u8]) -> usize {
        let accepted = self.typed().push(bytes);
        if accepted > 0 {
            // Fails only if the event is signalled already.
            let _ = self.event.write(1);
        }
        accepted
    }

    pub(super) fn is_empty(&self) -> bool {
        self.typed().is_empty()
    }

    /// Takes bytes for the guest. Returns how many.
    pub(super) fn pop(&self, target: &mut [u8]) -> usize {
        self.typed().pop(target)
    }

    fn typed(&self) -> MutexGuard<'_, Typed> {
        self.typed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InputSink for ConsoleInput {
    fn push(&self, bytes: &[u8]) -> usize {
        ConsoleInput::push(self, bytes)
    }

    fn room(&self) -> Arc<EventFd> {
        self.typed().room()
    }
}
