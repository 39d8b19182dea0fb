//! Which thread runs on which host CPU: the same for every arm.
//!
//! vCPU `i` runs on host CPU `i + 1`. All others of a VMM, the kernel's threads for it and iperf3 share the CPUs that are
//! left. A VMM inherits those from this program, as its vhost workers do from it; its vCPU threads are found by their
//! names and moved. Otherwise which threads meet on a CPU is chance, and so is most of what an exit costs.

use std::thread::{available_parallelism, sleep};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use coopvirt::compare::pin::{pin_vcpus, Pinning};
use coopvirt::vcpu::pin::pin_current_thread;

/// vCPU threads exist long before a guest is ready.
const FOUND: Duration = Duration::from_secs(10);

/// Where threads run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(Pinning);

impl Place {
    /// For so many vCPUs; the calling thread and all that it starts keep off their CPUs from now on. Nothing is pinned on
    /// a host that has no two CPUs beside theirs.
    pub(crate) fn take(vcpus: u32) -> Result<Self> {
        let host_cpus = u32::try_from(available_parallelism()?.get())?;
        let place = Self::decide(vcpus, host_cpus);
        if place.0 != Pinning::Off {
            let others = std::iter::once(0).chain(vcpus + 1..host_cpus);
            let others: Vec<usize> = others.map(|cpu| cpu as usize).collect();
            pin_current_thread(&others).context("cannot pin this program")?;
        }
        Ok(place)
    }

    fn decide(vcpus: u32, host_cpus: u32) -> Self {
        if host_cpus < vcpus + 2 {
            return Self(Pinning::Off);
        }
        Self(Pinning::Pinned {
            cpus: vcpus,
            sidecore: vcpus + 1,
        })
    }

    /// Moves the vCPU threads of a VMM.
    pub(crate) fn pin(self, pid: u32) -> Result<()> {
        let started = Instant::now();
        while !pin_vcpus(pid, self.0)? {
            ensure!(started.elapsed() < FOUND, "{pid} has too few vCPU threads");
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// In words.
    pub(crate) fn words(self) -> String {
        match self.0 {
            Pinning::Off => "nothing pinned".to_owned(),
            Pinning::Pinned { cpus, .. } => {
                format!("vCPUs pinned to host CPUs 1-{cpus}, all others to the rest")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcpus_get_host_cpus_of_their_own_where_two_are_left() {
        assert_eq!(Place::decide(2, 3), Place(Pinning::Off));
        let pinned = Place::decide(2, 4);
        assert_eq!(
            pinned.words(),
            "vCPUs pinned to host CPUs 1-2, all others to the rest"
        );
        assert!(pinned.pin(u32::MAX).is_err(), "nobody to be moved");
        assert!(Place::decide(2, 3).pin(u32::MAX).is_ok());
    }
}
