//! Gives a machine the cooperative interface, if its mode has it.

use std::sync::{Arc, OnceLock};

use coopvirt_spec::doorbell;
use kvm_ioctls::{IoEventAddress, VmFd};

use super::BuildError;
use crate::config::{MachineConfig, Mode};
use crate::coop::effects::KvmEffects;
use crate::coop::sidecore::Sidecore;
use crate::coop::Coop;
use crate::mem::GuestRam;
use crate::vcpu::VcpuEvent;
use crate::virtio::{InFlight, PolledDevice};

/// Makes the host half and connects the asynchronous doorbell to it.
pub(super) fn create(
    config: &MachineConfig,
    vm: &Arc<VmFd>,
    ram: &GuestRam,
    observer: &Arc<dyn VcpuEvent>,
) -> Result<Option<Arc<Coop>>, BuildError> {
    if config.mode != Mode::Coop {
        return Ok(None);
    }
    let effects = KvmEffects {
        vm: Arc::clone(vm),
        observer: Arc::clone(observer),
    };
    let coop = Coop::new(
        config.coop_offered(),
        ram,
        config.vcpus.get(),
        Box::new(effects),
    )
    .map_err(|source| BuildError::Io {
        what: "make the cooperative interface",
        source,
    })?;
    // Matches a 32-bit write of zero only; all else exits and is ignored (`[BELL-5]`).
    let port = IoEventAddress::Pio(doorbell::ASYNC_PORT.into());
    vm.register_ioevent(coop.doorbell(), &port, doorbell::VALUE)
        .map_err(|source| BuildError::Kvm {
            what: "connect the asynchronous doorbell",
            source,
        })?;
    Ok(Some(Arc::new(coop)))
}

/// Tells a machine's guests, once it has the interface, how many requests its disks have in hand.
#[derive(Default)]
pub(super) struct DiskHints(OnceLock<Arc<Coop>>);

impl DiskHints {
    /// From now on.
    pub(super) fn connect(&self, coop: &Arc<Coop>) {
        // A machine has one; the first one stays.
        let _ = self.0.set(Arc::clone(coop));
    }
}

impl InFlight for DiskHints {
    fn begins(&self) {
        if let Some(coop) = self.0.get() {
            coop.io_begins();
        }
    }
    fn ends(&self) {
        if let Some(coop) = self.0.get() {
            coop.io_ends();
        }
    }
}

/// Starts its threads, which serve the queues of these devices too.
pub(super) fn start(
    coop: &Arc<Coop>,
    tsc_khz: u32,
    host_cpus: Vec<usize>,
    devices: &[PolledDevice],
) -> Result<Sidecore, BuildError> {
    coop.poll_queues(devices.to_vec())
        .and_then(|()| Sidecore::spawn(Arc::clone(coop), tsc_khz, host_cpus))
        .map_err(|source| BuildError::Io {
            what: "start the polling thread",
            source,
        })
}
