//! Connections over AF_VSOCK, each with some checked bytes both ways, if `coopvirt.vsock` asks for it.
//!
//! Called by `runner` before the works; not measured. First this side opens all of them after each
//! other to the host, then the host as many to us. Who opens one speaks first; the other answers the
//! same words of its own stream (`coopvirt_spec::stream`) and waits for the end.

use crate::options::VsockPlan;
use coopvirt_spec::stream;
use serde_json::{json, Value};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

const HOST_CID: u32 = 2;
const ANY_CID: u32 = u32::MAX;
/// Bytes of a connection each way.
const MESSAGE_BYTES: usize = 64;
/// How long the other side may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
const DRIVER: &str = "/sys/bus/virtio/drivers/vmw_vsock_virtio_transport";

/// Makes all connections; returns the record, and whether all went well.
pub(crate) fn run(plan: &VsockPlan) -> (Value, bool) {
    let started = Instant::now();
    let mut counts = [0; 2];
    let result = connections(plan, &mut counts);
    let record = json!({
        "type": "vsock",
        "ok": result.is_ok(),
        "error": result.as_ref().err().map(ToString::to_string),
        "to_host": counts[0],
        "to_guest": counts[1],
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
        say(&mut connection, number)?;
        hear(&mut connection, number)?;
        counts[0] += 1;
    }
    for number in 0..plan.connections {
        let (mut connection, _) = listener.accept()?;
        connection.set_read_timeout(Some(PATIENCE))?;
        hear(&mut connection, number)?;
        say(&mut connection, number)?;
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

fn first_word(number: u64) -> u64 {
    number * (MESSAGE_BYTES / stream::WORD_BYTES) as u64
}

fn say(connection: &mut Socket, number: u64) -> io::Result<()> {
    let mut message = [0; MESSAGE_BYTES];
    stream::fill(&mut message, stream::FROM_GUEST, first_word(number));
    connection.write_all(&message)
}

fn hear(connection: &mut Socket, number: u64) -> io::Result<()> {
    let mut message = [0; MESSAGE_BYTES];
    connection.read_exact(&mut message)?;
    match stream::first_wrong(&message, stream::FROM_HOST, first_word(number)) {
        None => Ok(()),
        Some(word) => Err(io::Error::other(format!(
            "word {word} of connection {number} from the host is wrong"
        ))),
    }
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
