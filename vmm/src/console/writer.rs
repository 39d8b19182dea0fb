//! What a guest printed, until it is written out.
//!
//! Writing can block for as long as whoever reads likes (a pipe, a stopped terminal), so a thread
//! of its own does it. The I/O thread only fills a buffer; a vCPU waits while that is full, but not
//! beyond the machine's end, which must not depend on a reader. If writing fails, what the guest
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
    // The machine ends: nobody waits for room any more.
    is_ending: bool,
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
    /// Starts the thread that writes to `writer`. It signals `event` when there is room again for what
    /// [`push`](Self::push) refused; a weak reference, as an event of a device that is gone is nobody's.
    pub fn new(writer: Box<dyn Write + Send>, event: Weak<EventFd>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let for_thread = shared.clone();
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
    pub fn push(&self, message: &[u8]) -> bool {
        let mut state = self.inner.shared.state();
        if state.has_failed || message.is_empty() {
            return true;
        }
        if message.len() > CAPACITY_BYTES.saturating_sub(state.buffer.len()) {
            state.needs_room = true;
            return false;
        }
        state.buffer.extend_from_slice(message);
        self.inner.shared.changed.notify_all();
        true
    }

    /// Waits until there is room, or until the machine ends.
    pub fn wait_for_room(&self) {
        let shared = &self.inner.shared;
        let is_full = |state: &mut State| {
            state.buffer.len() >= CAPACITY_BYTES && !state.has_failed && !state.is_ending
        };
        let waited = shared.changed.wait_while(shared.state(), is_full);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Lets go who waits for room: the machine ends.
    pub fn end(&self) {
        self.inner.shared.state().is_ending = true;
        self.inner.shared.changed.notify_all();
    }
}

/// Never waits and takes everything: whoever has to wait for room has done so. What several vCPUs print
/// at once, or while the machine ends, goes a few bytes over the capacity rather than be lost.
impl Write for ConsoleOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.inner.shared.state();
        if !state.has_failed {
            state.buffer.extend_from_slice(bytes);
            self.inner.shared.changed.notify_all();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
            // There is room for the next piece while this one is written.
            self.changed.notify_all();
            let has_failed = match writer.write_all(&piece).and_then(|()| writer.flush()) {
                // On a full disk this piece is lost; it may have room for the next one.
                Err(error) => error.kind() != io::ErrorKind::StorageFull,
                Ok(()) => false,
            };
            let mut state = self.state();
            state.is_writing = false;
            if has_failed {
                state.has_failed = true;
                state.buffer = Vec::new();
            }
            let needs_room = std::mem::take(&mut state.needs_room);
            drop(state);
            self.changed.notify_all();
            if let Some(event) = event.upgrade().filter(|_| needs_room) {
                let _ = event.write(1);
            }
            if has_failed {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{channel, RecvTimeoutError};

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);

    /// A pipe that nobody reads, and a thread that prints into it until it is let go.
    #[test]
    fn who_waits_for_a_reader_goes_on_when_there_is_one_or_the_machine_ends() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut output = ConsoleOutput::new(Box::new(writer), Weak::new()).unwrap();
        let (done, is_done) = channel();
        let mut of_thread = output.clone();
        // More than a pipe, a piece and the buffer hold.
        let printed = vec![b'x'; 1 << 20];
        let vcpu = std::thread::spawn(move || {
            for piece in printed.chunks(1000) {
                of_thread.wait_for_room();
                of_thread.write_all(piece).unwrap();
            }
            done.send(()).unwrap();
        });
        assert_eq!(is_done.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout));
        output.end();
        assert_eq!(is_done.recv_timeout(LONG), Ok(()));
        vcpu.join().unwrap();
        assert!(!output.finish(SHORT));
        // Nothing is lost for all that.
        output.write_all(b"y").unwrap();
        let reading = std::thread::spawn(move || io::read_to_string(&mut reader));
        assert!(output.finish(LONG));
        drop(output);
        let text = reading.join().unwrap().unwrap();
        assert_eq!(text.len(), (1 << 20) + 1);
        assert!(text.ends_with("xy"));
    }
}
