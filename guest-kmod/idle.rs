// SPDX-License-Identifier: GPL-2.0
//! The idle driver: how a CPU waits for work. What is worth polling for is [`IdlePolicy`]'s matter.
//!
//! Called by the idle task of each CPU with interrupts off. Between two calls of [`cpus::with_this`]
//! interrupts are handled here, which use the same session: nothing is held across a wait.

use core::sync::atomic::{AtomicBool, Ordering};

use coopvirt_spec::discover::{HYPERVISOR_PRESENT, SCAN_END, SCAN_FIRST, SCAN_STEP};
use coopvirt_spec::page::Idle as Word;
use guest_shim::idle::{IdlePolicy, Plan, NO_TIMER};
use guest_shim::tick::TickPolicy;
use guest_shim::Cpu;

use crate::cpus::{self, ThisCpu};
use crate::flavour::{pr_warn, Result};
use crate::platform::{self, cpuid, read_tsc, IdleTask, KernelCpu, Registration};
use crate::timer;

/// KVM's switch for its own polling after a halt, and the feature bit that announces it.
const MSR_KVM_POLL_CONTROL: u32 = 0x4b56_4d05;
const KVM_FEATURE_POLL_CONTROL: u32 = 1 << 12;

/// Turns of the polling loop between two looks at the host's hints.
const TURNS_PER_LOOK: u32 = 64;
/// Exits of which the fastest gives the first guess of what a halt costs.
const GUESSES: u32 = 4;

/// Whether the driver is registered: only then is the host told not to poll.
static IS_REGISTERED: AtomicBool = AtomicBool::new(false);

/// What is kept for each CPU.
pub(crate) struct IdleCpu {
    /// What it has learnt.
    pub(crate) policy: IdlePolicy,
    /// Whether the host polls after a halt, if it can be told.
    host_polls: Option<bool>,
    /// Whether the tick is worth stopping, its period in steps of the TSC, and how often it was.
    tick: TickPolicy,
    tick_tsc: u64,
    tickless: u64,
    /// Whether handlers can be called for interrupts that are posted.
    can_handle: bool,
}

impl IdleCpu {
    pub(crate) const fn new() -> Self {
        Self {
            policy: IdlePolicy::new(),
            host_polls: None,
            tick: TickPolicy::new(),
            tick_tsc: 0,
            tickless: 0,
            can_handle: false,
        }
    }

    /// Waits that were to begin without a tick.
    pub(crate) const fn tickless(&self) -> u64 {
        self.tickless
    }

    /// The CPU has an area: from now on it may wait with the host's help.
    pub(crate) fn start(&mut self, cpu: &KernelCpu) {
        if !IS_REGISTERED.load(Ordering::Relaxed) {
            return;
        }
        self.policy.guess(fastest_exit_tsc());
        self.can_handle = platform::params().post && IdleTask::prepare_handling();
        self.host_polls = has_poll_control().then_some(true);
        self.let_host_poll(cpu, false);
    }

    /// The CPU is about to lose its area, or the driver goes: as it was before.
    pub(crate) fn stop(&mut self, cpu: &KernelCpu) {
        self.let_host_poll(cpu, true);
        self.host_polls = None;
    }

    /// Whether the host polls after a halt, as far as this module knows.
    pub(crate) fn does_host_poll(&self) -> bool {
        self.host_polls != Some(false)
    }

    /// Polling on both sides for the same work is one too many. An exit, if it is a change.
    fn let_host_poll(&mut self, cpu: &KernelCpu, polls: bool) {
        if self.host_polls == Some(!polls) && cpu.write_msr(MSR_KVM_POLL_CONTROL, u64::from(polls))
        {
            self.host_polls = Some(polls);
        }
    }
}

/// Waits once, by polling or by halting. The caller looks for work, and comes again if there is none:
/// after polling in vain, too, because the interrupts meanwhile may have changed the next timer.
/// Whether the next wait is to begin with the tick stopped, which comes every `tick_ns`.
pub(crate) fn wait(mut task: IdleTask, until_timer_ns: i64, tick_ns: u32) -> bool {
    let plan = cpus::with_this(|cpu| plan(cpu, until_timer_ns, tick_ns));
    let wants_no_tick = match plan {
        Some(Plan::Poll { until_tsc }) => {
            let has_work = task.poll(goes_on_until(until_tsc), take_last);
            cpus::with_this(|cpu| polled(cpu, has_work))
        }
        Some(Plan::Halt) => {
            let has_work = task.halt();
            cpus::with_this(|cpu| halted(cpu, has_work))
        }
        // The module goes.
        None => {
            task.halt();
            None
        }
    };
    wants_no_tick == Some(true)
}

fn plan(cpu: &mut ThisCpu, until_timer_ns: i64, tick_ns: u32) -> Plan {
    let now = read_tsc();
    if cpu.idle.tick_tsc == 0 {
        cpu.idle.tick_tsc = tsc_after(0, tick_ns.into());
    }
    cpu.idle.tick.enter(now);
    let due = tsc_after(now, until_timer_ns);
    let hints = cpu.session.hints();
    let plan = cpu.idle.policy.enter(now, due, hints);
    match plan {
        Plan::Poll { .. } => {
            cpu.session.say_idle(Word::Polls);
            if cpu.idle.can_handle {
                cpu.session.accept_posts();
            }
        }
        Plan::Halt => {
            cpu.session.say_idle(Word::Halts);
            cpu.session.count_halted();
        }
    }
    let host_polls = cpu.idle.policy.wants_host_polling();
    cpu.idle.let_host_poll(cpu.session.cpu(), host_polls);
    plan
}

fn polled(cpu: &mut ThisCpu, has_work: bool) -> bool {
    timer::rescue(cpu);
    cpu.session.say_idle(Word::Runs);
    let now = read_tsc();
    cpu.idle.policy.polled(now, has_work);
    if has_work {
        cpu.session.count_polled();
    }
    wants_no_tick(cpu, now, has_work)
}

fn halted(cpu: &mut ThisCpu, has_work: bool) -> bool {
    timer::rescue(cpu);
    cpu.session.say_idle(Word::Runs);
    let now = read_tsc();
    cpu.idle.policy.halted(now, has_work);
    wants_no_tick(cpu, now, has_work)
}

/// Stopping the tick sets the timer, and so does going on: only where that is no exit.
fn wants_no_tick(cpu: &mut ThisCpu, now_tsc: u64, has_work: bool) -> bool {
    let idle = &mut cpu.idle;
    idle.tick.left(now_tsc, has_work, idle.tick_tsc);
    let wants = platform::params().tick
        && timer::is_hooked()
        && cpu.session.sets_deadlines_freely()
        && idle.tick.wants_none(idle.tick_tsc);
    idle.tickless += u64::from(wants && has_work);
    wants
}

/// The condition of the polling loop: the time is not over, and nobody else wants the CPU.
fn goes_on_until(until_tsc: u64) -> impl FnMut(&mut IdleTask) -> bool {
    let mut turns = 0_u32;
    move |task| {
        turns = turns.wrapping_add(1);
        if let Some(vector) = cpus::with_this(|cpu| cpu.session.posted()).flatten() {
            task.handle(vector);
        }
        let is_contended = turns % TURNS_PER_LOOK == 0
            && cpus::with_this(|cpu| cpu.session.hints().is_contended()) == Some(true);
        !is_contended && read_tsc() < until_tsc
    }
}

/// No interrupt is posted from here on; the one that came last has its handler called.
fn take_last(task: &mut IdleTask) {
    if let Some(vector) = cpus::with_this(|cpu| cpu.session.refuse_posts()).flatten() {
        task.handle(vector);
    }
}

/// The TSC when the kernel's next timer is due.
fn tsc_after(now_tsc: u64, ns: i64) -> u64 {
    if ns == i64::MAX {
        return NO_TIMER;
    }
    let ns = u64::try_from(ns).unwrap_or(0);
    let steps = u128::from(ns) * u128::from(platform::tsc_steps_per_ns_32()) >> 32;
    now_tsc.saturating_add(u64::try_from(steps).unwrap_or(u64::MAX))
}

/// How long an exit takes that the host answers at once: CPUID always exits.
fn fastest_exit_tsc() -> u64 {
    let exit = |_| {
        let before = read_tsc();
        cpuid(0);
        read_tsc().saturating_sub(before)
    };
    (0..GUESSES).map(exit).min().unwrap_or(0)
}

/// Whether the host is KVM and can be told not to poll.
fn has_poll_control() -> bool {
    let mut bases = (SCAN_FIRST..SCAN_END).step_by(SCAN_STEP as usize);
    let is_kvm = |base: &u32| {
        let found = cpuid(*base);
        [found.ebx, found.ecx, found.edx] == [0x4b4d_564b, 0x564b_4d56, 0x4d]
    };
    cpuid(1).ecx & HYPERVISOR_PRESENT != 0
        && bases
            .find(is_kvm)
            .is_some_and(|base| cpuid(base + 1).eax & KVM_FEATURE_POLL_CONTROL != 0)
}

/// The driver, while it is registered.
pub(crate) struct Idle {
    registration: Option<Registration>,
}

impl Idle {
    /// Takes the kernel's idle slot, if it is free.
    pub(crate) fn register() -> Result<Self> {
        match Registration::idle() {
            Ok(registration) => {
                IS_REGISTERED.store(true, Ordering::Relaxed);
                cpus::for_all(|cpu| cpu.idle.start(cpu.session.cpu()));
                Ok(Self {
                    registration: Some(registration),
                })
            }
            Err(error) => {
                match platform::idle_owner() {
                    Some(name) => {
                        pr_warn!("idle is off: the kernel has the idle driver {}\n", name)
                    }
                    None => pr_warn!("idle is off: the kernel takes no idle driver\n"),
                }
                Err(error)
            }
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        IS_REGISTERED.store(false, Ordering::Relaxed);
        // First the driver, so that no CPU asks for a change any more.
        self.registration = None;
        cpus::for_all(|cpu| cpu.idle.stop(cpu.session.cpu()));
    }
}
