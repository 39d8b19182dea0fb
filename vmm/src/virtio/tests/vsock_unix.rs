//! The socket device of this process: both ways to connect, credit, ends, limits, and guests that do as
//! they please. Packets are made and read here byte by byte, by the specification's offsets.

mod chance;
mod connecting;
mod credit;
mod ends;

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
