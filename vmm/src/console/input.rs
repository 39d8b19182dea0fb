//! Console input: bytes from standard input to the guest, and Ctrl-A X to quit.
//!
//! Standard input is read past the standard library's buffer, which would take what an epoll then
//! knows nothing of. What the guest's queue has no room for waits here, and while it does nobody
//! reads: it stays with whoever writes it.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::mpsc::Sender;
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use rustix::io::Errno;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use crate::event::MachineEvent;

const ESCAPE: u8 = 0x01;
/// What is read at once. A terminal gives no more.
const PIECE_BYTES: usize = 4 << 10;

/// Takes typed bytes.
pub trait InputSink: Send {
    /// Offers bytes to the guest; returns how many it had room for.
    fn push(&self, bytes: &[u8]) -> usize;

    /// Signalled when there is room again for what was refused.
    fn room(&self) -> Arc<EventFd>;
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
    source: BorrowedFd<'static>,
    sink: Box<dyn InputSink>,
    room: Arc<EventFd>,
    filter: EscapeFilter,
    // Read, and not taken yet. Nothing more is read until it is.
    waiting: Vec<u8>,
    events: Sender<MachineEvent>,
}

impl Input {
    /// Input for `sink`; asks `events` to end the machine on Ctrl-A X.
    pub fn new(sink: Box<dyn InputSink>, events: Sender<MachineEvent>) -> Self {
        Self {
            source: rustix::stdio::stdin(),
            room: sink.room(),
            sink,
            filter: EscapeFilter::default(),
            waiting: Vec::new(),
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

    /// Offers what waits. Whether it was all taken.
    fn offer(&mut self) -> bool {
        let taken = self.sink.push(&self.waiting);
        self.waiting.drain(..taken);
        self.waiting.is_empty()
    }

    fn watch(&self, ops: &mut EventOps) {
        // Without input the machine runs all the same.
        let _ = ops.add(Events::new(&self.source, EventSet::IN));
    }

    // Not by an empty set of events: the end of a pipe would still be told, again and again.
    fn look_away(&self, ops: &mut EventOps) {
        let _ = ops.remove(Events::empty(&self.source));
    }

    fn read(&mut self, ops: &mut EventOps) {
        let mut bytes = [0; PIECE_BYTES];
        match rustix::io::read(self.source, &mut bytes) {
            Ok(count @ 1..) => {
                let (bytes, quit) = self.filter.filter(&bytes[..count]);
                self.waiting.extend(bytes);
                if quit {
                    // The receiver only goes away when the machine is stopping already.
                    let _ = self.events.send(MachineEvent::UserQuit);
                }
                if !self.offer() {
                    self.look_away(ops);
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // End of input: the guest goes on without.
            _ => self.look_away(ops),
        }
    }
}

/// `/dev/null` is a character device that epoll refuses.
fn is_null(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    metadata.rdev() == libc::makedev(1, 3)
}

impl MutEventSubscriber for Input {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.fd() == self.source.as_raw_fd() {
            self.read(ops);
            return;
        }
        // Fails only if it was a false alarm.
        let _ = self.room.read();
        if !self.waiting.is_empty() && self.offer() {
            self.watch(ops);
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        self.watch(ops);
        // Without it input ends where the guest does not read; the machine runs all the same.
        let _ = ops.add(Events::new(&*self.room, EventSet::IN));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::os::fd::{AsFd, OwnedFd};
    use std::sync::mpsc::{channel, Receiver};
    use std::sync::Mutex;

    use event_manager::{EventManager, SubscriberOps};

    use super::*;
    use crate::console::typed::Typed;

    impl InputSink for Arc<Mutex<Typed>> {
        fn push(&self, bytes: &[u8]) -> usize {
            self.lock().unwrap().push(bytes)
        }
        fn room(&self) -> Arc<EventFd> {
            self.lock().unwrap().room()
        }
    }

    /// A pipe in the place of standard input, and what reads it.
    struct Rig {
        keyboard: io::PipeWriter,
        manager: EventManager<Input>,
        typed: Arc<Mutex<Typed>>,
        events: Receiver<MachineEvent>,
    }

    impl Rig {
        fn new() -> Self {
            let (reader, keyboard) = io::pipe().unwrap();
            let source: &'static OwnedFd = Box::leak(Box::new(reader.into()));
            let typed = Arc::new(Mutex::new(Typed::new().unwrap()));
            let (sender, events) = channel();
            let mut manager = EventManager::new().unwrap();
            manager.add_subscriber(Input {
                source: source.as_fd(),
                ..Input::new(Box::new(Arc::clone(&typed)), sender)
            });
            Self {
                keyboard,
                manager,
                typed,
                events,
            }
        }

        /// Lets the loop run until it has nothing to do. Returns how often it was called.
        fn run(&mut self) -> usize {
            let calls = std::iter::from_fn(|| Some(self.manager.run_with_timeout(0).unwrap()));
            calls.take_while(|count| *count > 0).count()
        }

        fn take(&mut self, len: usize) -> Vec<u8> {
            let mut keys = vec![0; len];
            let taken = self.typed.lock().unwrap().pop(&mut keys);
            keys.truncate(taken);
            keys
        }
    }

    #[test]
    fn a_long_line_arrives_as_a_whole_and_so_does_the_escape_behind_it() {
        let mut rig = Rig::new();
        let line = [b'k'; 1000];
        rig.keyboard.write_all(&line).unwrap();
        rig.keyboard.write_all(b"\r\x01x").unwrap();
        rig.run();
        assert_eq!(rig.events.try_recv(), Ok(MachineEvent::UserQuit));
        assert_eq!(rig.take(2000), [&line[..], b"\r"].concat());
    }

    #[test]
    fn what_has_no_room_stays_with_its_writer_and_nothing_is_lost() {
        let mut rig = Rig::new();
        let keys: Vec<u8> = (0..50_000u32).map(|key| (key % 251) as u8 | 2).collect();
        let mut taken = Vec::new();
        rig.keyboard.write_all(&keys).unwrap();
        rig.run();
        rig.keyboard.write_all(&keys).unwrap();
        rig.run();
        // Full: the loop does not turn for what it cannot take.
        assert_eq!(rig.run(), 0);
        while taken.len() < 2 * keys.len() {
            let more = rig.take(10_000);
            assert!(!more.is_empty(), "{} came", taken.len());
            taken.extend(more);
            rig.run();
        }
        assert!(taken == [&keys[..], &keys[..]].concat());
    }

    #[test]
    fn the_end_of_input_is_no_end_of_the_machine() {
        let mut rig = Rig::new();
        rig.keyboard.write_all(b"last").unwrap();
        rig.keyboard = io::pipe().unwrap().1;
        rig.run();
        assert_eq!(rig.run(), 0);
        assert_eq!(rig.take(100), b"last");
        assert!(rig.events.try_recv().is_err());
    }

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
