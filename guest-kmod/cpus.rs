// SPDX-License-Identifier: GPL-2.0
//! The sessions: one for each CPU that can be there, used on it alone with interrupts off.
//!
//! Opened when the CPU comes up, closed before it goes (`[LIFE-4]`); the hooks reach them by
//! [`with_this`]. A session without an area takes the stock path, so nobody has to ask first.

use core::sync::atomic::{AtomicBool, Ordering};

use coopvirt_spec::discover::Offer;
use coopvirt_spec::version::Features;
use guest_shim::patience::Patience;
use guest_shim::{OpenError, Options, Session};

use crate::flavour::{pr_warn, Result};
use crate::idle;
use crate::idle_cpu::IdleCpu;
use crate::platform::{self, Area, KernelCpu, PerCpu, Registration};
use crate::timer::TimerCpu;

/// What belongs to one CPU.
pub(crate) struct ThisCpu {
    /// Its session.
    pub(crate) session: Session<KernelCpu>,
    /// How the last attempt to open it ended.
    pub(crate) opened: Option<Result<Features, OpenError>>,
    /// What the idle driver knows.
    pub(crate) idle: IdleCpu,
    /// What the timer hook knows.
    pub(crate) timer: TimerCpu,
    /// How long its interrupts wait for their targets.
    pub(crate) patience: Patience,
}

static CPUS: PerCpu<ThisCpu> = PerCpu::new();

/// Set once the kernel is about to end: nothing is opened any more.
static IS_ENDING: AtomicBool = AtomicBool::new(false);

/// Calls `f` with what belongs to the CPU that it runs on, with interrupts off.
///
/// `None`: the module is going, or this is an NMI that came into another call.
pub(crate) fn with_this<R>(f: impl FnOnce(&mut ThisCpu) -> R) -> Option<R> {
    CPUS.with(f)
}

/// Calls `f` on every CPU that is online, with what belongs to it.
pub(crate) fn for_all(f: impl Fn(&mut ThisCpu) + Sync) {
    platform::with_cpus_locked(|| {
        platform::call_all(|| {
            let _ = with_this(&f);
        });
    });
}

/// Opens this CPU's session.
pub(crate) fn open_this() {
    if IS_ENDING.load(Ordering::Relaxed) {
        return;
    }
    let result = with_this(|cpu| {
        let result = cpu.session.open();
        cpu.opened = Some(result);
        idle::start(cpu);
        result
    });
    if let Some(Err(error)) = result {
        pr_warn!("a CPU goes without: {}\n", error);
    }
}

/// Closes this CPU's session.
pub(crate) fn close_this() {
    let _ = with_this(close);
}

fn close(cpu: &mut ThisCpu) {
    idle::stop(cpu);
    cpu.session.close();
}

/// Closes all sessions for good. The hooks stay, and take the stock path.
pub(crate) fn shut_down() {
    IS_ENDING.store(true, Ordering::Relaxed);
    for_all(close);
}

/// All sessions, from load to unload.
pub(crate) struct Cpus {
    hotplug: Option<Registration>,
}

impl Cpus {
    /// Opens the session of every CPU that is online.
    pub(crate) fn open(offer: &Offer, options: Options) -> Result<Self> {
        let area_bytes = offer.layout.area_bytes();
        let mut cpus = Self { hotplug: None };
        CPUS.fill(|cpu| {
            let area = Area::allocate(cpu, area_bytes)?;
            Ok(ThisCpu {
                session: Session::new(KernelCpu::new(area), options),
                opened: None,
                idle: IdleCpu::new(),
                timer: TimerCpu::new(),
                patience: Patience::new(),
            })
        })?;
        cpus.hotplug = Some(Registration::hotplug()?);
        Ok(cpus)
    }

    /// The first reason why a CPU that is online has no area.
    pub(crate) fn first_error(&self) -> Option<OpenError> {
        let mut all = (0..platform::nr_cpus()).filter(|&cpu| platform::is_online(cpu));
        all.find_map(|cpu| opened(cpu)?.err())
    }
}

/// How opening the session of another CPU ended; `None` if it is offline.
fn opened(cpu: u32) -> Option<Result<Features, OpenError>> {
    platform::call_on(cpu, || with_this(|cpu| cpu.opened))
        .flatten()
        .flatten()
}

impl Drop for Cpus {
    fn drop(&mut self) {
        // Closes every session on its own CPU; after that no CPU comes or goes with us.
        self.hotplug = None;
        CPUS.clear();
    }
}
