//! A connection to a back end: what is agreed on first, and how its rings start and stop.
//!
//! The protocol is the `vhost` crate's, which checks the form of every reply. It would wait for a reply
//! for ever, so everything here is `within` a time, after which the connection is shut down: that is
//! an error like any other. No method is called by two threads at once.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag};
use vhost::vhost_user::{
    Error as UserError, Frontend, VhostUserFrontend, VhostUserProtocolFeatures,
    VhostUserVirtioFeatures,
};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

use super::ring::RingError;
use crate::virtio::transport::{FEATURE_INDIRECT, FEATURE_VERSION_1};

/// How long a back end may take for one exchange, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
const FEATURE_PROTOCOL: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
/// Device types have their bits below this one.
const TRANSPORT_FEATURES: u64 = !((1 << 24) - 1);
/// More queues are never used.
const MAX_QUEUES: u64 = 64;

/// What a device wants of its back end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    /// Size of the configuration that only the back end knows; 0: it is the VMM's.
    pub(super) config_bytes: u32,
    /// The fewest queues that are of use.
    pub(super) min_queues: u16,
}

/// What a back end has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    /// Features of the device type.
    pub(super) features: u64,
    pub(super) nr_queues: u16,
    pub(super) config: Vec<u8>,
}

/// A ring, by addresses in this process.
pub(super) struct RingPlace<'a> {
    pub(super) size: u16,
    pub(super) descriptors: u64,
    pub(super) avail: u64,
    pub(super) used: u64,
    pub(super) kick: &'a EventFd,
    pub(super) call: &'a EventFd,
}

/// Why there is no connection, or none any more.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ConnectionError {
    #[error("{0}")]
    Connect(io::Error),
    #[error("it closed the connection; it may be serving another machine already")]
    Closed,
    #[error("it did not answer within {} s", PATIENCE.as_secs())]
    Slow,
    #[error("it lacks what is needed: {0}")]
    Lacks(&'static str),
    #[error("it has {has} queues, {needed} are needed")]
    Queues { has: u64, needed: u16 },
    #[error("it refused or garbled a message ({0})")]
    Protocol(vhost::Error),
    #[error("{0}")]
    Memory(RingError),
}

/// A connection. The back end's side of it ends when this is dropped.
pub(super) struct Connection {
    frontend: Frontend,
    socket: UnixStream,
    pub(super) offer: Offer,
}

impl Connection {
    /// Connects and agrees on everything that does not depend on the guest.
    pub(super) fn open(path: &Path, needs: &Needs) -> Result<Self, ConnectionError> {
        let socket = UnixStream::connect(path).map_err(ConnectionError::Connect)?;
        let stream = socket.try_clone().map_err(ConnectionError::Connect)?;
        let mut frontend = Frontend::from_stream(stream, MAX_QUEUES);
        let offer = within(&socket, || negotiate(&mut frontend, needs))?;
        Ok(Self {
            frontend,
            socket,
            offer,
        })
    }

    /// The socket, to see its end.
    pub(super) fn socket(&self) -> io::Result<UnixStream> {
        self.socket.try_clone()
    }

    /// Lets the back end serve these rings, for a driver with these features.
    pub(super) fn start(
        &mut self,
        features: u64,
        memory: &[VhostUserMemoryRegionInfo],
        rings: &[RingPlace<'_>],
    ) -> Result<(), ConnectionError> {
        let frontend = &mut self.frontend;
        // Between us and the back end: the guest's own choice of these ends at its rings.
        let ours = FEATURE_VERSION_1 | FEATURE_INDIRECT | FEATURE_PROTOCOL;
        let features = features & !TRANSPORT_FEATURES | ours;
        within(&self.socket, || {
            frontend.set_features(features)?;
            frontend.set_mem_table(memory)?;
            for (index, ring) in rings.iter().enumerate() {
                frontend.set_vring_num(index, ring.size)?;
                frontend.set_vring_base(index, 0)?;
                let place = VringConfigData {
                    queue_max_size: ring.size,
                    queue_size: ring.size,
                    flags: 0,
                    desc_table_addr: ring.descriptors,
                    used_ring_addr: ring.used,
                    avail_ring_addr: ring.avail,
                    log_addr: None,
                };
                frontend.set_vring_addr(index, &place)?;
                frontend.set_vring_call(index, ring.call)?;
                frontend.set_vring_kick(index, ring.kick)?;
            }
            for index in 0..rings.len() {
                frontend.set_vring_enable(index, true)?;
            }
            Ok(())
        })
    }

    /// Takes the rings back.
    pub(super) fn stop(&mut self, nr_rings: usize) -> Result<(), ConnectionError> {
        let frontend = &mut self.frontend;
        within(&self.socket, || {
            for index in 0..nr_rings {
                frontend.get_vring_base(index)?;
            }
            Ok(())
        })
    }

    /// Ends it now; whoever watches the socket sees it.
    pub(super) fn close(&self) {
        // Fails only if the other side was first.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn negotiate(frontend: &mut Frontend, needs: &Needs) -> Result<Offer, ConnectionError> {
    use VhostUserProtocolFeatures as Protocol;
    let features = frontend.get_features()?;
    for (feature, name) in [
        (FEATURE_VERSION_1, "virtio 1 (VIRTIO_F_VERSION_1)"),
        (FEATURE_INDIRECT, "indirect descriptors"),
        (FEATURE_PROTOCOL, "vhost-user protocol features"),
    ] {
        if features & feature == 0 {
            return Err(ConnectionError::Lacks(name));
        }
    }
    let offered = frontend.get_protocol_features()?;
    let mut wanted = Protocol::MQ | Protocol::REPLY_ACK;
    if needs.config_bytes > 0 {
        if !offered.contains(Protocol::CONFIG) {
            return Err(ConnectionError::Lacks(
                "the device's configuration; it serves another kind of device",
            ));
        }
        wanted |= Protocol::CONFIG;
    }
    frontend.set_protocol_features(offered & wanted)?;
    if offered.contains(Protocol::REPLY_ACK) {
        // Each message is acknowledged, so that a refusal is known and not only suspected.
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    frontend.set_owner()?;
    let has = if offered.contains(Protocol::MQ) {
        frontend.get_queue_num()?
    } else {
        1
    };
    if has < u64::from(needs.min_queues) {
        let needed = needs.min_queues;
        return Err(ConnectionError::Queues { has, needed });
    }
    let mut config = vec![0; needs.config_bytes as usize];
    if needs.config_bytes > 0 {
        let flags = VhostUserConfigFlags::empty();
        // The crate sees to it that offset and size are those that were asked for.
        let (_, bytes) = frontend.get_config(0, needs.config_bytes, flags, &config)?;
        config = bytes;
    }
    Ok(Offer {
        features: features & !TRANSPORT_FEATURES,
        nr_queues: u16::try_from(has.min(MAX_QUEUES)).unwrap_or(1),
        config,
    })
}

/// Talks to the back end for a limited time. After an error the connection is of no use any more, and
/// shut down.
fn within<T>(
    socket: &UnixStream,
    talk: impl FnOnce() -> Result<T, ConnectionError>,
) -> Result<T, ConnectionError> {
    let (done, is_done) = channel::<()>();
    thread::scope(|scope| {
        let watch = thread::Builder::new().spawn_scoped(scope, move || {
            let is_late = is_done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
            if is_late {
                let _ = socket.shutdown(Shutdown::Both);
            }
            is_late
        });
        let watch = watch.map_err(ConnectionError::Connect)?;
        let result = talk();
        drop(done);
        let is_late = watch.join().unwrap_or(false);
        if result.is_err() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        match result {
            Err(_) if is_late => Err(ConnectionError::Slow),
            result => result,
        }
    })
}

impl From<vhost::Error> for ConnectionError {
    fn from(error: vhost::Error) -> Self {
        match error {
            vhost::Error::VhostUserProtocol(
                UserError::PartialMessage | UserError::Disconnected | UserError::SocketBroken(_),
            ) => Self::Closed,
            other => Self::Protocol(other),
        }
    }
}
