//! Opening a network device: its tap, and who serves it; and what can be wrong with them.

use std::io;
use std::time::Duration;

use super::kernel::KernelServer;
use super::links::LinkNews;
use super::tap::{Tap, TUN_PATH};
use super::Net;
use crate::config::{BusyPoll, NetConfig, NetServer, MAX_QUEUE_PAIRS};
use crate::virtio::GuestRam;

const VHOST_PATH: &str = "/dev/vhost-net";

/// Why a network device cannot be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum NetError {
    #[error("there is no network interface {0}; make it with: scripts/tap up {0}")]
    Missing(String),
    #[error("network interface {0} is no tap; make another with: scripts/tap up NAME")]
    NotATap(String),
    #[error(
        "no permission to use tap {0}; make it for this user: scripts/tap up {0} --user USER, \
         or run as root"
    )]
    Permission(String),
    #[error("tap {0} is in use by another program; give each guest a tap of its own")]
    Busy(String),
    #[error(
        "tap {tap} has one queue, not {wanted}; make it with scripts/tap, or leave queues= out"
    )]
    OneQueue { tap: String, wanted: u16 },
    #[error("{TUN_PATH} cannot be opened; load the module: modprobe tun")]
    NoTun(#[source] io::Error),
    #[error("no permission to open {TUN_PATH}; check its permissions")]
    TunPermission,
    #[error(
        "{VHOST_PATH} cannot be used; load the module (modprobe vhost_net) or leave vhost=on out"
    )]
    NoVhost(#[source] io::Error),
    #[error("could not {what} of tap {tap}")]
    Io {
        what: &'static str,
        tap: String,
        source: io::Error,
    },
}

impl Net {
    /// Opens the tap, with one queue pair per vCPU if the configuration names no other number. Queues are polled for
    /// as long as the configuration says, or as is `usual`.
    pub fn open(
        config: &NetConfig,
        usual: BusyPoll,
        nr_vcpus: u16,
        ram: &GuestRam,
    ) -> Result<Self, NetError> {
        let vhost_us = config.busy_poll_us.unwrap_or(usual.vhost_us);
        let process_us = config.busy_poll_us.unwrap_or(usual.process_us);
        let taps = open_taps(config, nr_vcpus)?;
        let io = |what| {
            move |source| NetError::Io {
                what,
                tap: config.tap.clone(),
                source,
            }
        };
        let news = LinkNews::open().map_err(io("watch for the removal"))?;
        let server = open_server(config, vhost_us, taps.len(), ram)?;
        let lingers = Duration::from_micros(process_us.into());
        Net::new(config, taps, news, server, lingers).map_err(io("set up the queues"))
    }
}

fn open_server(
    config: &NetConfig,
    busy_poll_us: u32,
    pairs: usize,
    ram: &GuestRam,
) -> Result<Option<KernelServer>, NetError> {
    if config.server == NetServer::Process {
        return Ok(None);
    }
    match KernelServer::open(pairs, ram, busy_poll_us) {
        Ok(server) => Ok(Some(server)),
        Err(source) if config.server == NetServer::Kernel => Err(NetError::NoVhost(source)),
        Err(error) => {
            complain!(
                "coopvirt: {VHOST_PATH} cannot be used ({error}): packets of {} go through this process",
                config.tap
            );
            Ok(None)
        }
    }
}

fn open_taps(config: &NetConfig, nr_vcpus: u16) -> Result<Vec<Tap>, NetError> {
    let name = &config.tap;
    let sysfs = |file: &str| std::fs::read_to_string(format!("/sys/class/net/{name}/{file}"));
    // Asked first: the kernel would make an interface that is not there.
    if sysfs("ifindex").is_err() {
        return Err(NetError::Missing(name.clone()));
    }
    if sysfs("tun_flags").is_err() {
        return Err(NetError::NotATap(name.clone()));
    }
    // A tap has a carrier while somebody is attached. One with many queues would take us as well.
    if sysfs("carrier").is_ok_and(|carrier| carrier.trim() == "1") {
        return Err(NetError::Busy(name.clone()));
    }
    let wanted = config
        .queue_pairs
        .unwrap_or(nr_vcpus.clamp(1, MAX_QUEUE_PAIRS));
    // A tap is made with one queue or with many, and only that way it can be attached to.
    let first = match Tap::attach(name, true) {
        Ok(tap) => tap,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            if config.queue_pairs.is_some_and(|pairs| pairs > 1) {
                let tap = name.clone();
                return Err(NetError::OneQueue { tap, wanted });
            }
            if wanted > 1 {
                complain!("coopvirt: tap {name} has one queue: the guest gets one queue pair");
            }
            let tap = Tap::attach(name, false).map_err(|error| attach_error(name, error))?;
            return Ok(vec![tap]);
        }
        Err(error) => return Err(attach_error(name, error)),
    };
    let mut taps = vec![first];
    for _ in 1..wanted {
        taps.push(Tap::attach(name, true).map_err(|error| attach_error(name, error))?);
    }
    Ok(taps)
}

fn attach_error(name: &str, error: io::Error) -> NetError {
    match error.raw_os_error() {
        Some(libc::EPERM) => NetError::Permission(name.to_owned()),
        Some(libc::EBUSY) => NetError::Busy(name.to_owned()),
        Some(libc::EINVAL) => NetError::NotATap(name.to_owned()),
        Some(libc::EACCES) => NetError::TunPermission,
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => NetError::NoTun(error),
        _ => NetError::Io {
            what: "open a queue",
            tap: name.to_owned(),
            source: error,
        },
    }
}
