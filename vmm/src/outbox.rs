//! Messages that a thread of its own writes, so that who has something to say never waits for a reader.
//!
//! While a machine runs, standard error may be a pipe that nobody empties, or a terminal that was stopped:
//! a device's thread or a vCPU's must not stand still for that. [`Outbox::put`] only takes a lock that is
//! held for a few instructions; what has no room is left out, counted, and the count is said at its place.
//! Used by `say`; it must never be waited for but at the end ([`Outbox::finish`]), and not for ever then.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// What may wait to be written. Beyond what a pipe holds by itself; an exit report fits.
const MAX_BYTES: usize = 256 << 10;

/// A queue of messages with its writer.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// The writer has something to do, or has done something.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Vec<u8>>,
    /// Of those that wait.
    bytes: usize,
    /// Left out since the last message that waits.
    nr_left_out: u64,
    is_writing: bool,
    /// How often the reader has taken something.
    progress: u64,
}

impl Outbox {
    /// Starts a thread that writes to `output`. It ends with the process only.
    pub(crate) fn start(output: impl Write + Send + 'static) -> io::Result<Arc<Self>> {
        let outbox = Arc::new(Self::default());
        let of_thread = Arc::clone(&outbox);
        Builder::new()
            .name("messages".into())
            .stack_size(128 << 10)
            .spawn(move || of_thread.write_all(output))?;
        Ok(outbox)
    }

    /// Leaves a message to be written, or leaves it out.
    pub(crate) fn put(&self, message: &str) {
        let mut state = self.lock();
        let left_out = left_out(state.nr_left_out);
        let more = message.len() + left_out.as_ref().map_or(0, Vec::len);
        // A single one has room, however long it is.
        if state.bytes > 0 && state.bytes + more > MAX_BYTES {
            state.nr_left_out += 1;
            return;
        }
        state.nr_left_out = 0;
        state.bytes += more;
        state.messages.extend(left_out);
        state.messages.push_back(message.as_bytes().to_vec());
        self.changed.notify_all();
    }

    /// Waits until all is written, or until the reader has taken nothing for so long.
    pub(crate) fn finish(&self, patience: Duration) {
        let mut state = self.lock();
        let (mut since, mut progress) = (Instant::now(), state.progress);
        while state.is_writing || !state.messages.is_empty() || state.nr_left_out > 0 {
            if state.progress != progress {
                (since, progress) = (Instant::now(), state.progress);
            }
            let Some(left) = patience.checked_sub(since.elapsed()) else {
                return;
            };
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn write_all(&self, mut output: impl Write) {
        loop {
            let message = self.next();
            let mut rest = &message[..];
            while !rest.is_empty() {
                match output.write(rest) {
                    Ok(written @ 1..) => {
                        rest = rest.get(written..).unwrap_or_default();
                        self.lock().progress += 1;
                        self.changed.notify_all();
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // Nobody reads it any more; somebody may read the next one.
                    Ok(_) | Err(_) => break,
                }
            }
        }
    }

    /// Waits for the next message.
    fn next(&self) -> Vec<u8> {
        let mut state = self.lock();
        state.is_writing = false;
        self.changed.notify_all();
        loop {
            if let Some(message) = state.messages.pop_front() {
                state.bytes -= message.len();
                state.is_writing = true;
                return message;
            }
            if let Some(message) = left_out(std::mem::take(&mut state.nr_left_out)) {
                state.is_writing = true;
                return message;
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn left_out(nr: u64) -> Option<Vec<u8>> {
    let what = match nr {
        0 => return None,
        1 => "1 message was".into(),
        _ => format!("{nr} messages were"),
    };
    let line = format!("coopvirt: {what} left out here, because nobody read standard error\n");
    Some(line.into_bytes())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{channel, Receiver};

    use super::*;

    const SOON: Duration = Duration::from_millis(100);
    const LATE: Duration = Duration::from_secs(60);

    /// A reader that takes a message each time it is let.
    struct Slow {
        let_go: Receiver<()>,
        read: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Once nobody holds it back any more, it reads everything.
            let _ = self.let_go.recv();
            self.read.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_speaks_never_waits_and_what_is_left_out_is_counted_at_its_place() {
        let (go, let_go) = channel();
        let read = Arc::new(Mutex::new(Vec::new()));
        let slow = Slow {
            let_go,
            read: Arc::clone(&read),
        };
        let outbox = Outbox::start(slow).unwrap();
        let line = |number: u32| format!("{number} {}\n", "x".repeat(1000));
        // Nobody reads: were this to wait, it would for ever. The writer has its first one in hand.
        outbox.put(&line(0));
        while !outbox.lock().is_writing {
            std::thread::yield_now();
        }
        (1..1000).for_each(|number| outbox.put(&line(number)));
        outbox.finish(SOON);
        assert!(read.lock().unwrap().is_empty());
        // Some are read, so there is room again.
        (0..20).for_each(|_| go.send(()).unwrap());
        while read.lock().unwrap().len() < 20 * 1000 {
            std::thread::yield_now();
        }
        outbox.put("after the gap\n");
        drop(go);
        outbox.finish(LATE);
        let text = String::from_utf8(std::mem::take(&mut *read.lock().unwrap())).unwrap();
        let mut lines = text.lines();
        let kept = lines
            .by_ref()
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .take_while(|word| word != "coopvirt:");
        let kept: Vec<u32> = kept.map(|word| word.parse().unwrap()).collect();
        assert!((0..).zip(&kept).all(|(number, kept)| number == *kept));
        let left_out = format!(
            "coopvirt: {} messages were left out here",
            1000 - kept.len()
        );
        assert!(text.contains(&left_out), "{left_out}");
        assert_eq!(lines.collect::<Vec<_>>(), ["after the gap"]);
        assert!((200..300).contains(&kept.len()), "{}", kept.len());

        // Nothing that comes after a gap: then the count is the last that is said.
        outbox.put("one\n");
        outbox.finish(LATE);
        assert_eq!(*read.lock().unwrap(), b"one\n");
    }

    #[test]
    fn an_end_waits_while_somebody_reads_and_no_longer() {
        let (go, let_go) = channel();
        let read = Arc::default();
        let outbox = Outbox::start(Slow { let_go, read }).unwrap();
        (0..400).for_each(|_| outbox.put(&"y".repeat(1000)));
        let began = Instant::now();
        outbox.finish(SOON);
        assert!(began.elapsed() >= SOON && began.elapsed() < LATE);
        drop(go);
        outbox.finish(LATE);
        let state = outbox.lock();
        assert!(state.messages.is_empty() && state.nr_left_out == 0 && !state.is_writing);
    }
}
