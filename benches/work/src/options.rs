//! What to run and how, from the kernel command line or from arguments.
//!
//! Both spell the same settings: `coopvirt.tlb_threads=1` is `--tlb-threads 1`. Used once, at the
//! start; pure text handling without side effects.

use coopvirt_spec::work::Work;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// What the settings on the kernel command line begin with.
const CMDLINE_PREFIX: &str = "coopvirt.";

/// The text for `--help`.
pub(crate) const HELP: &str = "\
coopvirt-work: does the works that coopvirt measures, and says what it did.

As process 1 it takes its settings from the kernel command line (coopvirt.NAME=VALUE, with _ for
-), else from arguments:

  --works LIST        names separated by commas, `all` or `none` (default all)
  --scale F           multiplies operations and durations (default 1.0)
  --seconds N         what `idle` and `busy` last (default 2, times the scale)
  --first LIST        works to do before the others, such as `cycles`
  --cycles N          how often `cycles` loads and unloads the module (default 100, times the scale)
  --cycle-params P    parameters of the module in `cycles` (default none)
  --return-wait-s N   `refill` has 256 MiB, and waits so long for the host to take them back first
  --reps N            runs the list N times (default 1)
  --warm-up-s N       quiet time before the first work: what boot and a module leave behind ends
                      in it, such as the first reports of free memory (default 0)
  --settle-ms N       quiet time before each work (default 300)
  --timeout-s N       time-out of one work (default 60, times the scale if that is above 1)
  --tlb-threads N     threads that spin during `tlb` (default: all other CPUs)
  --disk PATH         what read1 and read32 read (default /dev/vda)
  --disk-check N      before the works, overwrite the disk with patterns and verify them, with N
                      operations in each of four threads per CPU; then zero and discard parts of it
  --marks on|off      whether to write marks to the port (default on)
  --no-marks          the same as --marks off
  --console NAME      terminal for records, such as hvc0 (process 1 only)
  --module PARAMS     load /lib/coopvirt/coopvirt.ko with these parameters, separated by commas or
                      none, before the works, and unload it behind them (default: leave it alone)
  --module-cycles N   load and unload it so often under load before that (default 0)
  --counters on|off   say the module's counters behind each repetition (default off)
  --net A/P,H:PORT,MIB,N[,down]
                      before the works, give eth0 the address A/P, and exchange MIB MiB each way with
                      a host over each of N connections; `down`: then wait for the link to go down
  --end HOW           poweroff, reboot, halt, panic, triple, hang, exit, or kexec to the kernel on
                      /dev/vda with the initramfs on /dev/vdb (process 1 only)

Exit status: 0 if each work that was not skipped is ok (and not all were skipped), 1 otherwise,
2 if the settings are wrong.
";

/// Why settings were refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionsError {
    #[error("unknown setting `{0}`")]
    UnknownSetting(String),
    #[error("setting `{0}` has no value")]
    NoValue(String),
    #[error("value `{value}` of setting `{name}` is not {expected}")]
    BadValue {
        name: String,
        value: String,
        expected: &'static str,
    },
}

/// What init does when all works are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Switch the machine off.
    PowerOff,
    /// Start it again; with `reboot=t` on the kernel command line that is a triple fault.
    Reboot,
    /// Stop its CPUs.
    Halt,
    /// Crash the kernel.
    Panic,
    /// Do nothing, for ever: for tests of a host's time-outs.
    Hang,
    /// Exit as process 1, which the kernel answers with a panic.
    Exit,
    /// Give the machine to another kernel, with the module still loaded.
    Kexec,
}

/// A factor in thousandths, so that counts stay integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale(u32);

impl Scale {
    /// Multiplies a number of operations; at least one remains.
    pub(crate) fn apply(self, count: u64) -> u64 {
        (count.saturating_mul(u64::from(self.0)).saturating_add(500) / 1000).max(1)
    }

    fn parse(text: &str) -> Option<Scale> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let whole: u32 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        let thousandths: u32 = format!("{fraction:0<3}").parse().ok()?;
        let scale = whole.checked_mul(1000)?.checked_add(thousandths)?;
        (1..=1_000_000).contains(&scale).then_some(Scale(scale))
    }
}

/// What is sent over the network, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NetPlan {
    /// This side's address.
    pub(crate) address: Ipv4Addr,
    /// Length of its network's prefix.
    pub(crate) prefix: u8,
    /// The other side.
    pub(crate) server: SocketAddr,
    /// Bytes of each connection, each way.
    pub(crate) bytes: u64,
    /// Connections at the same time.
    pub(crate) connections: u32,
    /// Whether to wait for the link to go down afterwards.
    pub(crate) awaits_down: bool,
}

impl NetPlan {
    fn parse(text: &str) -> Option<NetPlan> {
        let (text, awaits_down) = match text.strip_suffix(",down") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let [address, server, mib, connections] = *text.split(',').collect::<Vec<_>>() else {
            return None;
        };
        let (address, prefix) = address.split_once('/')?;
        let mib: u64 = mib.parse().ok()?;
        Some(NetPlan {
            address: address.parse().ok()?,
            prefix: prefix.parse().ok().filter(|bits| (1..=32).contains(bits))?,
            server: server.parse().ok()?,
            bytes: mib.checked_mul(1 << 20).filter(|&bytes| bytes > 0)?,
            connections: connections.parse().ok().filter(|n| (1..=64).contains(n))?,
            awaits_down,
        })
    }
}

/// Connections over AF_VSOCK to the host and from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VsockPlan {
    /// Where the host listens, and this side too.
    pub(crate) port: u32,
    /// Connections each way.
    pub(crate) connections: u64,
    /// Before so many of the first the driver is taken from its device and given back.
    pub(crate) rebinds: u64,
    /// Bytes of a connection each way; if given, a port without a listener and a peer that dies follow.
    pub(crate) bytes: Option<usize>,
}

impl VsockPlan {
    fn parse(text: &str) -> Option<VsockPlan> {
        let (port, connections, rebinds, bytes) = match *text.split(',').collect::<Vec<_>>() {
            [port, connections, rebinds] => (port, connections, rebinds, None),
            [port, connections, rebinds, bytes] => (port, connections, rebinds, Some(bytes)),
            _ => return None,
        };
        let bytes = match bytes {
            Some(text) => Some(
                text.parse()
                    .ok()
                    .filter(|n: &usize| *n > 0 && n.is_multiple_of(8))?,
            ),
            None => None,
        };
        Some(VsockPlan {
            port: port.parse().ok()?,
            connections: connections.parse().ok().filter(|&n| n > 0)?,
            rebinds: rebinds.parse().ok()?,
            bytes,
        })
    }
}

/// Trees of files in a folder of the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SharePlan {
    /// What it is mounted by.
    pub(crate) tag: String,
    /// Files of each tree.
    pub(crate) files: u64,
    /// Whether the folder is used afterwards until it fails.
    pub(crate) awaits_loss: bool,
}

impl SharePlan {
    fn parse(text: &str) -> Option<SharePlan> {
        let (tag, files, awaits_loss) = match *text.split(',').collect::<Vec<_>>() {
            [tag, files] => (tag, files, false),
            [tag, files, "lost"] => (tag, files, true),
            _ => return None,
        };
        Some(SharePlan {
            tag: Some(tag.to_owned()).filter(|tag| !tag.is_empty())?,
            files: files.parse().ok()?,
            awaits_loss,
        })
    }
}

/// All settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// The works of one repetition, in order.
    pub(crate) works: Vec<Work>,
    /// Multiplies operations and durations.
    pub(crate) scale: Scale,
    /// The works that come before those, once.
    pub(crate) first: Vec<Work>,
    /// How often `cycles` goes through one; `None`: a hundred times, at scale 1.
    pub(crate) cycles: Option<u64>,
    /// Parameters of the kernel module, separated by commas, where a work loads it itself.
    pub(crate) cycle_params: String,
    /// Length of the works that last, if not by the scale.
    pub(crate) seconds: Option<u64>,
    /// How long `refill` waits at most for the host to take memory back, if it does.
    pub(crate) return_wait: Option<Duration>,
    /// How often the list is run.
    pub(crate) reps: u32,
    /// The quiet time before the first work.
    pub(crate) warm_up: Duration,
    /// The quiet time before each begin mark.
    pub(crate) settle: Duration,
    /// The time-out of one phase, if not the default.
    pub(crate) timeout: Option<Duration>,
    /// Upper limit of the threads that spin during `tlb`.
    pub(crate) tlb_threads: Option<usize>,
    /// The disk or file for the reads.
    pub(crate) disk: PathBuf,
    /// Operations per thread of the check that overwrites the disk; 0: it is not done.
    pub(crate) disk_check: u64,
    /// Whether marks are written.
    pub(crate) has_marks: bool,
    /// The terminal for records, if one is asked for.
    pub(crate) console: Option<String>,
    /// Parameters of the kernel module, separated by commas, if it is to be loaded.
    pub(crate) module: Option<String>,
    /// How often it is loaded and unloaded before the works.
    pub(crate) module_cycles: u32,
    /// Whether its counters are said behind each repetition.
    pub(crate) has_counters: bool,
    /// What is sent over the network first.
    pub(crate) net: Option<NetPlan>,
    /// Connections over AF_VSOCK that come first too.
    pub(crate) vsock: Option<VsockPlan>,
    /// Trees of files in a folder of the host's, before the works too.
    pub(crate) share: Option<SharePlan>,
    /// How init ends.
    pub(crate) end: End,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            works: all_works(),
            scale: Scale(1000),
            first: Vec::new(),
            cycles: None,
            cycle_params: String::new(),
            seconds: None,
            return_wait: None,
            reps: 1,
            warm_up: Duration::ZERO,
            settle: Duration::from_millis(300),
            timeout: None,
            tlb_threads: None,
            disk: PathBuf::from("/dev/vda"),
            disk_check: 0,
            has_marks: true,
            console: None,
            module: None,
            module_cycles: 0,
            has_counters: false,
            net: None,
            vsock: None,
            share: None,
            end: End::PowerOff,
        }
    }
}

impl Options {
    /// Reads the settings among the other words of a kernel command line.
    ///
    /// Returns what could be read beside the first error: how to end, above all, is needed even
    /// when the list of works is wrong.
    pub(crate) fn from_cmdline(cmdline: &str) -> (Options, Result<(), OptionsError>) {
        let mut options = Options::default();
        let mut result = Ok(());
        for word in cmdline.split_whitespace() {
            let Some(setting) = word.strip_prefix(CMDLINE_PREFIX) else {
                continue;
            };
            let set = match setting.split_once('=') {
                Some((name, value)) => options.set(name, value),
                None => Err(OptionsError::NoValue(setting.to_string())),
            };
            result = result.and(set);
        }
        (options, result)
    }

    /// Reads arguments; `None` if they ask for help.
    pub(crate) fn from_args(
        mut args: impl Iterator<Item = String>,
    ) -> Result<Option<Options>, OptionsError> {
        let mut options = Options::default();
        while let Some(arg) = args.next() {
            if arg == "--help" || arg == "-h" {
                return Ok(None);
            }
            let Some(setting) = arg.strip_prefix("--") else {
                return Err(OptionsError::UnknownSetting(arg));
            };
            if setting == "no-marks" {
                options.has_marks = false;
                continue;
            }
            let (name, value) = match setting.split_once('=') {
                Some((name, value)) => (name.to_string(), value.to_string()),
                None => {
                    let value = args
                        .next()
                        .ok_or_else(|| OptionsError::NoValue(arg.clone()))?;
                    (setting.to_string(), value)
                }
            };
            options.set(&name.replace('-', "_"), &value)?;
        }
        Ok(Some(options))
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), OptionsError> {
        let bad = |expected| OptionsError::BadValue {
            name: name.to_string(),
            value: value.to_string(),
            expected,
        };
        match name {
            "works" => self.works = parse_works(value).ok_or_else(|| bad("a list of works"))?,
            "first" => self.first = parse_works(value).ok_or_else(|| bad("a list of works"))?,
            "cycles" => {
                let count = value.parse().map_err(|_| bad("a count"))?;
                self.cycles = Some(count);
            }
            "cycle_params" => self.cycle_params = value.to_string(),
            "scale" => {
                self.scale = Scale::parse(value).ok_or_else(|| {
                    bad("a number from 0.001 to 1000 with at most three decimals")
                })?;
            }
            "seconds" => {
                let seconds: u64 = value.parse().map_err(|_| bad("a number of seconds"))?;
                self.seconds = Some(seconds).filter(|n| (1..=100_000).contains(n));
                self.seconds.ok_or_else(|| bad("1 to 100000 seconds"))?;
            }
            "return_wait_s" => {
                let seconds: u32 = value.parse().map_err(|_| bad("a number of seconds"))?;
                self.return_wait = Some(Duration::from_secs(u64::from(seconds)));
            }
            "reps" => {
                self.reps = value
                    .parse()
                    .ok()
                    .filter(|&n| n > 0)
                    .ok_or_else(|| bad("a count"))?;
            }
            "warm_up_s" => {
                let seconds: u32 = value.parse().map_err(|_| bad("a number of seconds"))?;
                self.warm_up = Duration::from_secs(u64::from(seconds));
            }
            "settle_ms" => {
                let ms: u32 = value.parse().map_err(|_| bad("a number of milliseconds"))?;
                self.settle = Duration::from_millis(u64::from(ms));
            }
            "timeout_s" => {
                let seconds: u32 = value.parse().map_err(|_| bad("a number of seconds"))?;
                self.timeout = Some(Duration::from_secs(u64::from(seconds.max(1))));
            }
            "tlb_threads" => {
                let count: usize = value.parse().map_err(|_| bad("a count"))?;
                self.tlb_threads = Some(count).filter(|&n| n > 0);
                self.tlb_threads.ok_or_else(|| bad("a count above zero"))?;
            }
            "disk" => self.disk = PathBuf::from(value),
            "disk_check" => self.disk_check = value.parse().map_err(|_| bad("a count"))?,
            "marks" => {
                self.has_marks = parse_switch(value).ok_or_else(|| bad("`on` or `off`"))?;
            }
            "counters" => {
                self.has_counters = parse_switch(value).ok_or_else(|| bad("`on` or `off`"))?;
            }
            "console" => {
                let is_name = !value.is_empty() && !value.contains('/');
                self.console = Some(value.to_string()).filter(|_| is_name);
                self.console
                    .as_ref()
                    .ok_or_else(|| bad("the name of a terminal"))?;
            }
            "module" => self.module = Some(value.to_string()),
            "module_cycles" => self.module_cycles = value.parse().map_err(|_| bad("a count"))?,
            "net" => {
                let plan = NetPlan::parse(value);
                self.net =
                    Some(plan.ok_or_else(|| bad("ADDRESS/PREFIX,HOST:PORT,MIB,CONNECTIONS"))?);
            }
            "vsock" => {
                let plan = VsockPlan::parse(value);
                self.vsock = Some(plan.ok_or_else(|| bad("PORT,CONNECTIONS,REBINDS[,BYTES]"))?);
            }
            "share" => {
                let plan = SharePlan::parse(value);
                self.share = Some(plan.ok_or_else(|| bad("TAG,FILES[,lost]"))?);
            }
            "end" => self.end = parse_end(value).ok_or_else(|| bad("a way to end"))?,
            _ => return Err(OptionsError::UnknownSetting(name.to_string())),
        }
        Ok(())
    }
}

/// `boot` is no work to run: its one mark is made before the settings are known.
fn all_works() -> Vec<Work> {
    Work::ALL
        .into_iter()
        .filter(|&work| work != Work::Boot)
        .collect()
}

fn parse_works(list: &str) -> Option<Vec<Work>> {
    match list {
        "all" => return Some(all_works()),
        "none" => return Some(Vec::new()),
        _ => {}
    }
    let works: Option<Vec<Work>> = list.split(',').map(Work::from_name).collect();
    Some(
        works?
            .into_iter()
            .filter(|&work| work != Work::Boot)
            .collect(),
    )
}

fn parse_switch(value: &str) -> Option<bool> {
    match value {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

fn parse_end(value: &str) -> Option<End> {
    Some(match value {
        "poweroff" => End::PowerOff,
        "reboot" | "triple" => End::Reboot,
        "halt" => End::Halt,
        "panic" => End::Panic,
        "hang" => End::Hang,
        "exit" => End::Exit,
        "kexec" => End::Kexec,
        _ => return None,
    })
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
