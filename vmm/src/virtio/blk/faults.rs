//! What the user is told when a disk's storage fails.
//!
//! The guest is told of each request, and decides what becomes of it; the machine goes on. So the user
//! gets one line at once, and while it goes on failing another only now and then: a guest may try as often
//! as it likes.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::request::Action;

/// From one line to the next about the same disk.
const INTERVAL: Duration = Duration::from_secs(10);

/// The failures of one disk.
#[derive(Debug)]
pub(super) struct Faults {
    path: PathBuf,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    last: Option<Instant>,
    /// Failures since the last line.
    untold: u64,
}

impl Faults {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            told: Mutex::default(),
        }
    }

    /// Says that the storage could not do this, if it is time for another line.
    pub(super) fn tell(&self, action: &Action, error: &io::Error) {
        if let Some(line) = self.line(action, error, Instant::now()) {
            complain!("{line}");
        }
    }

    fn line(&self, action: &Action, error: &io::Error, now: Instant) -> Option<String> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_soon = |last: Instant| now.saturating_duration_since(last) < INTERVAL;
        if told.last.is_some_and(is_soon) {
            told.untold = told.untold.saturating_add(1);
            return None;
        }
        told.last = Some(now);
        let more = match std::mem::take(&mut told.untold) {
            0 => String::new(),
            count => format!(" ({count} more failed since the last such line)"),
        };
        let path = self.path.display();
        let what = what(action);
        let hint = hint(error);
        Some(format!(
            "coopvirt: disk image {path}: {what} failed: {error}; the guest was told{hint}{more}"
        ))
    }
}

fn what(action: &Action) -> &'static str {
    match action {
        Action::Read { .. } => "a read",
        Action::Write { .. } => "a write",
        Action::Flush => "a flush",
        Action::Discard(_) => "a discard",
        Action::Zero { .. } => "zeroing",
    }
}

/// What can be done about it while the machine runs.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ", and can write again once there is room"
        }
        io::ErrorKind::UnexpectedEof => "; the image has become shorter than the disk",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_at_once_and_then_one_in_a_while_with_the_count() {
        let faults = Faults::new("/a/disk".into());
        let start = Instant::now();
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        let line = |after| faults.line(&Action::Write { offset: 0 }, &full, start + after);
        let first = line(Duration::ZERO).unwrap();
        assert!(first.starts_with("coopvirt: disk image /a/disk: a write failed: No space left"));
        assert!(first.ends_with("once there is room"), "{first}");
        for millis in 1..1000 {
            assert_eq!(line(Duration::from_millis(millis)), None);
        }
        let next = line(INTERVAL).unwrap();
        assert!(
            next.ends_with("(999 more failed since the last such line)"),
            "{next}"
        );
        assert_eq!(line(INTERVAL + Duration::from_secs(1)), None);
        let last = line(INTERVAL * 9).unwrap();
        assert!(last.contains("(1 more failed"), "{last}");
    }

    #[test]
    fn each_kind_of_request_has_its_name() {
        let error = io::Error::from_raw_os_error(libc::EIO);
        for (action, name) in [
            (
                Action::Read { offset: 0 },
                "a read failed: Input/output error",
            ),
            (Action::Flush, "a flush failed"),
            (Action::Discard(Vec::new()), "a discard failed"),
        ] {
            let faults = Faults::new("d".into());
            let line = faults.line(&action, &error, Instant::now()).unwrap();
            assert!(line.contains(name), "{line}");
        }
    }
}
