//! Builds the command line of a guest and runs it as a child, with a time limit.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};

use crate::lab::{self, Lab};
use crate::outcome::Outcome;

/// Longest life of a guest: it takes some 10 s, but the machine may have more to do.
const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);
/// So long after its writer's end, a stream that brings nothing more has brought all.
const QUIET: Duration = Duration::from_millis(300);

/// Which of a kernel's files is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// The bzImage, by the 64-bit boot protocol.
    Vmlinuz,
    /// The ELF file, by PVH.
    Vmlinux,
}

/// Where the guest's console is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// virtio-console.
    Virtio,
    /// COM1.
    Serial,
}

/// A guest to be run: a kernel, its command line and `coopvirt run`'s arguments.
#[derive(Clone, Debug)]
pub struct Guest {
    lab: Lab,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    cpus: u32,
    memory: String,
    console: Console,
    cmdline: Vec<String>,
    arguments: Vec<OsString>,
    prefix: Vec<OsString>,
    limit: Duration,
}

impl Guest {
    /// A guest with the usual kernel, one vCPU, 256 MiB and virtio console, which does no works.
    pub fn new() -> Self {
        Self::with_kernel(lab::KERNEL, Image::Vmlinux)
    }

    /// The same with this kernel.
    pub fn with_kernel(kernel: &str, image: Image) -> Self {
        let lab = Lab::find();
        let file = match image {
            Image::Vmlinuz => "vmlinuz",
            Image::Vmlinux => "vmlinux",
        };
        Self {
            initrd: Some(lab.initrd(kernel)),
            ..Self::with_file(&lab.kernel_file(kernel, file))
        }
    }

    /// A guest whose kernel is this file, without initramfs.
    pub fn with_file(kernel: &Path) -> Self {
        Self {
            kernel: kernel.to_path_buf(),
            initrd: None,
            lab: Lab::find(),
            cpus: 1,
            memory: "256M".into(),
            console: Console::Virtio,
            cmdline: ["panic=-1", "quiet", "coopvirt.works=none"]
                .map(String::from)
                .into(),
            arguments: Vec::new(),
            prefix: Vec::new(),
            limit: LIMIT,
        }
    }

    /// Leaves the initramfs out.
    pub fn without_initrd(mut self) -> Self {
        self.initrd = None;
        self
    }

    /// Number of vCPUs.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Memory size, with its unit.
    pub fn memory(mut self, memory: &str) -> Self {
        self.memory = memory.into();
        self
    }

    /// Where the console is.
    pub fn console(mut self, console: Console) -> Self {
        self.console = console;
        self
    }

    /// More words for the kernel's command line. A later word overrides an earlier one.
    pub fn cmdline(mut self, words: &str) -> Self {
        self.cmdline
            .extend(words.split_whitespace().map(String::from));
        self
    }

    /// The works that init does.
    pub fn works(self, works: &str) -> Self {
        self.cmdline(&format!("coopvirt.works={works}"))
    }

    /// How init ends.
    pub fn end(self, how: &str) -> Self {
        self.cmdline(&format!("coopvirt.end={how}"))
    }

    /// More arguments for `coopvirt run`.
    pub fn arguments<S: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// A program that gets the whole command as its arguments: `unshare`, `setpriv`.
    pub fn prefix<S: Into<OsString>>(mut self, prefix: impl IntoIterator<Item = S>) -> Self {
        self.prefix.extend(prefix.into_iter().map(Into::into));
        self
    }

    /// Another time limit.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The longest life of this guest.
    pub fn time_limit(&self) -> Duration {
        self.limit
    }

    /// The command that runs it, without its standard streams.
    pub fn command(&self) -> Command {
        let mut words = self.prefix.clone();
        words.extend([self.lab.program.clone().into(), "run".into()]);
        words.extend(["--kernel".into(), self.kernel.clone().into()]);
        if let Some(initrd) = &self.initrd {
            words.extend(["--initrd".into(), initrd.clone().into()]);
        }
        let (console, tty) = match self.console {
            Console::Virtio => ("virtio", "hvc0"),
            Console::Serial => ("serial", "ttyS0"),
        };
        let cmdline = format!("console={tty} {}", self.cmdline.join(" "));
        for (name, value) in [
            ("--cpus", self.cpus.to_string()),
            ("--memory", self.memory.clone()),
            ("--console", console.to_owned()),
            ("--cmdline", cmdline),
        ] {
            words.extend([name.into(), value.into()]);
        }
        words.extend(self.arguments.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }

    /// Starts it, with nothing on its standard input.
    pub fn start(&self) -> Running {
        let mut command = self.command();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let title = format!("{command:?}");
        let mut child = command.spawn().expect("coopvirt can be started");
        let stdout = Collector::start(child.stdout.take().expect("piped above"));
        let stderr = Collector::start(child.stderr.take().expect("piped above"));
        Running::new(title, child, stdout, Some(stderr), self.limit)
    }

    /// Runs it to its end.
    pub fn run(&self) -> Outcome {
        self.start().finish()
    }
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads a stream to its end on a thread of its own.
#[derive(Debug)]
pub struct Collector {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Collector {
    /// Starts reading.
    pub fn start(mut source: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 4096];
            // An error is an end too: a terminal gives EIO when the other side is closed.
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                let mut bytes = sink.lock().unwrap_or_else(PoisonError::into_inner);
                bytes.extend_from_slice(&buffer[..count]);
            }
        });
        Self { bytes, thread }
    }

    /// What has come so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    fn bytes(&self) -> Vec<u8> {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.clone()
    }

    /// Everything. Called when the writer has ended: a pipe then ends too, a terminal is quiet.
    fn finish(self) -> Vec<u8> {
        let mut bytes = self.bytes();
        while !self.thread.is_finished() {
            thread::sleep(QUIET);
            let more = self.bytes();
            if more.len() == bytes.len() {
                break;
            }
            bytes = more;
        }
        self.bytes()
    }
}

/// A guest while it runs. It never outlives its test.
#[derive(Debug)]
pub struct Running {
    title: String,
    child: Child,
    console: Option<Collector>,
    stderr: Option<Collector>,
    started: Instant,
    limit: Duration,
}

impl Running {
    /// A child with its streams; without `stderr`, all that it says comes on its console.
    pub fn new(
        title: String,
        child: Child,
        console: Collector,
        stderr: Option<Collector>,
        limit: Duration,
    ) -> Self {
        Self {
            title,
            child,
            console: Some(console),
            stderr,
            started: Instant::now(),
            limit,
        }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What has come on the console so far.
    pub fn text(&self) -> String {
        self.console
            .as_ref()
            .map(Collector::text)
            .unwrap_or_default()
    }

    /// Waits until the console shows `text`; panics if the guest ends or the time is over.
    pub fn wait_for(&mut self, text: &str) {
        self.wait_until(&format!("{text:?} did not come"), |shown| {
            shown.contains(text)
        });
    }

    fn wait_until(&mut self, what: &str, is_there: impl Fn(&str) -> bool) {
        while !is_there(&self.text()) {
            let has_ended = self.child.try_wait().expect("our own child").is_some();
            // What came last may have been read just now.
            if (has_ended && !is_there(&self.text())) || self.started.elapsed() > self.limit {
                self.give_up(what);
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until the console has shown `text` so often.
    pub fn wait_for_times(&mut self, text: &str, times: usize) {
        let what = format!("{text:?} did not come {times} times");
        self.wait_until(&what, |shown| shown.matches(text).count() >= times);
    }

    /// How much memory it has in use, in KiB (the `Rss` of all its mappings).
    pub fn resident_kib(&self) -> u64 {
        self.memory_kib("Rss:")
    }

    /// What the kernel says of all its mappings together, in KiB: `Rss:`, `Pss:`, ...
    pub fn memory_kib(&self, what: &str) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = std::fs::read_to_string(path).expect("our own child");
        let line = text.lines().find_map(|line| line.strip_prefix(what));
        let number = line.and_then(|line| line.split_whitespace().next());
        let number = number.and_then(|number| number.parse().ok());
        number.expect("NAME: N kB")
    }

    /// How many files it has open whose names begin so (`socket:`, or nothing for all).
    pub fn open_files(&self, name: &str) -> usize {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        let files = files.expect("our own child").flatten();
        let names = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        names
            .filter(|path| path.to_string_lossy().starts_with(name))
            .count()
    }

    /// CPU time that its threads have had whose names begin so.
    pub fn cpu_time(&self, name: &str) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let tasks = tasks.expect("our own child").flatten();
        let read = |task: &std::fs::DirEntry, file| std::fs::read_to_string(task.path().join(file));
        let times = tasks
            .filter(|task| read(task, "comm").is_ok_and(|comm| comm.starts_with(name)))
            .filter_map(|task| {
                let text = read(&task, "schedstat").ok()?;
                text.split_whitespace().next()?.parse::<u64>().ok()
            });
        Duration::from_nanos(times.sum())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("our own child, not waited for yet");
    }

    /// Waits for its end; panics, with the end of its console, if the time is over.
    pub fn finish(mut self) -> Outcome {
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return self.outcome(status);
            }
            if self.started.elapsed() > self.limit {
                self.give_up("the guest did not end");
            }
            thread::sleep(POLL);
        }
    }

    fn outcome(&mut self, status: ExitStatus) -> Outcome {
        let finish =
            |collector: Option<Collector>| collector.map(Collector::finish).unwrap_or_default();
        Outcome::new(
            std::mem::take(&mut self.title),
            status,
            finish(self.console.take()),
            &finish(self.stderr.take()),
        )
    }

    /// Ends it and panics; the outcome keeps the evidence on its way out.
    fn give_up(&mut self, what: &str) -> ! {
        let waited = self.started.elapsed();
        let _ = self.child.kill();
        let status = self.child.wait().expect("our own child");
        let _evidence = self.outcome(status);
        panic!("{what} within {} s", waited.as_secs());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After `finish` these do nothing.
        let _ = self.child.kill();
        let status = self.child.wait();
        // A test that fails in between has evidence as well: the outcome keeps it.
        if let (true, true, Ok(status)) = (thread::panicking(), self.console.is_some(), status) {
            drop(self.outcome(status));
        }
    }
}
