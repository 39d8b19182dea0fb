//! Runs one VMM as a child process, counted from its first instruction, and never lets it survive.
//!
//! The child first is a shell that waits for one line: time to attach the tracer and to know the
//! process before any VMM code runs; it then becomes the VMM, under the same process id. Console
//! and messages go to files, so that a reader can never slow a guest down. Used by
//! [`super::session`] through [`Launcher`].
#![expect(unsafe_code)]
// UNSAFETY: a death signal can only be asked for in the child, between fork and exec.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use coopvirt_spec::record;

use super::interrupt;
use super::launch::{End, Finished, Job, Launcher, TraceSource};
use super::noise;
use super::pin::{self, Pinning, Thread};
use crate::descriptors;

/// How often a running child is looked at. This program's own wake-ups stay on CPU 0.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The same until its vCPU threads have been pinned.
const LOOK_EVERY_FOR_THREADS: Duration = Duration::from_millis(5);
/// Time from the `done` record to the end of the VM.
const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(30);
/// More console than this is not read: a guest that floods it has failed anyway.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The launcher that runs real processes.
pub struct ChildLauncher {
    folder: PathBuf,
    traces: Box<dyn TraceSource>,
}

impl ChildLauncher {
    /// Keeps each child's files in `folder` until the next child.
    pub fn new(folder: &Path, traces: Box<dyn TraceSource>) -> Self {
        Self {
            folder: folder.to_path_buf(),
            traces,
        }
    }
}

impl Launcher for ChildLauncher {
    fn launch(&mut self, job: &Job<'_>) -> Result<Finished> {
        let console = self.folder.join("console");
        let messages = self.folder.join("messages");
        if let Some(exits) = job.exits_file {
            remove_if_there(exits)?;
        }
        let noise = noise::Watch::start();
        let mut child = KilledOnDrop(spawn(job, &console, &messages)?);
        let trace = self
            .traces
            .start(child.0.id())
            .context("cannot count the VM's exits")?;
        let started = Instant::now();
        open_gate(&mut child.0)?;
        let mut threads = Vec::new();
        let end = wait(&mut child.0, job, &console, &mut threads)?;
        let seconds = started.elapsed().as_secs_f64();
        drop(child);
        let exits = job.exits_file.and_then(|path| read_bounded(path).ok());
        let trace = trace
            .finish(exits.as_deref())
            .context("cannot read the VM's exit counts")?;
        Ok(Finished {
            console: read_bounded(&console)?,
            messages: read_bounded(&messages)?,
            exits,
            trace,
            threads,
            end,
            seconds,
            noise: Some(noise.end()),
            degraded: self.traces.missing(),
        })
    }
}

/// A child that is dead once this is gone.
struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        // Both fail only for a child that has been waited for already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(job: &Job<'_>, console: &Path, messages: &Path) -> Result<Child> {
    let vm = job.command;
    let create = |path: &Path| {
        File::create(path).with_context(|| format!("cannot create {}", path.display()))
    };
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", r#"read -r gate && exec "$@" </dev/null"#, "sh"])
        .arg(&vm.program)
        .args(&vm.args)
        .stdin(Stdio::piped())
        .stdout(create(console)?)
        .stderr(create(messages)?)
        // A group of its own: an interrupt from the terminal reaches us alone, and we end it.
        .process_group(0);
    let parent = std::process::id();
    let has_huge_pages = job.has_huge_pages;
    // SAFETY: the closure runs after fork in a process with one thread; it makes a few system calls
    // that are async-signal-safe and reads no memory but copies of two numbers and a limit.
    unsafe {
        command.pre_exec(move || {
            if !has_huge_pages {
                forbid_huge_pages()?;
            }
            descriptors::restore()?;
            die_with(parent)
        })
    };
    command.spawn().context("cannot start /bin/sh")
}

/// Asks the kernel to kill this process when the thread that made it ends.
fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The parent may have ended before the call above.
    match std::os::unix::process::parent_id() == parent {
        true => Ok(()),
        false => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

/// Forbids huge pages to this process, whatever it asks for later; the VMM it becomes inherits that.
fn forbid_huge_pages() -> io::Result<()> {
    // SAFETY: PR_SET_THP_DISABLE takes a flag and three zeros and touches no memory.
    match unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn open_gate(child: &mut Child) -> Result<()> {
    let mut gate = child
        .stdin
        .take()
        .context("the child has no standard input")?;
    gate.write_all(b"go\n")
        .context("the child ended before it was started")
}

/// Waits for the child's end; kills it when it takes too long or the user has had enough.
/// Notes where its threads run once the guest has booted.
fn wait(
    child: &mut Child,
    job: &Job<'_>,
    console: &Path,
    threads: &mut Vec<Thread>,
) -> Result<End> {
    let mut watch = Watch::new(console, job);
    let mut pinning = match job.exits_file {
        Some(_) => Pinning::Off,
        None => job.pinning,
    };
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for the child")? {
            return Ok(end_of(status));
        }
        if interrupt::is_requested() {
            return Ok(End::Interrupted);
        }
        if let Some(reason) = watch.look() {
            return Ok(End::Timeout(reason));
        }
        if watch.is_booted && threads.is_empty() {
            *threads = pin::threads(child.id());
        }
        if pinning != Pinning::Off {
            // The child may end while its threads are looked at.
            if pin::pin_vcpus(child.id(), pinning).unwrap_or(false) {
                pinning = Pinning::Off;
            }
            thread::sleep(LOOK_EVERY_FOR_THREADS);
        } else {
            thread::sleep(LOOK_EVERY);
        }
    }
}

fn end_of(status: ExitStatus) -> End {
    match status.success() {
        true => End::Success,
        false => End::Status(status.to_string()),
    }
}

/// Watches a growing console for records, so that a hang is told from a long work.
struct Watch<'a> {
    console: &'a Path,
    job: &'a Job<'a>,
    len: u64,
    changed: Instant,
    is_booted: bool,
    is_done: bool,
}

impl<'a> Watch<'a> {
    fn new(console: &'a Path, job: &'a Job<'a>) -> Self {
        let changed = Instant::now();
        Self {
            console,
            job,
            len: 0,
            changed,
            is_booted: false,
            is_done: false,
        }
    }

    /// Says what took too long, if something did.
    fn look(&mut self) -> Option<String> {
        let len = fs::metadata(self.console).map_or(0, |meta| meta.len());
        if len != self.len {
            self.len = len;
            let text = read_bounded(self.console).unwrap_or_default();
            self.is_done |= contains(&text, b"\"done\"");
            self.is_booted |= contains(&text, record::PREFIX.as_bytes());
            // Kernel messages do not extend the time to the first record.
            if self.is_booted {
                self.changed = Instant::now();
            }
        }
        let (limit, what) = match (self.is_booted, self.is_done) {
            (_, true) => (POWER_OFF_TIMEOUT, "did not power off after its last record"),
            (true, false) => (self.job.work_timeout, "sent nothing more"),
            (false, false) => (self.job.boot_timeout, "did not reach its init"),
        };
        (self.changed.elapsed() > limit)
            .then(|| format!("the guest {what} for {} s", limit.as_secs()))
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(bytes)
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
