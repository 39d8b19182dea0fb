//! One connection: a port of the guest's, joined to a UNIX socket.
//!
//! Credit, both ways: `sent` bytes went to the guest, which has room for `guest_room` of them behind
//! those that it says it has used; `forwarded` bytes of the guest's went on to the host, and the guest may
//! send `WINDOW_BYTES` beyond what it was told of them. All four wrap. Whatever a guest says of itself,
//! it harms this connection only: it is sent too much, or nothing.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{send, SendFlags};

use super::header::{
    Header, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE, OP_RW, OP_SHUTDOWN,
    SHUT_BOTH, SHUT_RECEIVE, SHUT_SEND,
};
use super::{UPDATE_BYTES, WINDOW_BYTES};
use crate::virtio::chain::Segments;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The host asked for it; the guest has not answered.
    Asked {
        /// The guest was sent the request.
        is_sent: bool,
    },
    Open,
    /// The guest was told that it is over, and has to say so too.
    Ending,
    /// The guest has closed it; the host has not yet read everything.
    Draining,
}

/// What the hub does with a connection after something has happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Stays,
    /// It has come to its end: the guest is answered by a reset.
    Over,
    /// The same, before its time.
    Cut,
}

/// The next packet for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// An operation with its flags, and how many bytes of data were read.
    Packet {
        op: u16,
        flags: u32,
        len_bytes: u32,
    },
    Nothing,
    /// The socket has failed.
    Failed,
}

pub(super) struct Connection {
    stream: UnixStream,
    state: State,
    /// When it ends if it is still half-open.
    pub(super) deadline: Option<Instant>,
    /// It waits for its turn in the hub's list.
    pub(super) is_listed: bool,
    // To the host.
    outgoing: VecDeque<u8>,
    forwarded: u32,
    told_forwarded: u32,
    // To the guest.
    sent: u32,
    guest_room: u32,
    guest_used: u32,
    has_asked_for_room: bool,
    // What is known of the socket.
    is_readable: bool,
    has_gone: bool,
    is_at_end: bool,
    // What was shut: by the guest, and what it was told.
    guest_shut: u32,
    told_shut: u32,
    // The socket knows what the guest has shut.
    has_shut_socket: bool,
    // What the guest has to be told.
    owes_response: bool,
    owes_room: bool,
    owes_shut: u32,
}

impl Connection {
    fn new(stream: UnixStream, state: State) -> Self {
        Self {
            stream,
            state,
            deadline: None,
            is_listed: false,
            outgoing: VecDeque::new(),
            forwarded: 0,
            told_forwarded: 0,
            sent: 0,
            guest_room: 0,
            guest_used: 0,
            has_asked_for_room: false,
            is_readable: true,
            has_gone: false,
            is_at_end: false,
            guest_shut: 0,
            told_shut: 0,
            has_shut_socket: false,
            owes_response: false,
            owes_room: false,
            owes_shut: 0,
        }
    }

    /// The guest wants it, and somebody listens.
    pub(super) fn from_guest(stream: UnixStream) -> Self {
        Self {
            owes_response: true,
            ..Self::new(stream, State::Open)
        }
    }

    /// Somebody on the host wants it.
    pub(super) fn from_host(stream: UnixStream) -> Self {
        Self::new(stream, State::Asked { is_sent: false })
    }

    /// Whether one side waits for the other to begin or to end it.
    pub(super) fn is_half_open(&self) -> bool {
        self.state != State::Open
    }

    /// Whether the guest has heard of it.
    pub(super) fn is_known_to_guest(&self) -> bool {
        self.state != State::Asked { is_sent: false }
    }

    /// Whether the host has asked for it, and the guest has not answered.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self.state, State::Asked { .. })
    }

    /// Takes what each packet says of the guest's room.
    pub(super) fn hear_of_room(&mut self, header: &Header) {
        self.guest_room = header.buf_alloc;
        self.guest_used = header.fwd_cnt;
        if self.credit() > 0 {
            self.has_asked_for_room = false;
        }
    }

    /// What each packet tells the guest of ours; after this it is known there.
    pub(super) fn tell_of_room(&mut self, header: &mut Header) {
        header.buf_alloc = u32::try_from(WINDOW_BYTES).unwrap_or(u32::MAX);
        header.fwd_cnt = self.forwarded;
        self.told_forwarded = self.forwarded;
        self.owes_room = false;
    }

    /// How much the guest can take. One that says it has used more than it was sent has no room.
    fn credit(&self) -> u32 {
        let unused = self.sent.wrapping_sub(self.guest_used);
        self.guest_room.saturating_sub(unused)
    }

    /// The guest has taken the connection, which the program hears with this port of ours.
    pub(super) fn is_taken(&mut self, host_port: u32) -> Verdict {
        if self.state != (State::Asked { is_sent: true }) {
            return Verdict::Cut;
        }
        self.state = State::Open;
        self.forward_own(format!("OK {host_port}\n").as_bytes())
    }

    /// Writes our own line, which is none of the guest's bytes. A socket without anything in it has room.
    fn forward_own(&mut self, line: &[u8]) -> Verdict {
        match write(&self.stream, line) {
            Ok(len) if len == line.len() => Verdict::Stays,
            _ => Verdict::Cut,
        }
    }

    /// The guest asks how much room there is.
    pub(super) fn is_asked_for_room(&mut self) -> Verdict {
        self.owes_room = true;
        Verdict::Stays
    }

    /// Takes data of the guest's, with a buffer to copy it through.
    pub(super) fn take(&mut self, data: &mut Segments<'_>, buffer: &mut [u8]) -> Verdict {
        let is_open = matches!(self.state, State::Open | State::Ending);
        let room = WINDOW_BYTES.saturating_sub(self.outgoing.len());
        if !is_open || self.guest_shut & SHUT_SEND != 0 || data.len_bytes() > room as u64 {
            return Verdict::Cut;
        }
        loop {
            let len = data.read(buffer);
            if len == 0 {
                break;
            }
            self.forward(&buffer[..len]);
        }
        self.consider_room();
        Verdict::Stays
    }

    fn forward(&mut self, mut bytes: &[u8]) {
        while self.outgoing.is_empty() && !bytes.is_empty() {
            match write(&self.stream, bytes) {
                Ok(len) => {
                    self.has_forwarded(len);
                    bytes = &bytes[len..];
                }
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    // Nobody reads it any more. The guest hears so, and needs not wait for room.
                    self.has_forwarded(bytes.len());
                    self.lose_reader();
                    return;
                }
            }
        }
        if !bytes.is_empty() {
            // All that it can ever need: doubling might take twice as much.
            let missing = WINDOW_BYTES.saturating_sub(self.outgoing.len());
            self.outgoing.reserve_exact(missing);
            self.outgoing.extend(bytes);
        }
    }

    /// The socket may have room again.
    pub(super) fn flush(&mut self) -> Verdict {
        while !self.outgoing.is_empty() {
            let (front, _) = self.outgoing.as_slices();
            match write(&self.stream, front) {
                Ok(len) => {
                    self.has_forwarded(len);
                    self.outgoing.drain(..len);
                }
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.has_forwarded(self.outgoing.len());
                    self.outgoing.clear();
                    self.lose_reader();
                }
            }
        }
        self.consider_room();
        if !self.outgoing.is_empty() {
            return Verdict::Stays;
        }
        // Most connections never need this memory again.
        self.outgoing = VecDeque::new();
        if self.state == State::Draining {
            return Verdict::Over;
        }
        if self.guest_shut & SHUT_SEND != 0 && !self.has_shut_socket {
            // Once: the kernel makes news of it, which would bring us here again without end.
            self.has_shut_socket = true;
            // Fails only where the other end has gone.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Verdict::Stays
    }

    fn has_forwarded(&mut self, len: usize) {
        // At most the window.
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.forwarded = self.forwarded.wrapping_add(len);
    }

    fn consider_room(&mut self) {
        self.owes_room |= self.forwarded.wrapping_sub(self.told_forwarded) >= UPDATE_BYTES;
    }

    fn lose_reader(&mut self) {
        self.owes_shut |= SHUT_RECEIVE & !self.told_shut;
    }

    /// The guest shuts one direction or both.
    pub(super) fn guest_shuts(&mut self, flags: u32) -> Verdict {
        if self.is_asked() {
            return Verdict::Cut;
        }
        self.guest_shut |= flags & SHUT_BOTH;
        if self.guest_shut == SHUT_BOTH {
            // Nothing goes to it any more; what it has sent still has a reader, perhaps.
            self.state = State::Draining;
        } else if self.guest_shut & SHUT_RECEIVE != 0 {
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        self.flush()
    }

    /// The guest has reset it. Returns whether it lives on, unknown to the guest, until what the guest
    /// had sent before it closed is read.
    pub(super) fn guest_resets(&self) -> bool {
        self.state == State::Draining
    }

    /// The socket has news.
    pub(super) fn socket_news(&mut self, has_gone: bool) -> Verdict {
        self.is_readable = true;
        self.has_gone |= has_gone;
        if self.is_asked() {
            return if self.has_gone {
                Verdict::Over
            } else {
                Verdict::Stays
            };
        }
        if self.has_gone && self.is_at_end {
            self.lose_reader();
        }
        self.flush()
    }

    /// Whether there is, or may be, something for the guest.
    pub(super) fn has_packet(&self) -> bool {
        match self.state {
            State::Asked { is_sent } => !is_sent,
            State::Draining => false,
            State::Open | State::Ending => {
                self.owes_response
                    || self.owes_room
                    || self.owes_shut != 0
                    || self.may_read() && (self.credit() > 0 || !self.has_asked_for_room)
            }
        }
    }

    fn may_read(&self) -> bool {
        self.state == State::Open
            && self.is_readable
            && !self.is_at_end
            && self.guest_shut & SHUT_RECEIVE == 0
    }

    /// Makes the next packet for the guest; its data is in `buffer`, which has room for some.
    pub(super) fn next(&mut self, buffer: &mut [u8]) -> Next {
        let packet = |op, flags| Next::Packet {
            op,
            flags,
            len_bytes: 0,
        };
        match self.state {
            State::Asked { is_sent: false } => {
                self.state = State::Asked { is_sent: true };
                return packet(OP_REQUEST, 0);
            }
            State::Asked { is_sent: true } | State::Draining => return Next::Nothing,
            State::Open | State::Ending => {}
        }
        if std::mem::take(&mut self.owes_response) {
            return packet(OP_RESPONSE, 0);
        }
        if self.may_read() {
            match self.read(buffer) {
                Next::Nothing => {}
                next => return next,
            }
        }
        // Behind the data: the end was found there.
        let shut = std::mem::take(&mut self.owes_shut);
        if shut != 0 {
            self.told_shut |= shut;
            if self.told_shut == SHUT_BOTH {
                self.state = State::Ending;
            }
            return packet(OP_SHUTDOWN, self.told_shut);
        }
        if self.owes_room {
            return packet(OP_CREDIT_UPDATE, 0);
        }
        Next::Nothing
    }

    /// Reads for the guest what it has room for.
    fn read(&mut self, buffer: &mut [u8]) -> Next {
        let credit = usize::try_from(self.credit()).unwrap_or(usize::MAX);
        let room = credit.min(buffer.len());
        if room == 0 {
            // Once: it answers, or tells by itself when it has room.
            if std::mem::replace(&mut self.has_asked_for_room, true) {
                return Next::Nothing;
            }
            return Next::Packet {
                op: OP_CREDIT_REQUEST,
                flags: 0,
                len_bytes: 0,
            };
        }
        loop {
            match (&self.stream).read(&mut buffer[..room]) {
                Ok(0) => {
                    self.is_at_end = true;
                    let shut = if self.has_gone { SHUT_BOTH } else { SHUT_SEND };
                    self.owes_shut |= shut & !self.told_shut;
                    return Next::Nothing;
                }
                Ok(len) => {
                    let len_bytes = u32::try_from(len).unwrap_or(u32::MAX);
                    self.sent = self.sent.wrapping_add(len_bytes);
                    return Next::Packet {
                        op: OP_RW,
                        flags: 0,
                        len_bytes,
                    };
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_readable = false;
                    return Next::Nothing;
                }
                Err(_) => return Next::Failed,
            }
        }
    }
}

fn write(stream: &UnixStream, bytes: &[u8]) -> Result<usize, Errno> {
    loop {
        // A reader that has gone is an error here, not a signal for the whole process.
        match send(stream, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Err(Errno::INTR) => {}
            written => return written,
        }
    }
}
