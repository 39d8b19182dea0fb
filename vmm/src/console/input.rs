//! Console input: bytes from standard input to the guest, and Ctrl-A X to quit.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::sync::mpsc::Sender;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;

use crate::event::MachineEvent;

const ESCAPE: u8 = 0x01;

/// Takes typed bytes; returns how many it had room for.
pub trait InputSink: Send {
    /// Offers bytes to the guest.
    fn push(&mut self, bytes: &[u8]) -> usize;
}

impl<F: FnMut(&[u8]) -> usize + Send> InputSink for F {
    fn push(&mut self, bytes: &[u8]) -> usize {
        self(bytes)
    }
}

/// Finds the escape sequence in a stream of keys: Ctrl-A X quits, Ctrl-A Ctrl-A is one Ctrl-A.
#[derive(Debug, Default)]
struct EscapeFilter {
    escaped: bool,
}

impl EscapeFilter {
    /// The bytes for the guest, and whether the user wants to quit.
    fn filter(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            if std::mem::take(&mut self.escaped) {
                match byte {
                    b'x' | b'X' => return (out, true),
                    ESCAPE => out.push(ESCAPE),
                    other => out.extend([ESCAPE, other]),
                }
            } else if byte == ESCAPE {
                self.escaped = true;
            } else {
                out.push(byte);
            }
        }
        (out, false)
    }
}

/// Reads standard input on the I/O thread.
pub struct Input {
    sink: Box<dyn InputSink>,
    filter: EscapeFilter,
    events: Sender<MachineEvent>,
}

impl Input {
    /// Input for `sink`; asks `events` to end the machine on Ctrl-A X.
    pub fn new(sink: Box<dyn InputSink>, events: Sender<MachineEvent>) -> Self {
        Self {
            sink,
            filter: EscapeFilter::default(),
            events,
        }
    }

    /// Whether standard input can be waited for: an epoll refuses regular files.
    pub fn is_pollable() -> bool {
        use std::os::unix::fs::FileTypeExt;
        let Ok(metadata) = std::fs::metadata("/proc/self/fd/0") else {
            return false;
        };
        let kind = metadata.file_type();
        kind.is_char_device() && !is_null(&metadata) || kind.is_fifo() || kind.is_socket()
    }
}

/// `/dev/null` is a character device that epoll refuses.
fn is_null(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    metadata.rdev() == libc::makedev(1, 3)
}

impl MutEventSubscriber for Input {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let mut bytes = [0; 64];
        match io::stdin().lock().read(&mut bytes) {
            Ok(count) if count > 0 => {
                let (bytes, quit) = self.filter.filter(&bytes[..count]);
                // What the guest has no room for is lost, as on a serial line without flow control.
                self.sink.push(&bytes);
                if quit {
                    // The receiver only goes away when the machine is stopping already.
                    let _ = self.events.send(MachineEvent::UserQuit);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // End of input: the guest goes on without.
            _ => {
                let _ = ops.remove(Events::empty_raw(events.fd()));
            }
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        // Without input the machine runs all the same.
        let _ = ops.add(Events::new_raw(io::stdin().as_raw_fd(), EventSet::IN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_x_quits_even_when_split_over_reads() {
        let mut filter = EscapeFilter::default();
        assert_eq!(filter.filter(b"ab\x01"), (b"ab".to_vec(), false));
        assert_eq!(filter.filter(b"xcd"), (vec![], true));
    }

    #[test]
    fn other_uses_of_ctrl_a_reach_the_guest() {
        let mut filter = EscapeFilter::default();
        assert_eq!(
            filter.filter(b"\x01\x01\x01b"),
            (b"\x01\x01b".to_vec(), false)
        );
    }
}
