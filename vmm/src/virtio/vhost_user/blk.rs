//! virtio-blk whose disk another process has (vhost-user-blk).
//!
//! Everything about the disk is the back end's: size, limits, read-only or not. Only the number of
//! queues is decided here. Requests that a dead back end has left unanswered are made again by the
//! next: reading or writing the same sectors twice does no harm while the guest waits for the answer.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::connection::Needs;
use super::device::{Personality, Served};
use super::keeper::Search;
use super::open::{find, VhostUserError};
use super::relay::{Kind, Relay};
use super::request::Request;
use crate::config::VhostUserBlkConfig;
use crate::virtio::device::QUEUE_SIZE_MAX;
use crate::virtio::GuestRam;

/// Features that need nothing of this process: limits, geometry, read-only, block size, flush,
/// topology, queues, discard, write-zeroes (virtio 1.2, 5.2.3).
///
/// Not among them: the driver's view of the write cache (CONFIG_WCE, bit 11). `qemu-storage-daemon`
/// offers it and says "write through" (QEMU 7.2, block/export/vhost-user-blk-server.c: `wce = 0`) while
/// it keeps writes back (block/export/export.c, unless `writethrough=on`): a driver that believed it
/// would never flush, and lose data with the host's power. Without the feature a driver has to take the
/// cache for write-back wherever it can flush (5.2.5.1), which is safe with either.
const KNOWN_FEATURES: u64 =
    1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10 | FEATURE_MQ | 1 << 13 | 1 << 14;
const FEATURE_MQ: u64 = 1 << 12;

// The configuration up to write-zeroes (virtio 1.2, 5.2.4), and what of it is looked at here.
const CONFIG_BYTES: u32 = 60;
const SEG_MAX: std::ops::Range<usize> = 12..16;
const NUM_QUEUES: std::ops::Range<usize> = 34..36;
/// A request has a header and a status byte beside its data, and a chain has at most this many buffers.
const MAX_SEGMENTS: u32 = QUEUE_SIZE_MAX as u32 - 2;

const STATUS_IOERR: u8 = 1;

/// A disk that a back end serves.
pub type VhostUserBlk = Served<Disk>;

/// What is special about disks.
pub struct Disk {
    features: u64,
}

impl VhostUserBlk {
    /// Connects to the back end. `ram` has to be shared memory ([`crate::mem::Sharing`]).
    pub fn open(
        config: &VhostUserBlkConfig,
        nr_vcpus: u16,
        ram: &GuestRam,
    ) -> Result<Self, VhostUserError> {
        let search = Search {
            path: config.socket.clone(),
            needs: Needs {
                config_bytes: CONFIG_BYTES,
                min_queues: 1,
            },
            patience: config.reconnect,
        };
        let connection = find(&search)?;
        let wanted = config.queues.unwrap_or(nr_vcpus).min(nr_vcpus).max(1);
        let nr_queues = wanted.min(connection.offer.nr_queues);
        let mut features = connection.offer.features & KNOWN_FEATURES;
        if nr_queues == 1 {
            features &= !FEATURE_MQ;
        }
        let kind = Kind {
            name: "vhost-user-blk",
            is_repeatable: true,
            fail,
        };
        let relay = Relay::new(kind, search, connection, nr_queues, ram)?;
        let personality = Disk { features };
        Ok(Self { relay, personality })
    }
}

/// An I/O error: the status byte is the last one of the request.
pub(super) fn fail(request: &Request, ram: &GuestMemoryMmap<()>) -> u32 {
    let last = request.pieces().last().filter(|piece| piece.is_written);
    let status = last.and_then(|piece| {
        let before = piece.len_bytes.checked_sub(1)?;
        piece.gpa.checked_add(before.into())
    });
    // A request without room for a status gets none; its buffers were checked when it was taken.
    let written = status.map(|gpa| ram.write_obj(STATUS_IOERR, GuestAddress(gpa)));
    u32::from(matches!(written, Some(Ok(()))))
}

impl Personality for Disk {
    const TYPE: u16 = 2;
    const NAME: &'static str = "virtio-blk";
    const IS_TIMED: bool = true;

    fn features(&self) -> u64 {
        self.features
    }

    fn config(&self, offered: &[u8], nr_queues: u16) -> Vec<u8> {
        let mut config = vec![0; CONFIG_BYTES as usize];
        let len = offered.len().min(config.len());
        config[..len].copy_from_slice(&offered[..len]);
        let mut segments = [0; 4];
        segments.copy_from_slice(&config[SEG_MAX]);
        let segments = u32::from_le_bytes(segments).min(MAX_SEGMENTS);
        config[SEG_MAX].copy_from_slice(&segments.to_le_bytes());
        config[NUM_QUEUES].copy_from_slice(&nr_queues.to_le_bytes());
        config
    }
}
