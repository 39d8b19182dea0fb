//! Gives a machine the cooperative interface, if its mode has it.

use std::sync::Arc;

use coopvirt_spec::doorbell;
use kvm_ioctls::{IoEventAddress, VmFd};

use super::BuildError;
use crate::config::{MachineConfig, Mode};
use crate::coop::effects::KvmEffects;
use crate::coop::sidecore::Sidecore;
use crate::coop::Coop;
use crate::mem::GuestRam;
use crate::vcpu::VcpuEvent;

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
    let coop =
        Coop::new(config.coop, ram, config.vcpus.get(), Box::new(effects)).map_err(|source| {
            BuildError::Io {
                what: "make the cooperative interface",
                source,
            }
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

/// Starts its threads.
pub(super) fn start(
    coop: &Arc<Coop>,
    tsc_khz: u32,
    host_cpus: Vec<usize>,
) -> Result<Sidecore, BuildError> {
    Sidecore::spawn(Arc::clone(coop), tsc_khz, host_cpus).map_err(|source| BuildError::Io {
        what: "start the polling thread",
        source,
    })
}
