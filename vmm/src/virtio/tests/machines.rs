//! One machine of each device, as the hostile tests and the fuzzer need them.

use std::io;
use std::os::unix::net::UnixDatagram;

use vmm_sys_util::tempfile::TempFile;

use super::blk_rig::{open, Engine};
use super::net::net_with_packets;
use super::rig::{Rig, BUFFERS, MMIO_BASE};
use super::vsock::vsock_with_server;
use super::vsock_unix::Sockets;
use crate::virtio::vhost_user::tests::scripted;
use crate::virtio::{Balloon, BlkAccess, Console, ConsoleInput, Rng};

pub(super) const IMAGE_BYTES: u64 = 64 << 10;

/// The devices; all back ends of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    BlkSync,
    BlkUring,
    /// Another process's, which never answers.
    BlkServed,
    /// Another process's, which has gone: each request fails.
    BlkLost,
    Console,
    Rng,
    Net,
    Balloon,
    Vsock,
    /// The one of this process.
    VsockUnix,
}

pub(super) const KINDS: [Kind; 10] = [
    Kind::BlkSync,
    Kind::BlkUring,
    Kind::BlkServed,
    Kind::BlkLost,
    Kind::Console,
    Kind::Rng,
    Kind::Net,
    Kind::Balloon,
    Kind::Vsock,
    Kind::VsockUnix,
];

/// A machine with such a device, and what has to live as long.
pub(super) struct Machine {
    pub(super) kind: Kind,
    pub(super) rig: Rig,
    pub(super) image: Option<TempFile>,
    pub(super) input: Option<ConsoleInput>,
    pub(super) peer: Option<UnixDatagram>,
    pub(super) sockets: Option<Sockets>,
}

impl Machine {
    pub(super) fn new(kind: Kind) -> Self {
        let with = |rig| Self {
            kind,
            rig,
            image: None,
            input: None,
            peer: None,
            sockets: None,
        };
        match kind {
            Kind::BlkSync => Self::disk(kind, Engine::Sync),
            Kind::BlkUring => Self::disk(kind, Engine::Uring),
            Kind::BlkServed => with(Rig::new(scripted::disk(false))),
            Kind::BlkLost => {
                let mut machine = with(Rig::new(scripted::disk(true)));
                // Its loss is known when a request has failed.
                machine.rig.start(0, 16);
                machine.rig.add(0, &[(BUFFERS, 1, true)]);
                machine.rig.notify(0);
                machine.rig.wait_used(0);
                machine
            }
            Kind::Console => {
                let (console, input, _) = Console::new(Box::new(io::sink())).unwrap();
                input.push(&[b'x'; 60_000]);
                Self {
                    input: Some(input),
                    ..with(Rig::new(console))
                }
            }
            Kind::Rng => with(Rig::new(Rng::new())),
            Kind::Net => {
                let (net, peer) = net_with_packets();
                Self {
                    peer: Some(peer),
                    ..with(Rig::new(net))
                }
            }
            Kind::Balloon => with(Rig::new(Balloon::new().unwrap())),
            Kind::Vsock => with(Rig::new(vsock_with_server())),
            Kind::VsockUnix => {
                let (sockets, device) = Sockets::with_device();
                Self {
                    sockets: Some(sockets),
                    ..with(Rig::new(device))
                }
            }
        }
    }

    fn disk(kind: Kind, engine: Engine) -> Self {
        let image = TempFile::new().unwrap();
        image.as_file().set_len(IMAGE_BYTES).unwrap();
        Self {
            kind,
            rig: Rig::new(open(&image, BlkAccess::ReadWrite, 2, engine)),
            image: Some(image),
            input: None,
            peer: None,
            sockets: None,
        }
    }

    /// Whether chains of any queue are taken and given back by this process: a socket's are the server's, and
    /// no event is ever said; where this process is the server, buffers wait for packets (`vsock_unix`). What is wrong in its rings is for the server to find; where they lie is checked here
    /// (`vsock`). Chains of a disk that is served are taken, and given back when its back end answers.
    pub(super) fn serves(&self) -> bool {
        !matches!(self.kind, Kind::Vsock | Kind::VsockUnix | Kind::BlkServed)
    }

    /// Puts the function where it was at the start, whatever was written to it.
    pub(super) fn put_back(&mut self) {
        let rig = &mut self.rig;
        rig.set_config(0x04, &[6, 0]);
        rig.set_config(0x10, &(MMIO_BASE as u32).to_le_bytes());
        rig.bar = MMIO_BASE;
    }

    /// The device works again after a reset and a proper start: a chain comes back.
    pub(super) fn assert_recovers(&mut self) {
        self.put_back();
        let serves = self.serves();
        let rig = &mut self.rig;
        rig.start(0, 16);
        let queue = rig.queues.len() - 1;
        rig.add(queue, &[(BUFFERS, 16, false), (BUFFERS + 0x100, 16, true)]);
        rig.notify(u16::try_from(queue).unwrap());
        assert_eq!(rig.status(), 15);
        if serves {
            // Whatever memory makes of it: an image's flush takes its time.
            rig.wait_used(queue);
            assert_eq!(rig.interrupts.take(u32::try_from(queue).unwrap() + 1), 1);
        }
    }
}

pub(super) fn machines() -> impl Iterator<Item = Machine> {
    KINDS.into_iter().map(Machine::new)
}

/// Those whose chains are taken here.
pub(super) fn serving() -> impl Iterator<Item = Machine> {
    machines().filter(Machine::serves)
}
