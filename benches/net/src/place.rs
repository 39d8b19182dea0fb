//! Which thread runs on which host CPU: the same for every arm.
//!
//! vCPU `i` runs on host CPU `i + 1`, iperf3 on host CPU 0, and all other threads of a VMM, with the kernel's for it, share the
//! CPUs that are left. A VMM inherits those from this program, as its vhost workers do from it; its vCPU threads are found by
//! their names and moved. Otherwise which threads meet on a CPU is chance, and so is most of what an exit costs: a vhost
//! worker that shares a CPU with iperf3 finds more packets whenever it runs, and asks for fewer notifications.

use std::thread::{available_parallelism, sleep};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use coopvirt::compare::pin::{pin_vcpus, Pinning};
use coopvirt::vcpu::pin::pin_current_thread;

/// iperf3's CPU, and that of whatever else the host does.
const PEER: usize = 0;
/// vCPU threads exist long before a guest is ready.
const FOUND: Duration = Duration::from_secs(10);

/// Where threads run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    vcpus: Pinning,
    host_cpus: u32,
}

impl Place {
    /// For so many vCPUs. Nothing is pinned on a host that has no two CPUs beside theirs.
    pub(crate) fn on_this_host(vcpus: u32) -> Result<Self> {
        let host_cpus = u32::try_from(available_parallelism()?.get())?;
        Ok(Self::decide(vcpus, host_cpus))
    }

    /// What the calling thread starts from now on belongs to a VMM.
    pub(crate) fn as_vmm(self) -> Result<()> {
        let Pinning::Pinned { sidecore, .. } = self.vcpus else {
            return Ok(());
        };
        let others: Vec<usize> = (sidecore..self.host_cpus).map(|cpu| cpu as usize).collect();
        pin_current_thread(&others).context("cannot pin this program")
    }

    /// What it starts from now on is iperf3.
    pub(crate) fn as_peer(self) -> Result<()> {
        if self.vcpus == Pinning::Off {
            return Ok(());
        }
        pin_current_thread(&[PEER]).context("cannot pin this program")
    }

    fn decide(vcpus: u32, host_cpus: u32) -> Self {
        let vcpus = if host_cpus < vcpus + 2 {
            Pinning::Off
        } else {
            Pinning::Pinned {
                cpus: vcpus,
                sidecore: vcpus + 1,
            }
        };
        Self { vcpus, host_cpus }
    }

    /// Moves the vCPU threads of a VMM.
    pub(crate) fn pin(self, pid: u32) -> Result<()> {
        let started = Instant::now();
        while !pin_vcpus(pid, self.vcpus)? {
            ensure!(started.elapsed() < FOUND, "{pid} has too few vCPU threads");
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// In words.
    pub(crate) fn words(self) -> String {
        match self.vcpus {
            Pinning::Off => "nothing pinned".to_owned(),
            Pinning::Pinned { cpus, .. } => {
                format!(
                    "vCPUs pinned to host CPUs 1-{cpus}, iperf3 to {PEER}, all others to the rest"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcpus_get_host_cpus_of_their_own_where_two_are_left() {
        assert_eq!(Place::decide(2, 3).words(), "nothing pinned");
        let pinned = Place::decide(2, 4);
        assert_eq!(
            pinned.words(),
            "vCPUs pinned to host CPUs 1-2, iperf3 to 0, all others to the rest"
        );
        assert!(pinned.pin(u32::MAX).is_err(), "nobody to be moved");
        assert!(Place::decide(2, 3).pin(u32::MAX).is_ok());
    }
}
