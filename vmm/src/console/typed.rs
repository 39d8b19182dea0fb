//! What was typed, until the guest takes it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

const CAPACITY_BYTES: usize = 64 << 10;

/// A bounded queue of keys. Whoever was refused is told when there is room again.
pub struct Typed {
    keys: VecDeque<u8>,
    room: Arc<EventFd>,
    // Some keys had no room, and whoever has them was not told yet that there is some.
    has_refused: bool,
}

impl Typed {
    /// An empty queue.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            keys: VecDeque::new(),
            room: Arc::new(EventFd::new(EFD_NONBLOCK)?),
            has_refused: false,
        })
    }

    /// Signalled when there is room again for what [`push`](Self::push) refused.
    pub fn room(&self) -> Arc<EventFd> {
        Arc::clone(&self.room)
    }

    /// Adds keys. Returns how many were accepted: fewer than given if the guest does not read.
    pub fn push(&mut self, keys: &[u8]) -> usize {
        let room = CAPACITY_BYTES.saturating_sub(self.keys.len());
        let accepted = keys.len().min(room);
        self.keys.extend(&keys[..accepted]);
        self.has_refused |= accepted < keys.len();
        accepted
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Takes keys for the guest. Returns how many.
    pub fn pop(&mut self, target: &mut [u8]) -> usize {
        let len = target.len().min(self.keys.len());
        target
            .iter_mut()
            .zip(self.keys.drain(..len))
            .for_each(|(target, key)| *target = key);
        // Not for each key: half of it is a piece worth being woken for.
        if self.has_refused && self.keys.len() <= CAPACITY_BYTES / 2 {
            self.has_refused = false;
            // Fails only if the event is signalled already.
            let _ = self.room.write(1);
        }
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_refused_is_told_of_room_once() {
        let mut typed = Typed::new().unwrap();
        let room = typed.room();
        assert_eq!(typed.push(&[b'x'; CAPACITY_BYTES]), CAPACITY_BYTES);
        assert_eq!(typed.pop(&mut [0; CAPACITY_BYTES]), CAPACITY_BYTES);
        assert!(room.read().is_err(), "nobody was refused");
        assert_eq!(typed.push(&[b'x'; CAPACITY_BYTES + 1]), CAPACITY_BYTES);
        assert_eq!(typed.push(b"x"), 0);
        assert_eq!(typed.pop(&mut [0; 100]), 100);
        assert!(room.read().is_err(), "too early");
        assert_eq!(typed.pop(&mut [0; CAPACITY_BYTES]), CAPACITY_BYTES - 100);
        assert_eq!(room.read().unwrap(), 1);
        assert_eq!(typed.push(b"x"), 1);
        assert_eq!(typed.pop(&mut [0; 2]), 1);
        assert!(room.read().is_err(), "it was told already");
    }
}
