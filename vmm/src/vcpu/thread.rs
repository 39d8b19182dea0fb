//! The thread that owns one vCPU: run, dispatch, obey commands, report why it ended.
//!
//! Commands come over a channel, followed by a kick. The thread looks at its channel before each
//! entry, and a kick that comes between that look and the entry makes the entry return at once
//! (`kick`), so no command waits for the guest.
//!
//! A pause completes the pending exit first: KVM finishes port, MMIO and MSR instructions only on
//! the next `KVM_RUN`, so a vCPU whose answer is still in `kvm_run` has no state worth looking at.

use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use coopvirt_spec::mark::Mark;
use kvm_ioctls::VcpuFd;

use super::dispatch::{self, Buses, CoopVcpu, Outcome};
use super::own::OwnFd;
use super::tally::{Kind, Tally};
use super::{exit, kick, pin};
use crate::coop::Coop;
use crate::event::MachineEvent;
use crate::mem::GuestRam;

/// A vCPU leaves the guest within microseconds, and what it does for the guest is short. One that takes
/// longer (a device that waits for a dead server) must not keep the machine from ending. A host that is out of CPUs can
/// keep a thread from running for seconds, which is no reason to end without it.
pub const END_LIMIT: Duration = Duration::from_secs(10);

/// Told of marks by the vCPU thread that made them, before the guest runs on.
pub trait VcpuEvent: Send + Sync {
    /// `vcpu` made `mark`.
    fn mark(&self, vcpu: u8, mark: Mark);
}

/// What a vCPU thread is made from.
pub struct VcpuParts {
    /// Its number, which is also its APIC ID.
    pub id: u8,
    /// The vCPU.
    pub fd: VcpuFd,
    /// Where its exits go.
    pub buses: Arc<Buses>,
    /// Where its returns to userspace are counted.
    pub tally: Arc<Tally>,
    /// Told of marks.
    pub observer: Arc<dyn VcpuEvent>,
    /// Told why the thread ended, if it was not told to.
    pub events: Sender<MachineEvent>,
    /// The cooperative interface, if the machine has it.
    pub coop: Option<Arc<Coop>>,
    /// Host CPU to run on.
    pub host_cpu: Option<usize>,
    /// Guest memory: a thread that does not end in time keeps it, and its vCPU may still use it.
    pub ram: GuestRam,
}

type Job = Box<dyn FnOnce(&mut VcpuFd) + Send>;

enum Command {
    Pause(Sender<()>),
    Resume,
    Do(Job),
    /// Whoever holds the other end sees this one go when the thread ends.
    Stop(#[expect(dead_code, reason = "nothing is ever sent")] Sender<()>),
}

/// The way to a vCPU thread. Dropping it stops the thread, or leaves it alone if that takes too long.
pub struct VcpuHandle {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
    is_stuck: AtomicBool,
}

impl VcpuHandle {
    /// Starts the thread, paused: the guest runs from the first [`resume`](Self::resume) on.
    pub fn spawn(parts: VcpuParts) -> io::Result<Self> {
        kick::install().map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        let (commands, inbox) = channel();
        let (id, events) = (parts.id, parts.events.clone());
        let thread = Builder::new()
            .name(format!("vcpu{id}"))
            .stack_size(256 << 10)
            .spawn(move || {
                // A panicking vCPU must end the machine, not hang it.
                let ended = catch_unwind(AssertUnwindSafe(|| Vcpu::new(parts, inbox).run()));
                let event = match ended {
                    Ok(Ok(Some(event))) => event,
                    Ok(Ok(None)) => return,
                    Ok(Err(what)) => MachineEvent::VcpuFailed { vcpu: id, what },
                    Err(_) => MachineEvent::VcpuFailed {
                        vcpu: id,
                        what: "its thread panicked".into(),
                    },
                };
                // The machine's owner may be gone already; then nobody needs to know.
                let _ = events.send(event);
            })?;
        Ok(Self {
            commands,
            thread: Some(thread),
            is_stuck: AtomicBool::new(false),
        })
    }

    /// Stops guest code; returns when the vCPU is out of the guest and its state is complete.
    /// False if the thread has ended.
    pub fn pause(&self) -> bool {
        self.begin_pause()
            .is_some_and(|paused| paused.recv().is_ok())
    }

    /// Asks for a pause; the message says that the vCPU is out of the guest. `None` if the thread
    /// has ended.
    pub fn begin_pause(&self) -> Option<Receiver<()>> {
        let (sender, paused) = channel();
        self.send(Command::Pause(sender)).then_some(paused)
    }

    /// Waits until `paused`, from [`begin_pause`](Self::begin_pause), says so. False: not by then, so
    /// nobody waits for this vCPU any more.
    pub fn await_pause(&self, paused: &Receiver<()>, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let is_stuck = paused.recv_timeout(left) == Err(RecvTimeoutError::Timeout);
        // Relaxed: the flag guards no other data.
        self.is_stuck.store(is_stuck, Ordering::Relaxed);
        !is_stuck
    }

    /// Lets guest code run (again).
    pub fn resume(&self) -> bool {
        self.send(Command::Resume)
    }

    /// Runs `job` on the vCPU's own thread, between two runs of the guest, and returns its result;
    /// `None` if the thread has ended.
    pub fn on_thread<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut VcpuFd) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, result) = channel();
        let job: Job = Box::new(move |fd| {
            // The caller waits for it below, unless it panicked.
            let _ = sender.send(job(fd));
        });
        if !self.send(Command::Do(job)) {
            return None;
        }
        result.recv().ok()
    }

    /// Gets the vCPU out of the guest; it goes back in by itself if it has nothing else to do.
    pub fn kick(&self) {
        if let Some(thread) = &self.thread {
            kick::send(thread.as_pthread_t());
        }
    }

    fn send(&self, command: Command) -> bool {
        let sent = self.commands.send(command).is_ok();
        self.kick();
        sent
    }
}

impl Drop for VcpuHandle {
    fn drop(&mut self) {
        let (ending, ended) = channel();
        self.send(Command::Stop(ending));
        let limit = match self.is_stuck.load(Ordering::Relaxed) {
            true => Duration::ZERO,
            false => END_LIMIT,
        };
        if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            // It ends when it can, or with the process.
            return;
        }
        if let Some(thread) = self.thread.take() {
            // A panic in it has been caught and reported.
            let _ = thread.join();
        }
    }
}

struct Vcpu {
    parts: VcpuParts,
    inbox: Receiver<Command>,
    running: bool,
}

/// Why one entry ended, as far as the loop cares.
enum Step {
    Continue,
    End(MachineEvent),
}

impl Vcpu {
    fn new(parts: VcpuParts, inbox: Receiver<Command>) -> Self {
        Self {
            parts,
            inbox,
            running: false,
        }
    }

    /// Runs until told to stop (`None`) or until the vCPU ends by itself.
    fn run(mut self) -> Result<Option<MachineEvent>, String> {
        if let Some(cpu) = self.parts.host_cpu {
            pin::pin_current_thread(&[cpu])
                .map_err(|e| format!("could not pin to CPU {cpu}: {e}"))?;
        }
        let _attached = kick::attach(self.parts.fd.get_kvm_run());
        loop {
            if !self.obey()? {
                return Ok(None);
            }
            if let Step::End(event) = self.enter()? {
                return Ok(Some(event));
            }
        }
    }

    /// Carries out waiting commands; waits for some while paused. False: stop.
    fn obey(&mut self) -> Result<bool, String> {
        loop {
            let command = if self.running {
                match self.inbox.try_recv() {
                    Ok(command) => command,
                    Err(TryRecvError::Empty) => return Ok(true),
                    Err(TryRecvError::Disconnected) => return Ok(false),
                }
            } else {
                match self.inbox.recv() {
                    Ok(command) => command,
                    Err(_) => return Ok(false),
                }
            };
            match command {
                Command::Stop(_) => return Ok(false),
                Command::Resume => self.running = true,
                Command::Do(job) => job(&mut self.parts.fd),
                Command::Pause(paused) => {
                    self.complete_pending_exit()?;
                    self.running = false;
                    // The asker may have given up waiting.
                    let _ = paused.send(());
                }
            }
        }
    }

    /// Enters KVM only to let it finish the instruction that caused the last exit.
    fn complete_pending_exit(&mut self) -> Result<(), String> {
        if !self.running {
            return Ok(());
        }
        // An instruction can need several exits (a wide MMIO access); each is served, and the one
        // that finds nothing more to do returns EINTR. Real instructions need fewer than eight.
        for _ in 0..64 {
            self.parts.fd.set_kvm_immediate_exit(1);
            match self.parts.fd.run() {
                Err(error) if error.errno() == libc::EINTR => {
                    self.parts.tally.count(Kind::Interrupted);
                    self.parts.fd.set_kvm_immediate_exit(0);
                    return Ok(());
                }
                Err(error) => return Err(format!("pausing: {error}")),
                Ok(_) => {
                    if let Step::End(event) = self.serve() {
                        // The event is sent here, as the caller only knows "paused".
                        let _ = self.parts.events.send(event);
                    }
                }
            }
        }
        Err("an instruction did not complete while pausing".into())
    }

    /// Runs the guest until its next exit to userspace and serves that.
    fn enter(&mut self) -> Result<Step, String> {
        match self.parts.fd.run() {
            Ok(_) => Ok(self.serve()),
            Err(error) => match error.errno() {
                libc::EINTR => {
                    self.parts.tally.count(Kind::Interrupted);
                    self.parts.fd.set_kvm_immediate_exit(0);
                    Ok(Step::Continue)
                }
                // A vCPU that waits for its start-up IPI comes back when that arrives.
                libc::EAGAIN => {
                    self.parts.tally.count(Kind::NotStarted);
                    Ok(Step::Continue)
                }
                _ => Err(format!("KVM_RUN: {error}")),
            },
        }
    }

    fn serve(&mut self) -> Step {
        let parts = &mut self.parts;
        let exit = exit::parse(parts.fd.get_kvm_run());
        parts.tally.count(dispatch::kind(&exit));
        let coop = parts.coop.as_deref().map(|coop| CoopVcpu {
            coop,
            vcpu: parts.id,
        });
        match dispatch::dispatch(exit, &parts.buses, coop) {
            Outcome::Continue => Step::Continue,
            Outcome::Mark(mark) => {
                parts.observer.mark(parts.id, mark);
                Step::Continue
            }
            Outcome::SetUp { msr, value } => {
                if let Some(coop) = &parts.coop {
                    coop.write_register(parts.id, msr, value, &OwnFd(&parts.fd));
                }
                Step::Continue
            }
            Outcome::Doorbell => {
                if let Some(coop) = &parts.coop {
                    coop.ring_sync(parts.id, &OwnFd(&parts.fd));
                }
                Step::Continue
            }
            Outcome::Halt => {
                if let Some(coop) = &parts.coop {
                    coop.ring_halt(parts.id, &OwnFd(&parts.fd));
                }
                Step::Continue
            }
            Outcome::TripleFault => Step::End(MachineEvent::TripleFault),
            Outcome::Reset => Step::End(MachineEvent::Reset),
            Outcome::Crash => Step::End(MachineEvent::Panicked),
            Outcome::Fail(what) => Step::End(MachineEvent::VcpuFailed {
                vcpu: parts.id,
                what,
            }),
        }
    }
}
