//! CPU time of a VMM's threads, by what they are for.
//!
//! Read from `/proc/PID/task/TID/schedstat`, exact to the nanosecond, guest time included. Kinds
//! follow from names, ours and QEMU's; vhost's workers are threads of the VMM since Linux 6.4 (of
//! the kernel before, where they are in no figure). Called by the tracer's drain thread; what a
//! process names its threads is text of strangers and is only compared.
//!
//! The kernel adds to a thread's CPU time when the thread leaves its CPU, and at the CPU's tick. A
//! vCPU that computes or polls does neither for a second on a CPU without tick (`nohz_full`), and would
//! be seen to have taken nothing. Whoever reads `/proc/PID/task/TID/stat` of a thread that runs on such
//! a CPU has the kernel add what it has taken so far: [`Threads::settle`].

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Threads that are followed; a VMM that makes and ends more loses what the ended ones took.
const MAX_THREADS: usize = 4096;
/// Threads that are settled: so many files stay open. More than that are exact to the tick, or to
/// a second.
const MAX_SETTLED: usize = 256;
const MAX_LOOKS: u8 = 4;

/// Names of the kinds, in the order of [`Times`].
pub const KINDS: [&str; NR_KINDS] = ["vcpus", "sidecore", "vhost", "others"];
const NR_KINDS: usize = 4;

/// CPU time by kind, nanoseconds.
pub type Times = [u64; NR_KINDS];

/// Follows the threads of one process.
#[derive(Debug, Default)]
pub struct Threads {
    /// Of ended threads too, so that sums never go back.
    known: HashMap<u32, Known>,
    nr_settled: usize,
}

#[derive(Debug, Default)]
struct Known {
    kind: usize,
    cpu_ns: u64,
    /// How often its name was read: a thread may get it only after it has begun.
    nr_looks: u8,
    /// Its `stat`, until the thread ends.
    stat: Option<File>,
}

impl Threads {
    /// Reads all threads; `None` if there is no such process or the kernel does not tell.
    pub fn read(&mut self, pid: u32) -> Option<Times> {
        let mut is_any = false;
        for entry in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
            let name = entry.file_name();
            let Some(tid) = name.to_str().and_then(|text| text.parse::<u32>().ok()) else {
                continue;
            };
            // A thread may end between the two.
            let Some(cpu_ns) = cpu_ns(&entry.path()) else {
                continue;
            };
            is_any = true;
            if self.known.len() >= MAX_THREADS && !self.known.contains_key(&tid) {
                *self = Self::default();
            }
            let known = self.known.entry(tid).or_default();
            known.cpu_ns = cpu_ns;
            if known.stat.is_none() && self.nr_settled < MAX_SETTLED {
                known.stat = File::open(entry.path().join("stat")).ok();
                self.nr_settled += usize::from(known.stat.is_some());
            }
            if known.nr_looks < MAX_LOOKS {
                known.nr_looks += 1;
                known.kind = kind_at(&entry.path());
            }
        }
        is_any.then(|| self.sums())
    }

    /// Has the kernel add to the times of the threads, those that [`Threads::read`] has found before,
    /// what they have taken until now. To be called right before these or the process's are read.
    pub fn settle(&mut self) {
        for known in self.known.values_mut() {
            // The kernel makes the whole text for its first byte.
            let is_gone = |stat: &File| !matches!(stat.read_at(&mut [0], 0), Ok(1));
            if known.stat.as_ref().is_some_and(is_gone) {
                known.stat = None;
                self.nr_settled -= 1;
            }
        }
    }

    fn sums(&self) -> Times {
        let mut sums: Times = [0; NR_KINDS];
        for known in self.known.values() {
            if let Some(sum) = sums.get_mut(known.kind) {
                *sum = sum.saturating_add(known.cpu_ns);
            }
        }
        sums
    }
}

/// Each time less the earlier one; what is none is left out.
pub fn difference(
    later: &BTreeMap<String, u64>,
    earlier: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    let less = |(kind, ns): (&String, &u64)| {
        let before = earlier.get(kind).copied().unwrap_or(0);
        (kind.clone(), ns.saturating_sub(before))
    };
    later.iter().map(less).collect()
}

/// With names, for reports.
pub fn named(times: &Times) -> BTreeMap<String, u64> {
    let names = KINDS.iter().map(ToString::to_string);
    names.zip(times.iter().copied()).collect()
}

fn cpu_ns(task: &Path) -> Option<u64> {
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

fn kind_at(task: &Path) -> usize {
    kind_of(
        fs::read_to_string(task.join("comm"))
            .unwrap_or_default()
            .trim(),
    )
}

/// The index in [`KINDS`] of a thread with this name.
fn kind_of(name: &str) -> usize {
    match name {
        name if name.starts_with("vcpu") => 0,
        name if name.starts_with("CPU ") && name.ends_with("/KVM") => 0,
        "coop-poll" => 1,
        name if name.starts_with("vhost-") => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_follow_from_names() {
        let names = [
            "vcpu0",
            "CPU 1/KVM",
            "coop-poll",
            "vhost-123",
            "io",
            "vhost",
        ];
        let kinds = names.map(|name| KINDS[kind_of(name)]);
        assert_eq!(
            kinds,
            ["vcpus", "vcpus", "sidecore", "vhost", "others", "others"]
        );
    }

    #[test]
    fn an_ended_thread_keeps_what_it_took() {
        let (ready, wait) = std::sync::mpsc::channel::<()>();
        let (said, hear) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("vcpu7".into());
        let spin = move || {
            let end = std::time::Instant::now() + std::time::Duration::from_millis(20);
            while std::time::Instant::now() < end {}
            said.send(()).unwrap();
            let _ = wait.recv();
        };
        let thread = thread.spawn(spin).unwrap();
        hear.recv().unwrap();
        let mut threads = Threads::default();
        let alive = threads.read(std::process::id()).unwrap();
        assert!(alive[0] > 0, "{alive:?}");
        threads.settle();
        let nr_settled = threads.nr_settled;
        assert!(nr_settled >= 2, "this one and the other");
        drop(ready);
        thread.join().unwrap();
        let ended = threads.read(std::process::id()).unwrap();
        assert!(ended[0] >= alive[0]);
        threads.settle();
        let open = threads.known.values().filter(|known| known.stat.is_some());
        assert_eq!(open.count(), threads.nr_settled);
        assert!(threads.known.values().any(|known| known.stat.is_none()));
        assert_eq!(Threads::default().read(u32::MAX), None);
    }

    #[test]
    fn differences_keep_all_kinds() {
        let (earlier, later) = (named(&[1, 2, 3, 4]), named(&[11, 2, 3, 5]));
        let grown = difference(&later, &earlier);
        assert_eq!(grown["vcpus"], 10);
        assert_eq!(grown["sidecore"], 0);
        assert_eq!(grown.len(), 4);
    }
}
