//! virtio-fs: a folder of the host that another process has (vhost-user-fs), by FUSE messages.
//!
//! The guest's handles and inode numbers are the back end's memory. When it ends they mean nothing to
//! the next one, so requests are not made again: all fail with ENOTCONN until the guest's driver begins
//! anew (unmount, and unbind and bind the device).

use std::time::Duration;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::connection::{ConnectionError, Needs};
use super::device::{Personality, Served};
use super::keeper::Search;
use super::open::{find, VhostUserError};
use super::relay::{Kind, Relay};
use super::request::{Piece, Request};
use crate::config::{FsConfig, MAX_TAG_BYTES};
use crate::virtio::GuestRam;

/// The queue of requests that overtake others comes before those of all others.
const URGENT_QUEUES: u16 = 1;
/// Tag and number of request queues (virtio 1.2, 5.11.4).
const CONFIG_BYTES: usize = MAX_TAG_BYTES + 4;

// Headers of FUSE messages (linux/fuse.h): fuse_in_header.unique, and the whole fuse_out_header.
const IN_UNIQUE: u64 = 8;
const IN_HEADER_BYTES: u32 = 40;
const OUT_HEADER_BYTES: u8 = 16;

/// A folder that a back end serves.
pub type VhostUserFs = Served<Folder>;

/// What is special about folders.
pub struct Folder {
    config: [u8; CONFIG_BYTES],
}

impl VhostUserFs {
    /// Connects to the back end. `ram` has to be shared memory ([`crate::mem::Sharing`]).
    pub fn open(config: &FsConfig, nr_vcpus: u16, ram: &GuestRam) -> Result<Self, VhostUserError> {
        let search = Search {
            path: config.socket.clone(),
            needs: Needs {
                config_bytes: 0,
                min_queues: URGENT_QUEUES + 1,
            },
            // Nobody waits for it.
            patience: Duration::MAX,
        };
        let connection = find(&search)?;
        if connection.offer.features != 0 {
            let path = config.socket.clone();
            let source =
                ConnectionError::Lacks("to serve a folder; it serves another kind of device");
            return Err(VhostUserError::Unusable { path, source });
        }
        let wanted = config.queues.unwrap_or(nr_vcpus).min(nr_vcpus).max(1);
        let requests = wanted.min(connection.offer.nr_queues - URGENT_QUEUES);
        let kind = Kind {
            name: "virtio-fs",
            is_repeatable: false,
            fail,
        };
        let nr_queues = URGENT_QUEUES + requests;
        let relay = Relay::new(kind, search, connection, nr_queues, ram)?;
        let mut bytes = [0; CONFIG_BYTES];
        let (tag, count) = bytes.split_at_mut(MAX_TAG_BYTES);
        // The option's parser has seen to it that it fits.
        let len = config.tag.len().min(tag.len());
        tag[..len].copy_from_slice(&config.tag.as_bytes()[..len]);
        count.copy_from_slice(&u32::from(requests).to_le_bytes());
        let personality = Folder { config: bytes };
        Ok(Self { relay, personality })
    }
}

/// ENOTCONN, as fuse(4) says it for a connection that has ended. Messages without an answer (FORGET)
/// have no room for it.
pub(super) fn fail(request: &Request, ram: &GuestMemoryMmap<()>) -> u32 {
    let (read, written): (Vec<Piece>, Vec<Piece>) =
        request.pieces().iter().partition(|piece| !piece.is_written);
    let Some(first) = read.first().filter(|p| p.len_bytes >= IN_HEADER_BYTES) else {
        return 0;
    };
    let unique = first.gpa.checked_add(IN_UNIQUE).map(GuestAddress);
    let Some(Ok(unique)) = unique.map(|gpa| ram.read_obj::<u64>(gpa)) else {
        return 0;
    };
    let mut answer = [0; OUT_HEADER_BYTES as usize];
    answer[0] = OUT_HEADER_BYTES;
    answer[4..8].copy_from_slice(&(-libc::ENOTCONN).to_le_bytes());
    answer[8..].copy_from_slice(&unique.to_ne_bytes());
    let mut rest: &[u8] = &answer;
    for piece in written {
        let len = rest.len().min(piece.len_bytes as usize);
        let (now, later) = rest.split_at(len);
        if ram.write_slice(now, GuestAddress(piece.gpa)).is_err() {
            break;
        }
        rest = later;
    }
    if rest.is_empty() {
        u32::from(OUT_HEADER_BYTES)
    } else {
        0
    }
}

impl Personality for Folder {
    const TYPE: u16 = 26;
    const NAME: &'static str = "virtio-fs";
    // Some messages wait for what may never come, such as a lock.
    const IS_TIMED: bool = false;

    fn features(&self) -> u64 {
        0
    }

    fn config(&self, _offered: &[u8], _nr_queues: u16) -> Vec<u8> {
        self.config.to_vec()
    }
}
