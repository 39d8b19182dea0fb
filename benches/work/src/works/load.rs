//! A busy machine, for works that test: threads that do all kinds of things until told to stop.
//!
//! Each counts what it has done, so that one that has stopped is seen.

use super::disk::Disk;
use crate::helper::{Helper, StopFlag};
use crate::sys::memory::{Pages, PAGE_BYTES};
use crate::sys::{process, time};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// Pairs of threads that send messages to each other.
const PAIRS: usize = 4;
const MESSAGE_BYTES: usize = 100;
const HACKBENCH: &str = "/usr/bin/hackbench";
/// So many messages that it never ends by itself.
const HACKBENCH_LOOPS: &str = "100000000";
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The threads, and hackbench if it is there. They end with this.
#[derive(Debug)]
pub(super) struct Load {
    counts: BTreeMap<&'static str, Arc<AtomicU64>>,
    threads: Vec<Helper>,
    hackbench: Option<Killed>,
    stop: StopFlag,
}

/// A child that is gone once this is.
#[derive(Debug)]
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It leads a group: its senders and receivers would go on without it.
        if let Ok(leader) = i32::try_from(self.0.id()) {
            process::kill_group(leader);
        }
    }
}

impl Load {
    /// Starts everything; without a disk there are no reads.
    pub(super) fn start(cpus: &[usize], disk: &Path) -> Result<Load, String> {
        let mut load = Load {
            counts: BTreeMap::new(),
            threads: Vec::new(),
            hackbench: None,
            stop: StopFlag::default(),
        };
        for pair in 0..PAIRS {
            // Neighbours on different CPUs.
            let (here, there) = (pick(cpus, pair), pick(cpus, pair + 1));
            let (mut reader, mut writer) =
                std::io::pipe().map_err(|error| format!("cannot make a pipe: {error}"))?;
            load.add("messages", here, move || {
                writer.write_all(&[7; MESSAGE_BYTES]).map_err(text("write"))
            })?;
            load.add("received", there, move || {
                let mut message = [0; MESSAGE_BYTES];
                reader.read_exact(&mut message).map_err(text("read"))
            })?;
        }
        for &cpu in cpus {
            load.add("sleeps", cpu, || {
                time::sleep(Duration::from_millis(1)).map_err(text("sleep"))
            })?;
        }
        load.add("children", pick(cpus, 0), || {
            let pid = process::fork_exiting(3).map_err(text("fork"))?;
            process::wait_for(pid).map_err(text("wait")).map(drop)
        })?;
        if let Ok(disk) = Disk::open(disk) {
            load.add_reads(pick(cpus, 1), disk)?;
        }
        if Path::new(HACKBENCH).exists() {
            let child = Command::new(HACKBENCH)
                .args(["-g", "1", "-f", "4", "-l", HACKBENCH_LOOPS])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .process_group(0)
                .spawn();
            let child = child.map_err(|error| format!("cannot start hackbench: {error}"))?;
            load.hackbench = Some(Killed(child));
        }
        Ok(load)
    }

    fn add_reads(&mut self, cpu: usize, mut disk: Disk) -> Result<(), String> {
        let mut page = Pages::map_touched(1).map_err(text("map"))?;
        self.add("reads", cpu, move || {
            let block = disk.blocks.next();
            let offset = block * PAGE_BYTES as u64;
            let got = disk.file.read_at(page.bytes_mut(0), offset);
            let got = got.map_err(text("read the disk"))?;
            match got == PAGE_BYTES && disk.accepts(block, page.word(0).load(Ordering::Relaxed)) {
                true => Ok(()),
                false => Err(format!("block {block} is not what it was")),
            }
        })
    }

    /// Starts a thread that does this again and again.
    fn add(
        &mut self,
        name: &'static str,
        cpu: usize,
        mut once: impl FnMut() -> Result<(), String> + Send + 'static,
    ) -> Result<(), String> {
        let count = Arc::clone(self.counts.entry(name).or_default());
        let stop: Arc<AtomicBool> = self.stop.watch();
        self.threads.push(Helper::start(cpu, move || {
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = once() {
                    // The other end of a pipe may have stopped first.
                    return match stop.load(Ordering::Relaxed) {
                        true => Ok(()),
                        false => Err(error),
                    };
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })?);
        Ok(())
    }

    /// What each kind of thread has done so far.
    pub(super) fn progress(&self) -> BTreeMap<&'static str, u64> {
        let count = |(name, count): (&&'static str, &Arc<AtomicU64>)| {
            (*name, count.load(Ordering::Relaxed))
        };
        self.counts.iter().map(count).collect()
    }

    /// Waits until every kind has done more than `before`.
    pub(super) fn wait_for_more(
        &self,
        before: &BTreeMap<&'static str, u64>,
        longest: Duration,
    ) -> Result<BTreeMap<&'static str, u64>, String> {
        let start_ns = time::read_clock_ns();
        loop {
            let now = self.progress();
            let stuck = now
                .iter()
                .find(|(name, count)| Some(*count) <= before.get(*name));
            let Some((name, count)) = stuck else {
                return Ok(now);
            };
            let waited = Duration::from_nanos(time::read_clock_ns().saturating_sub(start_ns));
            if waited > longest {
                return Err(format!("no more {name} than {count} for {longest:?}"));
            }
            time::sleep(LOOK_EVERY).map_err(text("wait"))?;
        }
    }

    /// Ends everything; says what has failed on the way.
    pub(super) fn finish(self) -> Result<(), String> {
        drop(self.hackbench);
        drop(self.stop);
        self.threads.into_iter().try_for_each(Helper::finish)
    }
}

fn pick(cpus: &[usize], number: usize) -> usize {
    cpus.get(number % cpus.len().max(1)).copied().unwrap_or(0)
}

fn text(what: &'static str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{what}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::cpu;

    #[test]
    fn every_kind_of_load_gets_on_and_ends() {
        let cpus = cpu::allowed_cpus().unwrap();
        let load = Load::start(&cpus, Path::new("/nowhere")).unwrap();
        let first = load
            .wait_for_more(&load.progress(), Duration::from_secs(20))
            .unwrap();
        let kinds: Vec<_> = first.keys().copied().collect();
        assert_eq!(kinds, ["children", "messages", "received", "sleeps"]);
        let beyond = first.keys().map(|name| (*name, u64::MAX)).collect();
        let error = load.wait_for_more(&beyond, Duration::ZERO).unwrap_err();
        assert!(error.starts_with("no more children than"), "{error}");
        load.finish().unwrap();
    }
}
