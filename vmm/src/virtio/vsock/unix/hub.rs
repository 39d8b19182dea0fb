//! All connections: packets of the guest find theirs here, and packets for the guest are made here.
//!
//! A packet without a connection is answered by a reset, unless it is one. Answers wait in a list of
//! their own, in front of everything else. Connections take turns, one packet each.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::{Connection, Next, Verdict};
use super::gauges::{Happened, VsockGauges};
use super::greeting::{Greeting, Said};
use super::header::{
    Header, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE, OP_RST, OP_RW,
    OP_SHUTDOWN, TYPE_STREAM,
};
use super::host::{Host, News, FIRST_TOKEN};
use super::{MAX_CONNECTIONS, MAX_REPLIES, PACKET_BYTES};
use crate::virtio::chain::Segments;

/// The host's CID.
const HOST_CID: u64 = 2;
/// Our ends of connections that the host opens have ports from here on, far from those of services.
const FIRST_OWN_PORT: u32 = 1 << 30;
const LAST_OWN_PORT: u32 = (1 << 31) - 1;
/// News are fetched so many times in a row; then others have their turn.
const MAX_FETCHES: usize = 32;

/// What tells a connection from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ports {
    guest: u32,
    host: u32,
}

pub(super) struct Hub {
    cid: u64,
    host: Host,
    half_open: Duration,
    gauges: Arc<VsockGauges>,
    /// Whether the guest has a driver.
    pub(super) has_driver: bool,
    greetings: BTreeMap<u64, Greeting>,
    connections: BTreeMap<u64, (Ports, Connection)>,
    // Those of which the guest knows, or shall know.
    by_ports: HashMap<Ports, u64>,
    // Tokens of connections that may have a packet.
    turns: VecDeque<u64>,
    replies: VecDeque<Header>,
    next_token: u64,
    next_port: u32,
    // Accepting has failed: the clock tries again.
    is_deaf: bool,
    buffer: Box<[u8]>,
}

impl Hub {
    pub(super) fn new(cid: u32, host: Host, half_open: Duration) -> Self {
        Self {
            cid: cid.into(),
            host,
            half_open,
            gauges: Arc::default(),
            has_driver: false,
            greetings: BTreeMap::new(),
            connections: BTreeMap::new(),
            by_ports: HashMap::new(),
            turns: VecDeque::new(),
            replies: VecDeque::new(),
            next_token: FIRST_TOKEN,
            next_port: FIRST_OWN_PORT,
            is_deaf: false,
            buffer: vec![0; PACKET_BYTES].into_boxed_slice(),
        }
    }

    pub(super) fn gauges(&self) -> Arc<VsockGauges> {
        Arc::clone(&self.gauges)
    }

    pub(super) fn news_file(&self) -> Arc<File> {
        self.host.news_file()
    }

    /// Closes everything: the guest has forgotten it.
    pub(super) fn reset(&mut self) {
        self.has_driver = false;
        self.greetings.clear();
        self.connections.clear();
        self.by_ports.clear();
        self.turns.clear();
        self.replies.clear();
        self.gauges.set_connections(0);
    }

    /// Whether there is room for the answer to a packet of the guest's.
    pub(super) fn can_answer(&self) -> bool {
        self.replies.len() < MAX_REPLIES
    }

    /// Whether there may be a packet for the guest.
    pub(super) fn has_packet(&self) -> bool {
        !self.replies.is_empty() || !self.turns.is_empty()
    }

    /// Takes a packet of the guest's: its header, and the data that is really there.
    pub(super) fn take(&mut self, header: &Header, data: &mut Segments<'_>) {
        if header.src_cid != self.cid {
            // Nobody that an answer would reach.
            return;
        }
        let is_for_us = header.dst_cid == HOST_CID && header.kind == TYPE_STREAM;
        let ports = Ports {
            guest: header.src_port,
            host: header.dst_port,
        };
        let found = self.by_ports.get(&ports).copied().filter(|_| is_for_us);
        match found {
            Some(token) => self.take_for(token, header, data),
            None if header.op == OP_RST => {}
            None if header.op == OP_REQUEST && is_for_us => self.call(ports, header),
            None => self.replies.push_back(header.reset()),
        }
    }

    fn take_for(&mut self, token: u64, header: &Header, data: &mut Segments<'_>) {
        let Some((ports, connection)) = self.connections.get_mut(&token) else {
            return;
        };
        connection.hear_of_room(header);
        let verdict = match header.op {
            OP_RESPONSE => {
                let verdict = connection.is_taken(ports.host);
                if verdict == Verdict::Stays {
                    self.gauges.count(Happened::OpenedByHost);
                }
                verdict
            }
            OP_RW if data.len_bytes() == u64::from(header.len_bytes) => {
                connection.take(data, &mut self.buffer)
            }
            OP_SHUTDOWN => connection.guest_shuts(header.flags),
            OP_CREDIT_UPDATE => Verdict::Stays,
            OP_CREDIT_REQUEST => connection.is_asked_for_room(),
            OP_RST => {
                let lives_on = connection.guest_resets();
                let ports = *ports;
                if connection.is_asked() {
                    self.gauges.count(Happened::Refused);
                }
                self.by_ports.remove(&ports);
                if !lives_on {
                    self.drop_connection(token);
                }
                return;
            }
            // A request for what is there already, an operation that does not exist, data that is not there.
            _ => Verdict::Cut,
        };
        self.settle(token, verdict);
    }

    /// The guest wants a connection to a port of the host's.
    fn call(&mut self, ports: Ports, header: &Header) {
        let stream = if self.is_full() {
            None
        } else {
            self.host.call(ports.host).ok()
        };
        let added = stream.and_then(|stream| self.add(ports, stream, Connection::from_guest));
        let Some(token) = added else {
            self.gauges.count(Happened::Refused);
            self.replies.push_back(header.reset());
            return;
        };
        self.gauges.count(Happened::OpenedByGuest);
        if let Some((_, connection)) = self.connections.get_mut(&token) {
            connection.hear_of_room(header);
        }
        self.settle(token, Verdict::Stays);
    }

    fn is_full(&self) -> bool {
        self.connections.len() + self.greetings.len() >= MAX_CONNECTIONS
    }

    fn new_token(&mut self) -> u64 {
        // 2^64 of them do not come to an end.
        self.next_token = self.next_token.wrapping_add(1);
        self.next_token
    }

    /// Adds a connection, unless its socket cannot be watched.
    fn add(
        &mut self,
        ports: Ports,
        stream: UnixStream,
        make: impl FnOnce(UnixStream) -> Connection,
    ) -> Option<u64> {
        let token = self.new_token();
        self.host.watch(&stream, token).ok()?;
        self.insert(token, ports, make(stream));
        Some(token)
    }

    fn insert(&mut self, token: u64, ports: Ports, connection: Connection) {
        self.connections.insert(token, (ports, connection));
        self.by_ports.insert(ports, token);
        self.gauges.set_connections(self.connections.len());
    }

    /// Does what follows from what has happened to a connection.
    fn settle(&mut self, token: u64, verdict: Verdict) {
        let Some((ports, connection)) = self.connections.get_mut(&token) else {
            return;
        };
        if verdict != Verdict::Stays {
            if verdict == Verdict::Cut {
                self.gauges.count(Happened::Cut);
            }
            let ports = *ports;
            // One that drains after the guest's reset is not in that table any more.
            let is_known =
                connection.is_known_to_guest() && self.by_ports.get(&ports) == Some(&token);
            if is_known {
                self.replies.push_back(self.header(ports, OP_RST));
            }
            self.drop_connection(token);
            return;
        }
        if !connection.is_half_open() {
            connection.deadline = None;
        } else if connection.deadline.is_none() {
            connection.deadline = Some(Instant::now() + self.half_open);
            self.host.set_ticking(true);
        }
        if connection.has_packet() && !connection.is_listed {
            connection.is_listed = true;
            self.turns.push_back(token);
        }
    }

    fn drop_connection(&mut self, token: u64) {
        if let Some((ports, connection)) = self.connections.remove(&token) {
            if self.by_ports.get(&ports) == Some(&token) {
                self.by_ports.remove(&ports);
            }
            if connection.is_listed {
                // A guest that opens, closes and fetches nothing must not make the list grow.
                self.turns.retain(|&other| other != token);
            }
        }
        self.gauges.set_connections(self.connections.len());
    }

    fn header(&self, ports: Ports, op: u16) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: self.cid,
            src_port: ports.host,
            dst_port: ports.guest,
            kind: TYPE_STREAM,
            op,
            ..Header::default()
        }
    }

    /// Makes the next packet for the guest, with at most so much data. None: there is none.
    pub(super) fn next(&mut self, room_bytes: u64) -> Option<(Header, &[u8])> {
        if let Some(reply) = self.replies.pop_front() {
            return Some((reply, &[]));
        }
        let room = usize::try_from(room_bytes).unwrap_or(usize::MAX);
        let room = room.min(self.buffer.len());
        while let Some(token) = self.turns.pop_front() {
            let Some((ports, connection)) = self.connections.get_mut(&token) else {
                continue;
            };
            let ports = *ports;
            connection.is_listed = false;
            match connection.next(&mut self.buffer[..room]) {
                Next::Nothing => self.settle(token, Verdict::Stays),
                Next::Failed => {
                    self.settle(token, Verdict::Cut);
                    // The reset that this has made, if the guest knows of the connection.
                    if let Some(reply) = self.replies.pop_front() {
                        return Some((reply, &[]));
                    }
                }
                Next::Packet {
                    op,
                    flags,
                    len_bytes,
                } => {
                    let mut header = self.header(ports, op);
                    header.flags = flags;
                    header.len_bytes = len_bytes;
                    if let Some((_, connection)) = self.connections.get_mut(&token) {
                        connection.tell_of_room(&mut header);
                    }
                    self.settle(token, Verdict::Stays);
                    let len = usize::try_from(len_bytes).unwrap_or(0);
                    return Some((header, &self.buffer[..len]));
                }
            }
        }
        None
    }

    /// Hears what is new on the host's side. Returns whether there may be more.
    pub(super) fn hear(&mut self) -> bool {
        for _ in 0..MAX_FETCHES {
            let news = self.host.fetch();
            if news.is_empty() {
                return false;
            }
            for news in news {
                match news {
                    News::Caller => self.accept_all(),
                    News::Tick => self.tick(),
                    News::Socket { token, has_gone } => self.hear_from(token, has_gone),
                }
            }
        }
        true
    }

    fn hear_from(&mut self, token: u64, has_gone: bool) {
        if self.greetings.contains_key(&token) {
            return self.greet(token);
        }
        if let Some((_, connection)) = self.connections.get_mut(&token) {
            let verdict = connection.socket_news(has_gone);
            self.settle(token, verdict);
        }
    }

    fn accept_all(&mut self) {
        self.is_deaf = false;
        for _ in 0..MAX_CONNECTIONS {
            let stream = match self.host.accept() {
                Ok(Some(stream)) => stream,
                Ok(None) => return,
                // Out of descriptors, most likely. Who called stays in line.
                Err(_) => break,
            };
            if !self.has_driver || self.is_full() {
                // Closed: nobody can take it.
                self.gauges.count(Happened::Refused);
                continue;
            }
            let token = self.new_token();
            if self.host.watch(&stream, token).is_err() {
                continue;
            }
            let deadline = Instant::now() + self.half_open;
            self.greetings
                .insert(token, Greeting::new(stream, deadline));
            self.host.set_ticking(true);
            // It may have spoken before it was watched.
            self.greet(token);
        }
        // Who still waits is not told of again.
        self.is_deaf = true;
        self.host.set_ticking(true);
    }

    /// Reads the first line of a caller, as far as it is there.
    fn greet(&mut self, token: u64) {
        let Some(greeting) = self.greetings.get(&token) else {
            return;
        };
        let port = match greeting.hear() {
            Said::Part => return,
            Said::Nonsense => None,
            Said::Port(port) => Some(port),
        };
        let Some(greeting) = self.greetings.remove(&token) else {
            return;
        };
        let ports = port.and_then(|port| self.own_port(port));
        let Some(ports) = ports else {
            self.gauges.count(Happened::Refused);
            return;
        };
        self.insert(token, ports, Connection::from_host(greeting.into_stream()));
        self.settle(token, Verdict::Stays);
    }

    /// A port of ours that has no connection with this one of the guest's.
    fn own_port(&mut self, guest: u32) -> Option<Ports> {
        // One more than there are connections must be free.
        (0..=MAX_CONNECTIONS).find_map(|_| {
            let host = self.next_port;
            self.next_port = if host >= LAST_OWN_PORT {
                FIRST_OWN_PORT
            } else {
                host + 1
            };
            let ports = Ports { guest, host };
            (!self.by_ports.contains_key(&ports)).then_some(ports)
        })
    }

    /// Ends what has been half-open for too long.
    fn tick(&mut self) {
        self.host.hear_tick();
        let now = Instant::now();
        self.greetings.retain(|_, greeting| greeting.deadline > now);
        let late = |(token, (_, connection)): (&u64, &(Ports, Connection))| {
            let is_late = connection.deadline.is_some_and(|deadline| deadline <= now);
            is_late.then_some(*token)
        };
        let late: Vec<u64> = self.connections.iter().filter_map(late).collect();
        for token in late {
            self.settle(token, Verdict::Cut);
        }
        if self.is_deaf {
            self.accept_all();
        }
        let has_deadlines = self
            .connections
            .values()
            .any(|(_, connection)| connection.deadline.is_some());
        self.host
            .set_ticking(has_deadlines || !self.greetings.is_empty() || self.is_deaf);
    }
}
