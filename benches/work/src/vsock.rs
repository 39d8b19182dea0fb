//! Connections over AF_VSOCK, each with some checked bytes both ways, if `coopvirt.vsock` asks for it.
//!
//! Called by `runner` before the works; not measured. First this side opens all of them after each
//! other to the host, then the host as many to us. Who opens one speaks first; the other answers the
//! same words of its own stream (`coopvirt_spec::stream`) and waits for the end. If the plan says how
//! long these words are, this side then tries the next port, where nobody shall listen, and speaks to the
//! host until that dies.

use crate::options::VsockPlan;
use coopvirt_spec::stream;
use serde_json::{json, Value};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

const HOST_CID: u32 = 2;
const ANY_CID: u32 = u32::MAX;
/// Bytes of a connection each way, if the plan does not say.
const MESSAGE_BYTES: usize = 64;
/// They are written and read in pieces of this size at most.
const PIECE_BYTES: usize = 64 << 10;
/// A peer that shall die has done so before so many bytes.
const LOSS_BYTES: usize = 256 << 20;
/// How long the other side may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
const DRIVER: &str = "/sys/bus/virtio/drivers/vmw_vsock_virtio_transport";

/// Makes all connections; returns the record, and whether all went well.
pub(crate) fn run(plan: &VsockPlan) -> (Value, bool) {
    let started = Instant::now();
    let mut counts = [0; 2];
    let mut ends = [None, None];
    let result = connections(plan, &mut counts).and_then(|()| match plan.bytes {
        Some(_) => bad_ends(plan.port, &mut ends),
        None => Ok(()),
    });
    let record = json!({
        "type": "vsock",
        "ok": result.is_ok(),
        "error": result.as_ref().err().map(ToString::to_string),
        "to_host": counts[0],
        "to_guest": counts[1],
        "refused_by": ends[0],
        "lost_by": ends[1],
        "elapsed_ms": u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    });
    (record, result.is_ok())
}

fn connections(plan: &VsockPlan, counts: &mut [u64; 2]) -> io::Result<()> {
    // Open before the host can know that it may come.
    let listener = socket()?;
    listener.bind(&SockAddr::vsock(ANY_CID, plan.port))?;
    listener.listen(128)?;
    for number in 0..plan.connections {
        if number < plan.rebinds {
            rebind()?;
        }
        let mut connection = socket()?;
        connection.connect(&SockAddr::vsock(HOST_CID, plan.port))?;
        say(&mut connection, plan, number)?;
        hear(&mut connection, plan, number)?;
        counts[0] += 1;
    }
    for number in 0..plan.connections {
        let (mut connection, _) = listener.accept()?;
        connection.set_read_timeout(Some(PATIENCE))?;
        hear(&mut connection, plan, number)?;
        say(&mut connection, plan, number)?;
        if connection.read(&mut [0])? != 0 {
            return Err(io::Error::other(format!(
                "connection {number} of the host has more than its message"
            )));
        }
        counts[1] += 1;
    }
    Ok(())
}

fn socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// A connection's words, piece by piece: the first word of each, and a buffer for it.
fn pieces(plan: &VsockPlan, number: u64) -> impl Iterator<Item = (u64, Vec<u8>)> {
    let bytes = plan.bytes.unwrap_or(MESSAGE_BYTES);
    let words = (bytes / stream::WORD_BYTES) as u64;
    (0..bytes).step_by(PIECE_BYTES).map(move |at| {
        let piece = vec![0; PIECE_BYTES.min(bytes - at)];
        (number * words + (at / stream::WORD_BYTES) as u64, piece)
    })
}

fn say(connection: &mut Socket, plan: &VsockPlan, number: u64) -> io::Result<()> {
    pieces(plan, number).try_for_each(|(first, mut piece)| {
        stream::fill(&mut piece, stream::FROM_GUEST, first);
        connection.write_all(&piece)
    })
}

fn hear(connection: &mut Socket, plan: &VsockPlan, number: u64) -> io::Result<()> {
    pieces(plan, number).try_for_each(|(first, mut piece)| {
        connection.read_exact(&mut piece)?;
        match stream::first_wrong(&piece, stream::FROM_HOST, first) {
            None => Ok(()),
            Some(word) => Err(io::Error::other(format!(
                "word {word} of connection {number} from the host is wrong"
            ))),
        }
    })
}

/// A port where nobody listens, and a peer that dies: how this side hears of it.
fn bad_ends(port: u32, ends: &mut [Option<String>; 2]) -> io::Result<()> {
    let kind = |error: io::Error| Some(format!("{:?}", error.kind()));
    match socket()?.connect(&SockAddr::vsock(HOST_CID, port + 1)) {
        Err(error) => ends[0] = kind(error),
        Ok(()) => return Err(io::Error::other("somebody listens on the next port")),
    }
    let mut connection = socket()?;
    connection.connect(&SockAddr::vsock(HOST_CID, port))?;
    let piece = [0; PIECE_BYTES];
    for _ in 0..LOSS_BYTES / PIECE_BYTES {
        if let Err(error) = connection.write_all(&piece) {
            ends[1] = kind(error);
            return Ok(());
        }
    }
    Err(io::Error::other("the peer did not die"))
}

/// Takes the driver from its device and gives it back, which resets the device.
fn rebind() -> io::Result<()> {
    let device = fs::read_dir(DRIVER)?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .find(|name| name.starts_with("virtio"))
        .ok_or_else(|| io::Error::other("there is no socket device"))?;
    fs::write(format!("{DRIVER}/unbind"), &device)?;
    fs::write(format!("{DRIVER}/bind"), &device)
}
