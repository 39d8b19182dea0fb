//! What a guest printed, until it is written out.
//!
//! Writing can block for as long as whoever reads likes (a pipe, a stopped terminal), so a thread
//! of its own does it, and the I/O thread only fills a buffer. If writing fails, what the guest
//! prints is dropped from then on and the VM goes on.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

const CAPACITY_BYTES: usize = 128 << 10;

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    // A piece is on its way to the writer.
    is_writing: bool,
    has_failed: bool,
    // The device left a buffer of the guest's in its queue.
    needs_room: bool,
    // No handle is left.
    is_closed: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A handle for the output of a console. The last one to go ends the writing thread.
#[derive(Clone)]
pub struct ConsoleOutput {
    inner: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

impl ConsoleOutput {
    pub(super) fn new(writer: Box<dyn Write + Send>, event: &Arc<EventFd>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let for_thread = shared.clone();
        // Only a weak reference: an event of a device that is gone is nobody's.
        let event = Arc::downgrade(event);
        std::thread::Builder::new()
            .name("console-out".into())
            .spawn(move || for_thread.write_out(writer, &event))?;
        Ok(Self {
            inner: Arc::new(Handle { shared }),
        })
    }

    /// Waits until everything is written or has failed. Returns whether that came in time.
    pub fn finish(&self, timeout: Duration) -> bool {
        let shared = &self.inner.shared;
        let is_busy =
            |state: &mut State| !state.has_failed && (state.is_writing || !state.buffer.is_empty());
        let (_state, result) = shared
            .changed
            .wait_timeout_while(shared.state(), timeout, is_busy)
            .unwrap_or_else(PoisonError::into_inner);
        !result.timed_out()
    }

    /// Whether the writer failed and output is being dropped.
    pub fn has_failed(&self) -> bool {
        self.inner.shared.state().has_failed
    }

    /// Takes all of `message`, or nothing and remembers to tell when there is room.
    pub(super) fn push(&self, message: &[u8]) -> bool {
        let mut state = self.inner.shared.state();
        if state.has_failed || message.is_empty() {
            return true;
        }
        if message.len() > CAPACITY_BYTES - state.buffer.len() {
            state.needs_room = true;
            return false;
        }
        state.buffer.extend_from_slice(message);
        self.inner.shared.changed.notify_all();
        true
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.state().is_closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writing thread.
    fn write_out(&self, mut writer: Box<dyn Write + Send>, event: &Weak<EventFd>) {
        loop {
            let idle = |state: &mut State| state.buffer.is_empty() && !state.is_closed;
            let waited = self.changed.wait_while(self.state(), idle);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            if state.buffer.is_empty() {
                return;
            }
            let piece = std::mem::take(&mut state.buffer);
            state.is_writing = true;
            drop(state);
            let result = writer.write_all(&piece).and_then(|()| writer.flush());
            let mut state = self.state();
            state.is_writing = false;
            if result.is_err() {
                state.has_failed = true;
                state.buffer = Vec::new();
            }
            let needs_room = std::mem::take(&mut state.needs_room);
            drop(state);
            self.changed.notify_all();
            if let Some(event) = event.upgrade().filter(|_| needs_room) {
                let _ = event.write(1);
            }
            if result.is_err() {
                return;
            }
        }
    }
}
