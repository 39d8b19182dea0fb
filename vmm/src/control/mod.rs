//! The control socket: HTTP/JSON over a UNIX socket, to look at a running machine and to steer it.
//!
//! `socket` makes, guards and removes the socket's file; `server` speaks HTTP on a thread of its own
//! and bounds what a client can take; `routes` turns a request into an answer, a pure function over
//! [`Controls`]; `metrics` and `prometheus` are what it says of counts; `machine` is [`Controls`] of
//! a real machine. `coopvirt run --control` starts it, `coopvirt ctl` and anything that speaks HTTP
//! (`curl --unix-socket`) use it. It must never run a guest's work or hold up the guest.

pub mod client;
mod machine;
pub mod metrics;
pub mod prometheus;
pub mod registry;
mod routes;
mod server;
mod socket;
#[cfg(test)]
mod tests;
mod threads;

use serde::{Deserialize, Serialize};

pub use machine::MachineControls;
pub use server::ControlServer;
pub use socket::{ControlSocket, SocketError};

use crate::machine::{RemoteError, RunState};
use crate::virtio::{BalloonError, BalloonState};
use metrics::Metrics;

/// What the socket can do with a machine.
pub trait Controls: Send + Sync {
    /// What the machine is and whether it runs. Never waits.
    fn state(&self) -> State;
    /// All counters now.
    fn metrics(&self) -> Metrics;
    /// Gets all vCPUs out of the guest and keeps them out.
    fn pause(&self) -> Result<(), RemoteError>;
    /// Lets them run again.
    fn resume(&self) -> Result<(), RemoteError>;
    /// Ends the machine this way.
    fn shut_down(&self, how: ShutDownHow) -> Result<(), RemoteError>;
    /// What the balloon holds; asks the guest for its statistics, for two seconds at most.
    fn balloon(&self) -> Result<BalloonState, BalloonError>;
    /// Sets how much memory the guest shall give up.
    fn set_balloon(&self, target_mib: u64) -> Result<(), BalloonError>;
}

/// The answer of `GET /state`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Whether guest code runs.
    pub state: RunState,
    /// What the guest may know of the hypervisor: "hvm", "kvm", "coop".
    pub mode: String,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Guest memory.
    pub memory_bytes: u64,
    /// The VMM's process.
    pub pid: u32,
    /// The VMM's version.
    pub version: String,
}

/// How `POST /shutdown` ends a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShutDownHow {
    /// By the ACPI power button: the guest shuts itself down, if it listens.
    #[default]
    PowerButton,
    /// At once, as Ctrl-A X does: vCPUs stop, the guest is not asked.
    Stop,
}
