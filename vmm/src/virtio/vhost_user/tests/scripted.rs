//! A back end that says what a script tells it, and serves no ring.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use vm_memory::GuestAddress;
use vmm_sys_util::tempfile::TempFile;

use crate::config::VhostUserBlkConfig;
use crate::mem::shared;
use crate::virtio::VhostUserBlk;

/// Version 1, and a reply.
const REPLY: u32 = 5;
/// Size of a disk's configuration.
pub(super) const CONFIG_BYTES: u32 = 60;
/// Messages until everything is agreed on that does not depend on the guest.
const NEGOTIATION: usize = 6;

/// What a back end says; each test changes one thing.
#[derive(Clone)]
pub(in crate::virtio) struct Script {
    pub(super) features: u64,
    pub(super) protocol: u64,
    pub(super) queues: u64,
    /// Size that the configuration's reply names, and its bytes.
    pub(super) config: (u32, usize),
    /// Closes the connection at this message, counted from zero.
    pub(super) closes_at: usize,
    /// Closes it after so many answers.
    pub(super) ends_after: usize,
    /// Says nothing from this message on.
    pub(super) silent_at: usize,
    /// What every acknowledgement says.
    pub(super) ack: u64,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            // Version 1, protocol features, indirect descriptors, flush.
            features: 1 << 32 | 1 << 30 | 1 << 28 | 1 << 9,
            // Many queues, acknowledgements, configuration.
            protocol: 1 | 1 << 3 | 1 << 9,
            queues: 2,
            config: (CONFIG_BYTES, CONFIG_BYTES as usize),
            closes_at: usize::MAX,
            ends_after: usize::MAX,
            silent_at: usize::MAX,
            ack: 0,
        }
    }
}

/// What goes along with everything, as a folder's back end: without features of its own.
pub(in crate::virtio) fn folder() -> Script {
    Script {
        features: 1 << 32 | 1 << 30 | 1 << 28,
        ..Script::default()
    }
}

/// A socket of its own.
fn bind() -> (PathBuf, UnixListener) {
    let path = TempFile::new().unwrap().as_path().to_owned();
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    (path, listener)
}

/// Serves connections by a script, one after the other, and answers every message.
pub(in crate::virtio) fn listen(script: Script) -> PathBuf {
    let (path, listener) = bind();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // Errors are the other side's end.
            let _ = answer(connection, &script);
        }
    });
    path
}

/// A disk with two queues whose back end goes along with everything and answers no request, or that
/// has lost it for good.
pub(in crate::virtio) fn disk(is_lost: bool) -> VhostUserBlk {
    let (path, listener) = bind();
    let script = Script {
        ends_after: if is_lost { NEGOTIATION } else { usize::MAX },
        ..Script::default()
    };
    let server = thread::spawn(move || {
        let (connection, _) = listener.accept().unwrap();
        drop(listener);
        // Its error is the other side's end.
        let _ = answer(connection, &script);
    });
    let config = VhostUserBlkConfig {
        socket: path.clone(),
        queues: None,
        reconnect: Duration::ZERO,
    };
    let ram = Arc::new(shared::map(GuestAddress(0), 1 << 20).unwrap());
    let disk = VhostUserBlk::open(&config, 2, &ram).unwrap();
    std::fs::remove_file(path).unwrap();
    if is_lost {
        server.join().unwrap();
    }
    disk
}

fn answer(mut connection: UnixStream, script: &Script) -> std::io::Result<()> {
    for number in 0..script.ends_after {
        let mut header = [0; 12];
        connection.read_exact(&mut header)?;
        let [code, flags, len] =
            [0, 4, 8].map(|at| u32::from_le_bytes(header[at..at + 4].try_into().unwrap()));
        let mut body = vec![0; len as usize];
        connection.read_exact(&mut body)?;
        if number == script.closes_at {
            return Ok(());
        }
        if number >= script.silent_at {
            continue;
        }
        let reply = match code {
            1 => script.features.to_le_bytes().to_vec(),
            15 => script.protocol.to_le_bytes().to_vec(),
            17 => script.queues.to_le_bytes().to_vec(),
            24 => {
                let (said, len) = script.config;
                let words = [0u32, said, 0].map(u32::to_le_bytes).concat();
                [words, vec![7; len]].concat()
            }
            // Where a ring stopped: the state that was asked with is as good as any.
            11 => body,
            _ if flags & 8 != 0 => script.ack.to_le_bytes().to_vec(),
            _ => continue,
        };
        let header = [code, REPLY, u32::try_from(reply.len()).unwrap()].map(u32::to_le_bytes);
        connection.write_all(&[header.concat(), reply].concat())?;
    }
    Ok(())
}
