//! What this program says: results on standard output, everything else on standard error.
//!
//! The standard macros panic where nobody listens any more: a pipe without a reader, a full disk, a
//! terminal that is gone. A thread of a machine must not end of that, and a report that is still to be
//! written must not be lost by it. So nothing in this crate uses them (the lints see to it).
//!
//! While a machine runs ([`without_waiting`]) messages are written by a thread of its own, as nobody may
//! empty standard error. Everything else waits for its reader, as programs do.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;

use crate::outbox::Outbox;

/// At the end, for a reader that takes nothing.
const PATIENCE: Duration = Duration::from_secs(2);

static OUTBOX: OnceLock<Arc<Outbox>> = OnceLock::new();

/// Prints a result. A reader who has had enough is no failure.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    say_to(&mut io::stdout().lock(), text)
}

fn say_to(output: &mut impl Write, text: &str) -> anyhow::Result<()> {
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("could not print the result"),
    }
}

/// Tells the user something, in one piece; whether anybody reads it or not.
pub(crate) fn tell(text: fmt::Arguments<'_>) {
    let text = text.to_string();
    match OUTBOX.get() {
        Some(outbox) => outbox.put(&text),
        None => {
            // In one call: threads speak at the same time.
            let _ = io::stderr().lock().write_all(text.as_bytes());
        }
    }
}

/// From now on until the process ends, nobody who tells something waits for who reads it.
pub(crate) fn without_waiting() {
    // Without another thread it is as before.
    if let Ok(outbox) = Outbox::start(io::stderr()) {
        let _ = OUTBOX.set(outbox);
    }
}

/// Waits until what was told has been written, as far as anybody reads it. For the end of the process.
pub(crate) fn finish() {
    if let Some(outbox) = OUTBOX.get() {
        outbox.finish(PATIENCE);
    }
}

/// Tells the user a line, as `eprintln!` would, but goes on where nobody reads it.
macro_rules! complain {
    ($($words:tt)*) => {
        $crate::say::tell(format_args!("{}\n", format_args!($($words)*)))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails each write in this way.
    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_who_has_had_enough_is_no_failure_and_a_full_disk_is_one() {
        assert!(say_to(&mut Failing(io::ErrorKind::BrokenPipe), "x").is_ok());
        let error = say_to(&mut Failing(io::ErrorKind::StorageFull), "x").unwrap_err();
        assert_eq!(error.to_string(), "could not print the result");
    }
}
