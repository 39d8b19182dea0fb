//! Data over the network, both ways and checked, if `coopvirt.net` asks for it.
//!
//! Called by `runner` before the works; not measured. Each connection sends its length and its
//! stream to the host, then takes as much and checks every word (`coopvirt_spec::stream`).

use crate::options::NetPlan;
use crate::sys::{interface, time};
use coopvirt_spec::stream;
use serde_json::{json, Value};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const INTERFACE: &str = "eth0";
const CHUNK_BYTES: usize = 32 << 10;
/// How long an interface may take to appear, a host to answer and a link to go down.
const PATIENCE: Duration = Duration::from_secs(60);

/// Does the exchange; returns its record, and whether all went well.
pub(crate) fn run(plan: &NetPlan) -> (Value, bool) {
    let started = Instant::now();
    let result = exchange(plan);
    let error = result.as_ref().err().map(ToString::to_string);
    let record = json!({
        "type": "net",
        "ok": result.is_ok(),
        "error": error,
        "bytes_each_way": plan.bytes * u64::from(plan.connections),
        "connections": plan.connections,
        "elapsed_ms": u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "transmit_queues": transmit_queues(),
        "interrupts": interrupts(),
    });
    (record, result.is_ok())
}

/// Waits until the link is down; returns what it became.
pub(crate) fn wait_for_link_down() -> (Value, bool) {
    let path = format!("/sys/class/net/{INTERFACE}/carrier");
    let is_down = wait_until(|| fs::read_to_string(&path).is_ok_and(|text| text.trim() == "0"));
    (
        json!({ "type": "link", "ok": is_down, "down": is_down }),
        is_down,
    )
}

fn exchange(plan: &NetPlan) -> io::Result<()> {
    let path = format!("/sys/class/net/{INTERFACE}");
    if !wait_until(|| fs::exists(&path).unwrap_or(false)) {
        return Err(io::Error::other(format!("there is no {INTERFACE}")));
    }
    interface::bring_up(INTERFACE, plan.address, plan.prefix)?;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.connections)
            .map(|_| scope.spawn(|| connection(plan.server, plan.bytes)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            let result = thread.join();
            result.unwrap_or_else(|_| Err(io::Error::other("a connection panicked")))
        })
    })
}

fn connection(server: SocketAddr, bytes: u64) -> io::Result<()> {
    let mut connection = connect(server)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    connection.write_all(&bytes.to_le_bytes())?;
    let mut buffer = vec![0; CHUNK_BYTES];
    for (first, len) in chunks(bytes) {
        stream::fill(&mut buffer[..len], stream::FROM_GUEST, first);
        connection.write_all(&buffer[..len])?;
    }
    for (first, len) in chunks(bytes) {
        connection.read_exact(&mut buffer[..len])?;
        if let Some(word) = stream::first_wrong(&buffer[..len], stream::FROM_HOST, first) {
            return Err(io::Error::other(format!(
                "word {word} from the host is wrong"
            )));
        }
    }
    // The host sends nothing more, and says so by closing.
    match connection.read(&mut buffer)? {
        0 => Ok(()),
        more => Err(io::Error::other(format!("{more} bytes too many"))),
    }
}

/// First word and length of each chunk.
fn chunks(bytes: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..bytes).step_by(CHUNK_BYTES).map(move |at| {
        let len = usize::try_from(bytes - at).unwrap_or(CHUNK_BYTES);
        (at / stream::WORD_BYTES as u64, len.min(CHUNK_BYTES))
    })
}

/// The first packets may go before the host has seen our link come up.
fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let started = Instant::now();
    loop {
        match TcpStream::connect_timeout(&server, PATIENCE) {
            Err(_) if started.elapsed() < PATIENCE => time::sleep(Duration::from_millis(200))?,
            result => return result,
        }
    }
}

fn wait_until(mut is_so: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !is_so() {
        if started.elapsed() > PATIENCE || time::sleep(Duration::from_millis(50)).is_err() {
            return false;
        }
    }
    true
}

fn transmit_queues() -> usize {
    let queues = fs::read_dir(format!("/sys/class/net/{INTERFACE}/queues"));
    let names = queues.into_iter().flatten().flatten();
    names
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("tx-"))
        .count()
}

/// Interrupts of each queue, over all CPUs, by the names that the driver gave them.
fn interrupts() -> Value {
    let text = fs::read_to_string("/proc/interrupts").unwrap_or_default();
    let mut counts = serde_json::Map::new();
    for line in text.lines() {
        let mut words = line.split_whitespace().skip(1);
        let count: u64 = words
            .by_ref()
            .map_while(|word| word.parse::<u64>().ok())
            .sum();
        if let Some(name) = words.last() {
            if name.contains("-input") || name.contains("-output") {
                counts.insert(name.to_string(), json!(count));
            }
        }
    }
    Value::Object(counts)
}
