//! Which thread runs on which host CPU: the same rule for every arm.
//!
//! vCPU `i` runs on host CPU `i + 1`, our polling thread on the CPU behind the last vCPU's if the
//! host has one to spare, every other thread of a VMM and this program on CPU 0. A
//! child inherits CPU 0 from this program; a peer's vCPU threads are found by their names and
//! moved. Called by [`super::session`] (once) and [`super::child`] (for each run).
#![expect(unsafe_code)]
// UNSAFETY: sched_setaffinity has no safe wrapper among our dependencies.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use super::args::Pin;
use super::arm::Place;
use super::records;

/// What is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinning {
    /// Nothing.
    Off,
    /// vCPU threads to host CPUs 1 to `cpus`.
    Pinned {
        /// vCPUs of the guest.
        cpus: u32,
        /// Host CPU of a polling thread that has one of its own; 0 where there is none to spare.
        sidecore: u32,
    },
}

/// Decides, and says so in words for the report.
pub fn decide(wish: Pin, cpus: u32, host_cpus: u32) -> (Pinning, String) {
    match wish {
        Pin::None => (Pinning::Off, "not pinned (--pin none)".into()),
        Pin::Auto if host_cpus > cpus + 1 => {
            let sidecore = cpus + 1;
            let words = format!(
                "vCPUs pinned to host CPUs 1-{cpus}, a polling thread to CPU {sidecore}, other \
                 threads to CPU 0"
            );
            (Pinning::Pinned { cpus, sidecore }, words)
        }
        Pin::Auto if host_cpus > cpus => {
            let words = format!("vCPUs pinned to host CPUs 1-{cpus}, other threads to CPU 0");
            (Pinning::Pinned { cpus, sidecore: 0 }, words)
        }
        Pin::Auto => {
            let words = format!("not pinned: {host_cpus} host CPUs are not more than {cpus} vCPUs");
            (Pinning::Off, words)
        }
    }
}

/// The same rule as our VMM's `--pin` wants it: a host CPU per vCPU, then that of other threads.
pub fn list(pinning: Pinning) -> Option<String> {
    match pinning {
        Pinning::Off => None,
        Pinning::Pinned { cpus: 1, .. } => Some("1,0".into()),
        Pinning::Pinned { cpus, .. } => Some(format!("1-{cpus},0")),
    }
}

/// The host CPU of a polling thread, if threads are pinned at all.
pub fn sidecore_cpu(pinning: Pinning, place: Place) -> Option<u32> {
    match (pinning, place) {
        (Pinning::Off, _) => None,
        (Pinning::Pinned { sidecore, .. }, Place::Own) => Some(sidecore),
        (Pinning::Pinned { cpus, .. }, Place::WithVcpu) => Some(cpus),
    }
}

/// Moves this program, and so the children to come, to CPU 0.
pub fn pin_self(pinning: Pinning) -> io::Result<()> {
    match pinning {
        Pinning::Off => Ok(()),
        Pinning::Pinned { .. } => set_affinity(0, 0),
    }
}

/// Moves those vCPU threads of a peer that exist by now; true once all of them have been moved.
pub fn pin_vcpus(pid: u32, pinning: Pinning) -> io::Result<bool> {
    let Pinning::Pinned { cpus, .. } = pinning else {
        return Ok(true);
    };
    let mut pinned = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path();
        // A thread may end between the listing and the reading.
        let Ok(name) = fs::read_to_string(path.join("comm")) else {
            continue;
        };
        let Some(vcpu) = vcpu_of(name.trim()).filter(|vcpu| *vcpu < cpus) else {
            continue;
        };
        let tid = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        let Some(tid) = tid else { continue };
        set_affinity(tid, vcpu + 1)?;
        pinned += 1;
    }
    Ok(pinned == cpus)
}

/// A thread of a VMM and the host CPUs it may run on, as the kernel lists them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Its name.
    pub name: String,
    /// "2" or "0-3".
    pub cpus: String,
}

/// The threads that a process has now, by name; empty for one that has ended.
pub fn threads(pid: u32) -> Vec<Thread> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
    {
        let status = entry.and_then(|entry| fs::read_to_string(entry.path().join("status")));
        threads.extend(status.ok().as_deref().and_then(thread_of));
    }
    // KVM's own, in every VMM, wherever it was made; it sleeps for hours.
    threads.retain(|thread| !thread.name.starts_with("kvm-nx-lpage"));
    threads.sort_by(|a, b| (&a.name, &a.cpus).cmp(&(&b.name, &b.cpus)));
    threads.dedup();
    threads
}

fn thread_of(status: &str) -> Option<Thread> {
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
    Some(Thread {
        name: records::clean(value("Name:")?),
        cpus: records::clean(value("Cpus_allowed_list:")?),
    })
}

/// The vCPU's number in a thread name of QEMU ("CPU 1/KVM") or of ours ("vcpu1").
fn vcpu_of(name: &str) -> Option<u32> {
    let number = name
        .strip_prefix("CPU ")
        .and_then(|rest| rest.strip_suffix("/KVM"))
        .or_else(|| name.strip_prefix("vcpu"))?;
    number.parse().ok()
}

fn set_affinity(tid: libc::pid_t, cpu: u32) -> io::Result<()> {
    // 1024 CPUs, the kernel's own default limit.
    let mut mask = [0u64; 16];
    let word = mask
        .get_mut(cpu as usize / 64)
        .ok_or(io::ErrorKind::InvalidInput)?;
    *word = 1 << (cpu % 64);
    // SAFETY: the mask is a local array that lives through the call, and its size is given.
    let result =
        unsafe { libc::sched_setaffinity(tid, std::mem::size_of_val(&mask), mask.as_ptr().cast()) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_only_with_a_cpu_to_spare() {
        let pinned = |cpus, sidecore| Pinning::Pinned { cpus, sidecore };
        assert_eq!(decide(Pin::Auto, 2, 3).0, pinned(2, 0));
        assert_eq!(decide(Pin::Auto, 2, 4).0, pinned(2, 3));
        assert_eq!(decide(Pin::Auto, 2, 9).0, pinned(2, 3));
        assert_eq!(decide(Pin::None, 2, 3).0, Pinning::Off);
        let (off, words) = decide(Pin::Auto, 2, 2);
        assert_eq!(off, Pinning::Off);
        assert!(words.contains("2 host CPUs"), "{words}");
        assert_eq!(list(pinned(2, 3)).as_deref(), Some("1-2,0"));
        assert_eq!(list(Pinning::Off), None);
        assert_eq!(sidecore_cpu(pinned(2, 3), Place::Own), Some(3));
        assert_eq!(sidecore_cpu(pinned(2, 0), Place::Own), Some(0));
        assert_eq!(sidecore_cpu(pinned(2, 3), Place::WithVcpu), Some(2));
        assert_eq!(sidecore_cpu(Pinning::Off, Place::Own), None);
    }

    #[test]
    fn vcpu_threads_are_known_by_name() {
        assert_eq!(vcpu_of("CPU 1/KVM"), Some(1));
        assert_eq!(vcpu_of("vcpu0"), Some(0));
        for name in ["CPU /KVM", "CPU 1/TCG", "vcpu", "worker", "CPU -1/KVM"] {
            assert_eq!(vcpu_of(name), None, "{name}");
        }
    }

    #[test]
    fn threads_are_listed_with_their_cpus() {
        let status = "Name:\tvcpu0\nCpus_allowed:\t2\nCpus_allowed_list:\t1\nMems_allowed:\t1\n";
        let thread = thread_of(status).unwrap();
        assert_eq!((thread.name.as_str(), thread.cpus.as_str()), ("vcpu0", "1"));
        assert_eq!(thread_of("Name:\tx\n"), None);
        assert!(!threads(std::process::id()).is_empty());
        assert_eq!(threads(u32::MAX), []);
    }

    #[test]
    fn a_process_without_vcpus_is_not_done() {
        let pid = std::process::id();
        assert!(!pin_vcpus(pid, decide(Pin::Auto, 1, 2).0).unwrap());
        assert!(pin_vcpus(pid, Pinning::Off).unwrap());
    }
}
