//! The control socket's way to a real machine.

use std::sync::Arc;

use super::metrics::{Metrics, Sources};
use super::{Controls, ShutDownHow, State};
use crate::account::names::NameTable;
use crate::account::tracer::TraceWatch;
use crate::accounting::name_table;
use crate::config::MachineConfig;
use crate::coop::Coop;
use crate::machine::{Gauges, Machine, Remote, RemoteError};
use crate::virtio::{BalloonError, BalloonState};

/// Steers a machine and reads its counters, without keeping it alive.
pub struct MachineControls {
    remote: Remote,
    gauges: Gauges,
    names: NameTable,
    coop: Option<Arc<Coop>>,
    trace: Option<TraceWatch>,
    mode: &'static str,
    vcpus: u8,
    memory_bytes: u64,
}

impl MachineControls {
    /// The controls of `machine`, which was built from `config`; `trace` counts its exits, if somebody
    /// does.
    pub fn new(machine: &Machine, config: &MachineConfig, trace: Option<TraceWatch>) -> Self {
        Self {
            remote: machine.remote(),
            names: name_table(machine.gauges()),
            coop: machine.coop(),
            trace,
            gauges: machine.gauges().clone(),
            mode: config.mode.name(),
            vcpus: config.vcpus.get(),
            memory_bytes: config.memory_bytes,
        }
    }
}

impl Controls for MachineControls {
    fn state(&self) -> State {
        State {
            state: self.remote.state(),
            mode: self.mode.into(),
            vcpus: self.vcpus,
            memory_bytes: self.memory_bytes,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    fn metrics(&self) -> Metrics {
        let sources = Sources {
            gauges: &self.gauges,
            names: &self.names,
            coop: self.coop.as_deref(),
            trace: self.trace.as_ref(),
        };
        Metrics::read(self.remote.state(), &sources)
    }

    fn pause(&self) -> Result<(), RemoteError> {
        self.remote.pause()
    }

    fn resume(&self) -> Result<(), RemoteError> {
        self.remote.resume()
    }

    fn shut_down(&self, how: ShutDownHow) -> Result<(), RemoteError> {
        match how {
            ShutDownHow::PowerButton => self.remote.press_power_button(),
            ShutDownHow::Stop => self.remote.stop(),
        }
    }

    fn balloon(&self) -> Result<BalloonState, BalloonError> {
        let balloon = self.gauges.balloon.as_ref().ok_or(BalloonError::None)?;
        Ok(balloon.ask())
    }

    fn set_balloon(&self, target_mib: u64) -> Result<(), BalloonError> {
        let balloon = self.gauges.balloon.as_ref().ok_or(BalloonError::None)?;
        balloon.set_target(target_mib, self.memory_bytes)
    }
}
