//! Pauses, resumes and ends a machine from other threads than its owner's.
//!
//! The control socket uses it. It must never keep a machine alive: the vCPUs belong to the
//! [`Machine`](super::Machine), and once that has begun to end, everything here is refused.
//!
//! Lock order: `order` (one operation at a time, held while vCPUs are waited for), then `state`
//! (a leaf, so that looking at it never waits).

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::devices::power::{NotListening, Power};
use crate::event::MachineEvent;
use crate::vcpu::VcpuHandle;

/// A vCPU leaves the guest within microseconds; one that writes to a console that nobody reads waits
/// for the reader.
const PAUSE_LIMIT: Duration = Duration::from_secs(5);

/// Whether guest code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// It may.
    Running,
    /// All vCPUs are out of the guest and stay out.
    Paused,
    /// The machine has ended or is about to.
    Ending,
}

/// Why something could not be done.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum RemoteError {
    #[error("the machine is ending")]
    Ending,
    #[error("vCPU {vcpu} did not leave the guest within {} s; the guest runs on (does somebody read its console?)", PAUSE_LIMIT.as_secs())]
    Stuck { vcpu: usize },
    #[error("the guest is paused and cannot shut itself down; resume it first")]
    Paused,
    #[error(transparent)]
    NotListening(#[from] NotListening),
}

/// The way to a machine, from any thread.
#[derive(Clone)]
pub struct Remote {
    vcpus: Weak<Vec<VcpuHandle>>,
    order: Arc<Mutex<()>>,
    state: Arc<Mutex<RunState>>,
    power: Arc<Mutex<Power>>,
    events: Sender<MachineEvent>,
}

impl Remote {
    pub(super) fn new(
        vcpus: &Arc<Vec<VcpuHandle>>,
        power: Arc<Mutex<Power>>,
        events: Sender<MachineEvent>,
    ) -> Self {
        Self {
            vcpus: Arc::downgrade(vcpus),
            order: Arc::default(),
            state: Arc::new(Mutex::new(RunState::Paused)),
            power,
            events,
        }
    }

    /// Whether guest code runs now.
    pub fn state(&self) -> RunState {
        *lock(&self.state)
    }

    /// Stops all vCPUs outside the guest. Returns when they are out; their last exits are complete.
    ///
    /// Devices and timers of the host go on. A guest with kvmclock is told, so that its watchdogs do
    /// not take the gap for a hang.
    pub fn pause(&self) -> Result<(), RemoteError> {
        let _order = lock(&self.order);
        let vcpus = self.vcpus()?;
        let asked: Option<Vec<_>> = vcpus.iter().map(VcpuHandle::begin_pause).collect();
        let deadline = Instant::now() + PAUSE_LIMIT;
        for (vcpu, paused) in asked.ok_or(RemoteError::Ending)?.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            if paused.recv_timeout(left).is_err() {
                // Commands keep their order: a pause that comes late is taken back at once.
                vcpus.iter().for_each(|vcpu| _ = vcpu.resume());
                *lock(&self.state) = RunState::Running;
                return Err(RemoteError::Stuck { vcpu });
            }
        }
        for vcpu in vcpus.iter() {
            // KVM refuses it where the guest has no kvmclock, and then nobody misses it.
            let _ = vcpu.on_thread(|fd| fd.kvmclock_ctrl());
        }
        *lock(&self.state) = RunState::Paused;
        Ok(())
    }

    /// Lets all vCPUs run (again).
    pub fn resume(&self) -> Result<(), RemoteError> {
        let _order = lock(&self.order);
        let vcpus = self.vcpus()?;
        *lock(&self.state) = RunState::Running;
        vcpus.iter().for_each(|vcpu| _ = vcpu.resume());
        Ok(())
    }

    /// Presses the ACPI power button, after which a guest shuts down by itself.
    pub fn press_power_button(&self) -> Result<(), RemoteError> {
        let _order = lock(&self.order);
        match self.state() {
            RunState::Running => Ok(lock(&self.power).press()?),
            RunState::Paused => Err(RemoteError::Paused),
            RunState::Ending => Err(RemoteError::Ending),
        }
    }

    /// Ends the machine as Ctrl-A X does, whatever the guest is doing.
    pub fn stop(&self) -> Result<(), RemoteError> {
        self.events
            .send(MachineEvent::UserQuit)
            .map_err(|_| RemoteError::Ending)
    }

    /// Notes a pause by the machine's owner.
    pub(super) fn has_paused(&self) {
        let mut state = lock(&self.state);
        if *state == RunState::Running {
            *state = RunState::Paused;
        }
    }

    /// Refuses everything from now on, as the machine ends.
    pub(super) fn end(&self) {
        let _order = lock(&self.order);
        *lock(&self.state) = RunState::Ending;
    }

    fn vcpus(&self) -> Result<Arc<Vec<VcpuHandle>>, RemoteError> {
        match self.state() {
            RunState::Ending => Err(RemoteError::Ending),
            _ => self.vcpus.upgrade().ok_or(RemoteError::Ending),
        }
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
