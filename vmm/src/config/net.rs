//! What `--net` says: which tap, and how it is served.

use super::{once, ConfigError, Mode};
use crate::coop::SidecorePolicy;

/// Longest name of an interface (IFNAMSIZ without its terminating zero).
const MAX_NAME_BYTES: usize = 15;
/// Most queue pairs: two queues each and one for control fit a function's doorbells.
pub const MAX_QUEUE_PAIRS: u16 = 31;

/// Longest time that a queue is polled, in microseconds: more is a CPU of one's own.
const MAX_BUSY_POLL_US: u32 = 1_000_000;
/// How long vhost-net polls in `coop` mode, if nobody says: longer than the time between two packets of a stream; what
/// the kernel recommends for its own sockets (`busy_read` in its Documentation/admin-guide/sysctl/net.rst).
pub const VHOST_BUSY_POLL_US: u32 = 50;
/// How long at most this process lingers there, which learns how long pays: as long as KVM by default polls for a vCPU
/// that halts (`halt_poll_ns`, its Documentation/virt/kvm/halt-polling.rst).
const LINGER_US: u32 = 200;

/// Who moves a network device's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetServer {
    /// The kernel where /dev/vhost-net opens, else this process.
    #[default]
    Best,
    /// The kernel (vhost-net), or an error.
    Kernel,
    /// This process.
    Process,
}

/// A network interface of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// The host's tap interface.
    pub tap: String,
    /// The guest's address; `None`: one made from the tap's name.
    pub mac: Option<[u8; 6]>,
    /// Queue pairs; `None`: one per vCPU, as far as the tap has them.
    pub queue_pairs: Option<u16>,
    /// Who moves packets.
    pub server: NetServer,
    /// Whether checksums and segmentation may be left to the other side.
    pub offloads: bool,
    /// How long whoever moves packets polls for more of them before he asks to be notified, in microseconds,
    /// zero for not at all; `None`: [`BusyPoll::usual`]. In this process it is the longest time.
    pub busy_poll_us: Option<u32>,
}

impl NetConfig {
    /// The guest's address: the one that was asked for, or a locally administered one that is the
    /// same for the same tap each time.
    pub fn mac_address(&self) -> [u8; 6] {
        self.mac.unwrap_or_else(|| {
            // FNV-1a: short names that differ in one letter give different addresses.
            let hash = self.tap.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3_u64)
            });
            let [b0, b1, b2, b3, b4, ..] = hash.to_le_bytes();
            [0x02, b0, b1, b2, b3, b4]
        })
    }
}

/// How long the queues of a network are polled that does not say, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusyPoll {
    /// By vhost-net.
    pub vhost_us: u32,
    /// By this process, at most.
    pub process_us: u32,
}

impl BusyPoll {
    /// For a while where threads may poll to save exits; else not at all, as stock.
    pub fn usual(mode: Mode, policy: SidecorePolicy) -> Self {
        match (mode, policy) {
            (Mode::Coop, SidecorePolicy::Adaptive | SidecorePolicy::Always) => Self {
                vhost_us: VHOST_BUSY_POLL_US,
                process_us: LINGER_US,
            },
            (Mode::Coop, SidecorePolicy::Off) | (Mode::Hvm | Mode::Kvm, _) => Self::default(),
        }
    }
}

/// Reads `tap=NAME[,mac=AA:BB:CC:DD:EE:FF][,queues=N][,vhost=on|off][,offloads=on|off][,busy-poll=USEC|off]`.
pub fn net(text: &str) -> Result<NetConfig, ConfigError> {
    let bad = |reason: String| ConfigError::Net {
        text: text.to_owned(),
        reason,
    };
    let mut net = NetConfig {
        tap: String::new(),
        mac: None,
        queue_pairs: None,
        server: NetServer::Best,
        offloads: true,
        busy_poll_us: None,
    };
    let mut said = Vec::new();
    for part in text.split(',') {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| bad(format!("{part:?} is not NAME=VALUE")))?;
        once(&mut said, name).map_err(bad)?;
        match name {
            "tap" if is_interface_name(value) => net.tap = value.to_owned(),
            "tap" => {
                return Err(bad(format!(
                    "{value:?} cannot be an interface's name (1 to {MAX_NAME_BYTES} bytes)"
                )))
            }
            "mac" => net.mac = Some(mac(value).map_err(bad)?),
            "queues" => net.queue_pairs = Some(queue_pairs(value).map_err(bad)?),
            "vhost" => {
                net.server = match switch(name, value).map_err(bad)? {
                    true => NetServer::Kernel,
                    false => NetServer::Process,
                }
            }
            "offloads" => net.offloads = switch(name, value).map_err(bad)?,
            "busy-poll" => net.busy_poll_us = Some(busy_poll_us(value).map_err(bad)?),
            _ => {
                return Err(bad(format!(
                "unknown word {name:?}; there are tap, mac, queues, vhost, offloads and busy-poll"
            )))
            }
        }
    }
    if net.tap.is_empty() {
        return Err(bad("tap=NAME is missing".into()));
    }
    Ok(net)
}

fn is_interface_name(name: &str) -> bool {
    // As the kernel's dev_valid_name: the name is a path component in sysfs too.
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

fn mac(value: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = value
        .split(':')
        .map(|byte| {
            let is_hex = byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit());
            u8::from_str_radix(byte, 16).ok().filter(|_| is_hex)
        })
        .collect();
    let mac: Option<[u8; 6]> = bytes.and_then(|bytes| bytes.try_into().ok());
    let mac =
        mac.ok_or_else(|| format!("mac {value:?} is not six bytes such as 02:00:00:00:00:01"))?;
    if mac[0] & 1 != 0 {
        return Err(format!(
            "mac {value} is a group address; make its first byte even, best 02"
        ));
    }
    if mac == [0; 6] {
        return Err("mac is zero".into());
    }
    Ok(mac)
}

fn queue_pairs(value: &str) -> Result<u16, String> {
    let pairs = value.parse().ok();
    pairs
        .filter(|pairs| (1..=MAX_QUEUE_PAIRS).contains(pairs))
        .ok_or_else(|| format!("queues {value:?} is not a number from 1 to {MAX_QUEUE_PAIRS}"))
}

fn busy_poll_us(value: &str) -> Result<u32, String> {
    if value == "off" {
        return Ok(0);
    }
    let time = value.parse().ok();
    time.filter(|us| (1..=MAX_BUSY_POLL_US).contains(us))
        .ok_or_else(|| {
            format!(
                "busy-poll {value:?} is neither off nor a number of microseconds from 1 to {MAX_BUSY_POLL_US}"
            )
        })
}

fn switch(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{name} is on or off, not {value:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_polled_for_by_default_where_threads_may_poll() {
        let not_at_all = BusyPoll::default();
        for policy in [SidecorePolicy::Adaptive, SidecorePolicy::Always] {
            let usual = BusyPoll::usual(Mode::Coop, policy);
            assert_eq!([usual.vhost_us, usual.process_us], [50, 200]);
            assert_eq!(BusyPoll::usual(Mode::Kvm, policy), not_at_all);
        }
        let off = BusyPoll::usual(Mode::Coop, SidecorePolicy::Off);
        assert_eq!(off, not_at_all);
    }

    #[test]
    fn all_words_are_read() {
        let read = net("tap=tap0,mac=02:00:00:00:00:0a,queues=4,vhost=off,offloads=off").unwrap();
        assert_eq!(read.tap, "tap0");
        assert_eq!(read.mac_address(), [2, 0, 0, 0, 0, 10]);
        assert_eq!(read.queue_pairs, Some(4));
        assert_eq!(read.server, NetServer::Process);
        assert!(!read.offloads);
        assert_eq!(read.busy_poll_us, None);
        assert_eq!(net("tap=t,vhost=on").unwrap().server, NetServer::Kernel);
        assert_eq!(net("tap=t,busy-poll=50").unwrap().busy_poll_us, Some(50));
        for server in ["on", "off"] {
            let off = net(&format!("tap=t,vhost={server},busy-poll=off")).unwrap();
            assert_eq!(off.busy_poll_us, Some(0));
        }
    }

    #[test]
    fn wrong_words_are_refused_with_their_reason() {
        for (text, reason) in [
            ("", "is not NAME=VALUE"),
            ("tap0", "is not NAME=VALUE"),
            ("mac=02:00:00:00:00:01", "tap=NAME is missing"),
            ("tap=", "cannot be an interface's name"),
            ("tap=a/b", "cannot be an interface's name"),
            ("tap=0123456789abcdef", "cannot be an interface's name"),
            ("tap=t,mac=02:00:00:00:00", "six bytes"),
            ("tap=t,mac=02:00:00:00:00:+1", "six bytes"),
            ("tap=t,mac=03:00:00:00:00:01", "group address"),
            ("tap=t,queues=0", "from 1 to 31"),
            ("tap=t,queues=32", "from 1 to 31"),
            ("tap=t,vhost=yes", "on or off"),
            ("tap=t,busy-poll=0", "microseconds from 1 to 1000000"),
            ("tap=t,busy-poll=-1", "microseconds from 1 to 1000000"),
            ("tap=t,busy-poll=1000001", "microseconds"),
            ("tap=t,speed=9", "unknown word \"speed\""),
            ("tap=t,tap=u", "tap is said twice"),
            ("tap=t,queues=1,queues=2", "queues is said twice"),
        ] {
            let error = net(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn default_address_is_local_stable_and_the_taps_own() {
        let of = |tap: &str| net(&format!("tap={tap}")).unwrap().mac_address();
        assert_eq!(of("tap0"), of("tap0"));
        assert_ne!(of("tap0"), of("tap1"));
        assert_eq!(of("tap0")[0], 2);
    }
}
