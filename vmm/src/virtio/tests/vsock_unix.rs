//! The socket device of this process: both ways to connect, credit, ends, limits, and guests that do as
//! they please. Packets are made and read here byte by byte, by the specification's offsets.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use vmm_sys_util::tempdir::TempDir;

use super::rig::{Dice, Rig, BUFFERS};
use crate::virtio::vsock::{UnixVsock, UnixVsockError, VsockCounts, VsockGauges};

const CID: u32 = 42;
const HOST: u64 = 2;
const STREAM: u16 = 1;
const HEADER: usize = 44;
/// Where the guest's packets for the host are made; its buffers lie behind.
const OUT: u64 = BUFFERS;
const IN: u64 = BUFFERS + 0x2_0000;
const IN_BYTES: u32 = 44 + 0x1000;
const RING: u16 = 256;
/// Generous: debug builds on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// The window of the device.
const WINDOW: usize = 128 << 10;

const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RST: u16 = 3;
const SHUTDOWN: u16 = 4;
const RW: u16 = 5;
const CREDIT_UPDATE: u16 = 6;
const CREDIT_REQUEST: u16 = 7;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet {
    src: (u64, u32),
    dst: (u64, u32),
    kind: u16,
    op: u16,
    flags: u32,
    room: (u32, u32),
    data: Vec<u8>,
}

impl Packet {
    /// From this port of the guest's to that of the host's.
    fn new(guest: u32, host: u32, op: u16) -> Self {
        Self {
            src: (CID.into(), guest),
            dst: (HOST, host),
            kind: STREAM,
            op,
            flags: 0,
            room: (1 << 20, 0),
            data: Vec::new(),
        }
    }

    fn with(self, data: &[u8]) -> Self {
        Self {
            data: data.to_vec(),
            ..self
        }
    }

    fn header(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0..8].copy_from_slice(&self.src.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src.1.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst.1.to_le_bytes());
        bytes[24..28].copy_from_slice(&(self.data.len() as u32).to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.op.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.room.0.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.room.1.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Self {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let u16_at = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
        assert_eq!(u32_at(24) as usize, bytes.len() - HEADER);
        Self {
            src: (u64_at(0), u32_at(16)),
            dst: (u64_at(8), u32_at(20)),
            kind: u16_at(28),
            op: u16_at(30),
            flags: u32_at(32),
            room: (u32_at(36), u32_at(40)),
            data: bytes[HEADER..].to_vec(),
        }
    }
}

/// What the host has beside a device: programs, and one that listens on port 5.
pub(super) struct Sockets {
    folder: TempDir,
    listener: UnixListener,
    streams: Vec<UnixStream>,
}

impl Sockets {
    /// A device with CID 3, and its surroundings.
    pub(super) fn with_device() -> (Self, UnixVsock) {
        let folder = TempDir::new().unwrap();
        let device = UnixVsock::open(3, &folder.as_path().join("s")).unwrap();
        let listener = UnixListener::bind(folder.as_path().join("s_5")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let streams = Vec::new();
        let sockets = Self {
            folder,
            listener,
            streams,
        };
        (sockets, device)
    }

    /// One program does something.
    pub(super) fn stir(&mut self, what: u8) {
        let index = usize::from(what / 8) % self.streams.len().max(1);
        match (what % 8, self.streams.get_mut(index)) {
            (0, _) => self.streams.extend(self.connect(b"CONNECT 7\n")),
            (1, _) => self.streams.extend(self.connect(&[what; 40])),
            (2 | 3, _) => {
                if let Ok((stream, _)) = self.listener.accept() {
                    stream.set_nonblocking(true).unwrap();
                    self.streams.push(stream);
                }
            }
            (4, Some(_)) => drop(self.streams.swap_remove(index)),
            (5, Some(stream)) => drop(stream.shutdown(Shutdown::Write)),
            (6, Some(stream)) => drop(stream.write(&[what; 1000])),
            (_, Some(stream)) => drop(stream.read(&mut [0; 1000])),
            (_, None) => {}
        }
    }

    fn connect(&self, line: &[u8]) -> Option<UnixStream> {
        let mut stream = UnixStream::connect(self.folder.as_path().join("s")).ok()?;
        stream.set_nonblocking(true).ok()?;
        stream.write_all(line).ok()?;
        Some(stream)
    }
}

/// A guest's driver, and the folder where the host's sockets are.
struct Set {
    rig: Rig,
    folder: TempDir,
    gauges: Arc<VsockGauges>,
    // By the head of the chain.
    buffers: HashMap<u32, u64>,
}

impl Set {
    /// With so many buffers for receiving.
    fn new(buffers: u64) -> Self {
        Self::with_patience(buffers, SOON)
    }

    fn with_patience(buffers: u64, half_open: Duration) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.as_path().join("s");
        let device = UnixVsock::open_for(CID, &path, half_open).unwrap();
        let gauges = device.gauges();
        let mut set = Self {
            rig: Rig::new(device),
            folder,
            gauges,
            buffers: HashMap::new(),
        };
        set.rig.start(0, RING);
        set.give(buffers);
        set
    }

    fn give(&mut self, buffers: u64) {
        for index in 0..buffers {
            self.give_at(IN + index * 0x1100);
        }
        self.rig.notify(0);
    }

    fn give_at(&mut self, address: u64) {
        let head = self.rig.add(0, &[(address, IN_BYTES, true)]);
        self.buffers.insert(head.into(), address);
    }

    fn path(&self, port: Option<u32>) -> PathBuf {
        let name = port.map_or("s".into(), |port| format!("s_{port}"));
        self.folder.as_path().join(name)
    }

    fn counts(&self) -> VsockCounts {
        self.gauges.counts()
    }

    /// The guest sends this; its data is in two pieces, as MSG_ZEROCOPY has it.
    fn send(&mut self, packet: &Packet) {
        self.rig.put(OUT, &packet.header());
        self.rig.put(OUT + 0x100, &packet.data);
        let (len, half) = (packet.data.len() as u32, packet.data.len() as u32 / 2);
        let first = (OUT + 0x100, half, false);
        let second = (OUT + 0x100 + u64::from(half), len - half, false);
        self.rig
            .add(1, &[(OUT, HEADER as u32, false), first, second]);
        self.rig.notify(1);
        assert!(self.rig.take_used(1).is_some(), "{packet:?}");
    }

    /// The next packet for the guest, whose buffer goes back.
    fn receive(&mut self) -> Option<Packet> {
        let (head, len) = self.rig.take_used(0)?;
        let address = self.buffers[&head];
        let mut bytes = vec![0; len as usize];
        let ram = self.rig.ram.clone();
        vm_memory::Bytes::read_slice(&*ram, &mut bytes, vm_memory::GuestAddress(address)).unwrap();
        self.give_at(address);
        self.rig.notify(0);
        let packet = Packet::read(&bytes);
        assert_eq!(packet.dst.0, u64::from(CID));
        // A reset says what the packet said that it answers.
        assert!(packet.op == RST || (packet.src.0, packet.kind) == (HOST, STREAM));
        Some(packet)
    }

    #[track_caller]
    fn expect(&mut self, op: u16) -> Packet {
        self.rig.run();
        let packet = self.receive().expect("a packet");
        assert_eq!(packet.op, op, "{packet:?}");
        packet
    }

    #[track_caller]
    fn expect_nothing(&mut self) {
        self.rig.run();
        assert_eq!(self.receive(), None);
    }

    /// Lets the I/O thread run until there is a packet.
    fn wait(&mut self) -> Packet {
        let started = Instant::now();
        loop {
            self.rig.run();
            if let Some(packet) = self.receive() {
                return packet;
            }
            assert!(started.elapsed() < SOON, "no packet");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A connection of the guest's from this port to the host's port 5: the host's end of it.
    fn guest_opens(&mut self, listener: &UnixListener, guest: u32, room: u32) -> UnixStream {
        let request = Packet {
            room: (room, 0),
            ..Packet::new(guest, 5, REQUEST)
        };
        self.send(&request);
        let response = self.expect(RESPONSE);
        assert_eq!((response.src.1, response.dst.1), (5, guest));
        assert_eq!(response.room, (WINDOW as u32, 0));
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    fn listen(&self) -> UnixListener {
        UnixListener::bind(self.path(Some(5))).unwrap()
    }

    /// A program of the host's that asks for this port, and what the guest hears of it.
    fn host_asks(&mut self, port: u32) -> (UnixStream, Packet) {
        let mut stream = UnixStream::connect(self.path(None)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        writeln!(stream, "CONNECT {port}").unwrap();
        let request = self.expect(REQUEST);
        assert_eq!(request.dst.1, port);
        (stream, request)
    }
}

fn read_exact(mut stream: &UnixStream, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    stream.read_exact(&mut data).unwrap();
    data
}

fn is_at_end(mut stream: &UnixStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0))
}

/// Whether the other end has gone, with or without having read all.
fn is_closed(mut stream: &UnixStream) -> bool {
    !matches!(stream.read(&mut [0]), Ok(1..))
}

#[test]
fn program_of_the_host_reaches_the_guest_and_both_close() {
    let mut set = Set::new(8);
    let (mut stream, request) = set.host_asks(1234);
    let host = request.src.1;
    // What it says before it is joined waits.
    stream.write_all(b"early").unwrap();
    set.expect_nothing();
    set.send(&Packet::new(1234, host, RESPONSE));
    let line = format!("OK {host}\n");
    assert_eq!(read_exact(&stream, line.len()), line.as_bytes());
    assert_eq!(set.expect(RW).data, b"early");
    set.send(&Packet::new(1234, host, RW).with(b"hello"));
    assert_eq!(read_exact(&stream, 5), b"hello");
    assert_eq!(
        (set.counts().connections, set.counts().opened_by_host),
        (1, 1)
    );
    // Half of it, then all.
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(set.expect(SHUTDOWN).flags, 2);
    set.send(&Packet::new(1234, host, RW).with(b"still there"));
    assert_eq!(read_exact(&stream, 11), b"still there");
    drop(stream);
    assert_eq!(set.expect(SHUTDOWN).flags, 3);
    set.send(&Packet::new(1234, host, RST));
    set.expect_nothing();
    assert_eq!((set.counts().connections, set.counts().cut), (0, 0));
}

#[test]
fn program_is_closed_if_the_guest_does_not_listen_or_the_line_is_none() {
    let mut set = Set::new(8);
    let (stream, request) = set.host_asks(9);
    set.send(&Packet::new(9, request.src.1, RST));
    assert!(is_at_end(&stream));
    for line in ["CONNECT\n", "hello\n", "CONNECT 1x\n", &"1".repeat(32)] {
        let mut stream = UnixStream::connect(set.path(None)).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        set.expect_nothing();
        // With its line unread, the end is an error.
        assert!(is_closed(&stream), "{line}");
    }
    assert_eq!((set.counts().connections, set.counts().refused), (0, 5));
    // A line in pieces is one.
    let mut stream = UnixStream::connect(set.path(None)).unwrap();
    for piece in ["CON", "NECT", " 7", "7\n"] {
        set.expect_nothing();
        stream.write_all(piece.as_bytes()).unwrap();
    }
    assert_eq!(set.expect(REQUEST).dst.1, 77);
}

#[test]
fn guest_reaches_who_listens_and_nobody_else() {
    let mut set = Set::new(8);
    let listener = set.listen();
    let mut stream = set.guest_opens(&listener, 1000, 1 << 20);
    set.send(&Packet::new(1000, 5, RW).with(b"from the guest"));
    assert_eq!(read_exact(&stream, 14), b"from the guest");
    stream.write_all(b"from the host").unwrap();
    assert_eq!(set.expect(RW).data, b"from the host");
    // It closes: the host reads to the end, the guest gets its reset.
    set.send(&Packet::new(1000, 5, RW).with(b"last"));
    let shutdown = Packet {
        flags: 3,
        ..Packet::new(1000, 5, SHUTDOWN)
    };
    set.send(&shutdown);
    set.expect(RST);
    assert_eq!(read_exact(&stream, 4), b"last");
    assert!(is_at_end(&stream));
    // The same port again, and a port where nobody is.
    drop(set.guest_opens(&listener, 1000, 1 << 20));
    set.send(&Packet::new(1001, 6, REQUEST));
    let refused = loop {
        let packet = set.wait();
        if packet.op != SHUTDOWN {
            break packet;
        }
    };
    assert_eq!((refused.op, refused.src.1, refused.dst.1), (RST, 6, 1001));
    assert_eq!((set.counts().opened_by_guest, set.counts().refused), (2, 1));
}

/// `rig.run` panics if the I/O thread never gets idle.
#[test]
fn guest_shuts_one_direction_and_the_other_goes_on() {
    let mut set = Set::new(8);
    let listener = set.listen();
    for (guest, flags) in [(7, 2), (8, 1)] {
        let mut stream = set.guest_opens(&listener, guest, 1 << 20);
        let shutdown = Packet {
            flags,
            ..Packet::new(guest, 5, SHUTDOWN)
        };
        set.send(&shutdown);
        set.send(&shutdown);
        if flags == 2 {
            assert!(is_at_end(&stream));
            stream.write_all(b"answer").unwrap();
            assert_eq!(set.expect(RW).data, b"answer");
        } else {
            assert!(stream.write_all(b"answer").is_err());
            set.send(&Packet::new(guest, 5, RW).with(b"more"));
            assert_eq!(read_exact(&stream, 4), b"more");
        }
        drop(stream);
        let ended = Packet {
            flags: 3,
            ..Packet::new(guest, 5, SHUTDOWN)
        };
        set.send(&ended);
        while set.wait().op != RST {}
    }
    assert_eq!(set.counts().connections, 0);
}

#[test]
fn strangers_are_reset_and_a_reset_never_is() {
    let mut set = Set::new(8);
    for op in [RESPONSE, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST, 0, 99] {
        set.send(&Packet::new(1, 2, op));
        let reset = set.expect(RST);
        assert_eq!((reset.src.1, reset.dst.1), (2, 1), "{op}");
    }
    set.send(&Packet::new(1, 2, RST));
    // Nobody that an answer would reach.
    let mut other = Packet::new(1, 2, RW);
    other.src.0 = 41;
    set.send(&other);
    set.expect_nothing();
    // Sequenced packets, which are not offered.
    let seqpacket = Packet {
        kind: 2,
        ..Packet::new(1, 5, REQUEST)
    };
    set.rig.put(OUT, &seqpacket.header());
    set.rig.add(1, &[(OUT, HEADER as u32, false)]);
    set.rig.notify(1);
    let (head, len) = set.rig.take_used(0).unwrap();
    assert_eq!(len, HEADER as u32);
    let [op, _] = set.rig.get(set.buffers[&head] + 30);
    assert_eq!(op, RST as u8);
}

#[test]
fn guest_is_sent_what_it_has_room_for() {
    let mut set = Set::new(8);
    let listener = set.listen();
    let mut stream = set.guest_opens(&listener, 7, 100);
    stream.write_all(&[9; 150]).unwrap();
    assert_eq!(set.expect(RW).data, [9; 100]);
    // Asked once.
    set.expect(CREDIT_REQUEST);
    set.expect_nothing();
    for (room, expected) in [
        // It used more than there was, it has less room than before, it has none.
        ((100, 101), None),
        ((10, 50), None),
        ((0, 100), None),
        ((100, 30), Some(30)),
        ((u32::MAX, 130), Some(20)),
    ] {
        let update = Packet {
            room,
            ..Packet::new(7, 5, CREDIT_UPDATE)
        };
        set.send(&update);
        set.rig.run();
        let data = std::iter::from_fn(|| set.receive())
            .filter(|packet| packet.op == RW)
            .map(|packet| packet.data.len());
        let data: Vec<_> = data.collect();
        assert_eq!(data, Vec::from_iter(expected), "{room:?}");
    }
}

/// Data that says where it belongs.
fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len)
        .map(|at| (at * 7 + at / 251) as u8)
        .collect()
}

#[test]
fn guest_that_keeps_to_its_credit_loses_nothing_however_slow_the_reader() {
    let mut set = Set::new(8);
    let listener = set.listen();
    let mut stream = set.guest_opens(&listener, 7, 1 << 20);
    stream.set_nonblocking(true).unwrap();
    let total = 2 << 20;
    let (mut sent, mut forwarded, mut read) = (0, 0, Vec::new());
    let (mut was_out_of_credit, started) = (false, Instant::now());
    while read.len() < total {
        assert!(started.elapsed() < SOON);
        let credit = WINDOW - (sent - forwarded);
        let len = credit.min(total - sent).min(60_000);
        if len > 0 {
            set.send(&Packet::new(7, 5, RW).with(&pattern(sent, len)));
            sent += len;
        } else {
            was_out_of_credit = true;
            // Only now somebody reads, and only some.
            let mut some = [0; 50_000];
            match stream.read(&mut some) {
                Ok(len) => read.extend_from_slice(&some[..len]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        set.rig.run();
        while let Some(packet) = set.receive() {
            assert_eq!(packet.op, CREDIT_UPDATE);
            forwarded = packet.room.1 as usize;
        }
    }
    assert!(was_out_of_credit);
    assert_eq!(read, pattern(0, total));
    assert_eq!(set.counts().cut, 0);
}

#[test]
fn guest_that_overruns_its_credit_is_reset_and_holds_no_more_than_the_window() {
    let mut set = Set::new(8);
    let listener = set.listen();
    let stream = set.guest_opens(&listener, 7, 1 << 20);
    let mut sent = 0;
    let reset = loop {
        set.send(&Packet::new(7, 5, RW).with(&pattern(sent, 60_000)));
        sent += 60_000;
        if let Some(packet) = std::iter::from_fn(|| set.receive()).find(|p| p.op == RST) {
            break packet;
        }
        assert!(sent < 4 << 20, "never reset");
    };
    assert_eq!((reset.src.1, reset.dst.1), (5, 7));
    assert_eq!((set.counts().connections, set.counts().cut), (0, 1));
    drop(stream);
    // Data that is not there is no credit to lie about: the connection ends.
    let _stream = set.guest_opens(&listener, 8, 1 << 20);
    let lie = Packet::new(8, 5, RW).with(&[0; 4000]);
    set.rig.put(OUT, &lie.header());
    set.rig.add(1, &[(OUT, HEADER as u32 + 10, false)]);
    set.rig.notify(1);
    set.expect(RST);
}

#[test]
fn data_of_a_guest_that_has_closed_still_reaches_a_slow_reader() {
    let mut set = Set::new(8);
    let listener = set.listen();
    let stream = set.guest_opens(&listener, 7, 1 << 20);
    // More than the socket holds by itself.
    let (mut sent, mut forwarded) = (0, 0);
    loop {
        let len = (WINDOW - (sent - forwarded)).min(60_000);
        if len == 0 {
            break;
        }
        set.send(&Packet::new(7, 5, RW).with(&pattern(sent, len)));
        sent += len;
        while let Some(packet) = set.receive() {
            forwarded = packet.room.1 as usize;
        }
    }
    let shutdown = Packet {
        flags: 3,
        ..Packet::new(7, 5, SHUTDOWN)
    };
    set.send(&shutdown);
    set.expect_nothing();
    // Linux loses its patience, and so it is heard no more.
    set.send(&Packet::new(7, 5, RST));
    let mut read = Vec::new();
    while read.len() < sent {
        let mut some = [0; 4096];
        let len = (&stream).read(&mut some).unwrap();
        read.extend_from_slice(&some[..len]);
        set.rig.run();
    }
    assert_eq!(read, pattern(0, sent));
    assert!(is_at_end(&stream));
    set.expect_nothing();
    assert_eq!(set.counts().connections, 0);
}

#[test]
fn peer_that_dies_ends_the_guests_connection() {
    let mut set = Set::new(8);
    let listener = set.listen();
    // With data that nobody has read: a reset.
    let stream = set.guest_opens(&listener, 7, 1 << 20);
    set.send(&Packet::new(7, 5, RW).with(b"unread"));
    drop(stream);
    set.expect(RST);
    assert_eq!(set.counts().connections, 0);
    // Without: an end, after what it has said; and writes that go nowhere meanwhile.
    let mut stream = set.guest_opens(&listener, 8, 1 << 20);
    stream.write_all(b"last words").unwrap();
    drop(stream);
    set.send(&Packet::new(8, 5, RW).with(b"too late"));
    assert_eq!(set.expect(RW).data, b"last words");
    assert_eq!(set.expect(SHUTDOWN).flags, 3);
    set.send(&Packet::new(8, 5, RST));
    // Before the guest has answered.
    let (stream, request) = set.host_asks(3);
    drop(stream);
    set.expect(RST);
    set.send(&Packet::new(3, request.src.1, RESPONSE));
    set.expect(RST);
    assert_eq!(set.counts().connections, 0);
}

#[test]
fn what_is_half_open_for_too_long_ends() {
    let mut set = Set::with_patience(8, Duration::from_millis(1));
    let silent = UnixStream::connect(set.path(None)).unwrap();
    silent
        .set_read_timeout(Some(Duration::from_millis(10)))
        .unwrap();
    let started = Instant::now();
    while !is_at_end(&silent) {
        set.rig.run();
        assert!(started.elapsed() < SOON);
    }
    // No answer to a request.
    let (_asks, request) = set.host_asks(3);
    let reset = set.wait();
    assert_eq!((reset.op, reset.src.1), (RST, request.src.1));
    // No end after an end.
    let listener = set.listen();
    drop(set.guest_opens(&listener, 7, 100));
    set.expect(SHUTDOWN);
    let reset = set.wait();
    assert_eq!((reset.op, reset.dst.1), (RST, 7));
    assert_eq!((set.counts().connections, set.counts().cut), (0, 2));
}

#[test]
fn connections_have_a_limit() {
    // Both ends of each are in this process.
    let limit = getrlimit(Resource::Nofile);
    let more = Rlimit {
        current: Some(limit.maximum.map_or(4096, |maximum| maximum.min(4096))),
        ..limit
    };
    setrlimit(Resource::Nofile, more).unwrap();
    let mut set = Set::new(8);
    let listener = set.listen();
    let mut streams = Vec::new();
    for guest in 0..512 {
        streams.push(set.guest_opens(&listener, guest, 100));
    }
    assert_eq!(set.counts().connections, 512);
    set.send(&Packet::new(999, 5, REQUEST));
    assert_eq!(set.expect(RST).dst.1, 999);
    let stream = UnixStream::connect(set.path(None)).unwrap();
    set.expect_nothing();
    assert!(is_at_end(&stream));
    // One that ends makes room for another.
    set.send(&Packet::new(0, 5, RST));
    assert!(is_at_end(&streams[0]));
    set.guest_opens(&listener, 999, 100);
}

#[test]
fn guest_that_fetches_no_answers_is_not_heard_until_it_does() {
    let mut set = Set::new(0);
    for number in 0..256_u32 {
        set.send(&Packet::new(number, 1, RW));
    }
    set.rig.put(OUT, &Packet::new(256, 1, RW).header());
    set.rig.add(1, &[(OUT, HEADER as u32, false)]);
    set.rig.notify(1);
    assert_eq!(set.rig.take_used(1), None);
    set.give(8);
    for number in 0..=256 {
        assert_eq!(set.expect(RST).dst.1, number);
    }
    assert!(set.rig.take_used(1).is_some());
    set.expect_nothing();
}

#[test]
fn reset_closes_everything_and_nobody_is_taken_without_a_driver() {
    let mut set = Set::new(8);
    let listener = set.listen();
    let (asks, _) = set.host_asks(3);
    let greets = UnixStream::connect(set.path(None)).unwrap();
    let open = set.guest_opens(&listener, 7, 100);
    set.rig.set_status(0);
    for stream in [&asks, &greets, &open] {
        set.rig.run();
        assert!(is_closed(stream));
    }
    assert_eq!(set.counts().connections, 0);
    let early = UnixStream::connect(set.path(None)).unwrap();
    set.rig.run();
    assert!(is_at_end(&early));
    set.rig.start(0, RING);
    set.buffers.clear();
    set.give(8);
    set.guest_opens(&listener, 7, 100);
}

#[test]
fn paths_that_cannot_be_listened_on_are_refused_and_ours_goes_with_the_device() {
    let folder = TempDir::new().unwrap();
    let path = folder.as_path().join("s");
    let device = UnixVsock::open(CID, &path).unwrap();
    let again = UnixVsock::open(CID, &path).err();
    assert!(matches!(again, Some(UnixVsockError::InUse { .. })));
    drop(device);
    assert!(!path.exists());
    std::fs::write(&path, b"").unwrap();
    let again = UnixVsock::open(CID, &path).err();
    assert!(matches!(again, Some(UnixVsockError::NotASocket { .. })));
}

/// Packets of any kind for few ports, while the host's side does what it likes. Nothing panics, nothing
/// spins, every reset has a reason, and there are never more connections than the limit.
#[test]
fn packets_by_chance_are_harmless() {
    let mut resets = 0;
    for seed in 0..20 {
        let mut set = Set::new(16);
        let listener = set.listen();
        listener.set_nonblocking(true).unwrap();
        let mut dice = Dice(seed);
        let mut streams: Vec<UnixStream> = Vec::new();
        let mut seen = vec![(1, 5)];
        for _ in 0..600 {
            let (guest, host) = dice.pick(&seen);
            let mut packet = Packet::new(guest, host, dice.below(9) as u16);
            match dice.below(12) {
                0 => packet.src.0 = dice.roll(),
                1 => packet.dst.0 = dice.roll(),
                2 => packet.kind = dice.roll() as u16,
                3 => packet.op = dice.roll() as u16,
                4 => packet.dst.1 = dice.roll() as u32,
                5 => packet.src.1 = dice.below(4) as u32,
                _ => {}
            }
            packet.flags = dice.pick(&[0, 1, 2, 3, u32::MAX, 0, 0, 0]);
            packet.room = (
                dice.pick(&[0, 1, 100, 1 << 18, u32::MAX]),
                dice.pick(&[0, 1, 100, u32::MAX, dice.0 as u32]),
            );
            let len = dice.pick(&[0, 1, 100, 60_000]);
            packet.data = vec![7; len];
            let is_reset = packet.op == RST;
            let queued = set.rig.take_used(0);
            assert_eq!(queued, None, "all was fetched");
            set.send(&packet);
            let mut answers = Vec::new();
            while let Some(answer) = set.receive() {
                if answer.op == REQUEST {
                    seen.push((answer.dst.1, answer.src.1));
                }
                answers.push(answer);
            }
            let was_reset = answers.iter().filter(|answer| answer.op == RST).count();
            resets += was_reset;
            if is_reset && packet.src.0 == u64::from(CID) {
                let to_it = |answer: &&Packet| {
                    let ports = (answer.dst.1, answer.src.1);
                    answer.op == RST && ports == (packet.src.1, packet.dst.1)
                };
                let answered = answers.iter().find(to_it);
                assert_eq!(answered, None, "a reset for {packet:?}");
            }
            match dice.below(8) {
                0 => {
                    if let Ok(mut stream) = UnixStream::connect(set.path(None)) {
                        stream.set_nonblocking(true).unwrap();
                        let line = dice.pick(&["CONNECT 1\n", "CONNECT 2\nmore", "CONN", "\n"]);
                        let _ = stream.write_all(line.as_bytes());
                        streams.push(stream);
                    }
                }
                1 if !streams.is_empty() => {
                    let index = dice.below(streams.len() as u64) as usize;
                    streams.swap_remove(index);
                }
                2 | 3 => {
                    for mut stream in &streams {
                        let _ = stream.write(&[1; 300]);
                        let _ = stream.read(&mut [0; 50_000]);
                    }
                }
                _ => {}
            }
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true).unwrap();
                streams.push(stream);
            }
            set.rig.run();
            while let Some(packet) = set.receive() {
                if packet.op == REQUEST {
                    seen.push((packet.dst.1, packet.src.1));
                }
            }
            assert!(set.counts().connections <= 512);
        }
        assert_eq!(set.rig.status(), 15);
        set.rig.set_status(0);
        assert_eq!(set.counts().connections, 0);
    }
    assert!(resets > 100, "{resets}");
}
