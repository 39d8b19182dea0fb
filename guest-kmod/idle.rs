// SPDX-License-Identifier: GPL-2.0
//! The idle driver: how a CPU waits for work. What is worth polling for is [`guest_shim::idle::IdlePolicy`]'s matter.
//!
//! Called by the idle task of each CPU with interrupts off. Between two calls of [`cpus::with_this`]
//! interrupts are handled here, which use the same session: nothing is held across a wait.

use core::sync::atomic::{AtomicBool, Ordering};

use coopvirt_spec::page::{at, Idle as Word};
use guest_shim::idle::{Plan, NO_TIMER};
use guest_shim::Cpu;

use crate::cpus::{self, ThisCpu};
use crate::flavour::{pr_warn, Result};
use crate::platform::{self, read_tsc, IdleTask, Registration, Watch};
use crate::timer;

/// Whether the driver is registered: only then is the host told not to poll.
static IS_REGISTERED: AtomicBool = AtomicBool::new(false);

/// The CPU has an area: from now on it may wait with the host's help.
pub(crate) fn start(cpu: &mut ThisCpu) {
    if IS_REGISTERED.load(Ordering::Relaxed) {
        cpu.idle.start(cpu.session.cpu());
        cpu.session.halts_by_doorbell(true);
    }
}

/// The CPU is about to lose its area, or the driver goes: as it was before.
pub(crate) fn stop(cpu: &mut ThisCpu) {
    cpu.session.halts_by_doorbell(false);
    cpu.idle.stop(cpu.session.cpu());
}

/// Waits once, by polling or by halting. The caller looks for work, and comes again if there is none:
/// after polling in vain, too, because the interrupts meanwhile may have changed the next timer.
/// Whether the next wait is to begin with the tick stopped, which comes every `tick_ns`.
pub(crate) fn wait(mut task: IdleTask, timer_ns: i64, tick_ns: u32) -> bool {
    let wants_no_tick = match cpus::with_this(|cpu| plan(cpu, timer_ns, tick_ns)) {
        // Its handler leaves a timer that it has not set, of a tick that is stopped, to the idle loop.
        Some(Err(vector)) => {
            task.handle(vector);
            task.end();
            cpus::with_this(can_do_without_tick)
        }
        Some(Ok((Plan::Poll { until_tsc }, watch))) => {
            task.poll(watch, watch_until(until_tsc));
            let ended = in_turn(&mut task, polled);
            if ended.is_none() {
                task.end();
            }
            ended
        }
        Some(Ok((Plan::Halt, _))) => {
            let port = || cpus::with_this(|cpu| cpu.session.halt_port()).flatten();
            let has_work = task.halt(port);
            cpus::with_this(|cpu| halted(cpu, has_work))
        }
        // The module goes.
        None => {
            task.halt(|| None);
            None
        }
    };
    wants_no_tick == Some(true)
}

/// Calls `f` until it gives no vector any more, and meanwhile the handlers of those that it gives. Each is taken
/// once, so these are a few. `None`: the module goes.
fn in_turn<R>(
    task: &mut IdleTask,
    mut f: impl FnMut(&mut ThisCpu, &mut IdleTask) -> Result<R, u8>,
) -> Option<R> {
    loop {
        match cpus::with_this(|cpu| f(cpu, task))? {
            Ok(result) => return Some(result),
            Err(vector) => task.handle(vector),
        }
    }
}

/// How to wait, and what to watch meanwhile; or the vector of a tick that is due: its handler first.
fn plan(cpu: &mut ThisCpu, timer_ns: i64, tick_ns: u32) -> Result<(Plan, Option<Watch>), u8> {
    let now = read_tsc();
    take_due(cpu, now)?;
    if cpu.idle.tick_tsc == 0 {
        cpu.idle.tick_tsc = tsc_after(0, tick_ns.into());
    }
    cpu.idle.tick.enter(now);
    let due = due_tsc(cpu, now, timer_ns);
    let hints = cpu.session.hints();
    let plan = cpu.idle.policy.enter(now, due, hints);
    let mut watch = None;
    match plan {
        Plan::Poll { until_tsc } => {
            cpu.session.say_idle(Word::Polls);
            // Before the first post can come.
            watch = watch_of(cpu, until_tsc);
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
    Ok((plan, watch))
}

/// Polling is over. No interrupt is posted from here on; first the handler of the one that came last, and of a tick
/// that is due by now: what comes next may take long.
fn polled(cpu: &mut ThisCpu, task: &mut IdleTask) -> Result<bool, u8> {
    cpu.session.refuse_posts().map_or(Ok(()), Err)?;
    let now = read_tsc();
    take_due(cpu, now)?;
    let has_work = task.end();
    timer::rescue(cpu, now);
    cpu.session.say_idle(Word::Runs);
    cpu.idle.policy.polled(now, has_work);
    if has_work {
        cpu.session.count_polled();
    }
    Ok(wants_no_tick(cpu, now, has_work))
}

fn halted(cpu: &mut ThisCpu, has_work: bool) -> bool {
    let now = read_tsc();
    timer::rescue(cpu, now);
    cpu.session.say_idle(Word::Runs);
    cpu.idle.policy.halted(now, has_work);
    wants_no_tick(cpu, now, has_work)
}

/// A tick that is due, and for which the host has some time still.
fn take_due(cpu: &mut ThisCpu, now_tsc: u64) -> Result<(), u8> {
    let Some(vector) = cpu.session.take_due(now_tsc) else {
        return Ok(());
    };
    cpu.idle.taken += 1;
    Err(vector)
}

/// Stopping the tick sets the timer, and so does going on: only where that is no exit.
fn wants_no_tick(cpu: &mut ThisCpu, now_tsc: u64, has_work: bool) -> bool {
    cpu.idle.tick.left(now_tsc, has_work, cpu.idle.tick_tsc);
    let wants = can_do_without_tick(cpu);
    cpu.idle.tickless += u64::from(wants && has_work);
    wants
}

fn can_do_without_tick(cpu: &mut ThisCpu) -> bool {
    platform::params().tick
        && timer::is_hooked()
        && cpu.session.sets_deadlines_freely()
        && cpu.idle.tick.wants_none(cpu.idle.tick_tsc)
}

/// The word of posted interrupts, until then or until the vCPU's own tick is due.
fn watch_of(cpu: &ThisCpu, until_tsc: u64) -> Option<Watch> {
    let until_tsc = until_tsc.min(cpu.session.own_due_tsc());
    cpu.session.cpu().area().watch(at::POSTED, until_tsc)
}

/// A look of the polling loop: what has come is handled. What to watch until the next one, if the time is not over and
/// nobody else wants the CPU.
fn watch_until(until_tsc: u64) -> impl FnMut(&mut IdleTask) -> Option<Watch> {
    move |task| {
        let now = read_tsc();
        let look = |cpu: &mut ThisCpu| {
            // Before the look: what comes between the two is found changed.
            let watch = watch_of(cpu, until_tsc);
            let vector = cpu.session.posted().or_else(|| take_due(cpu, now).err());
            let goes_on = now < until_tsc && !cpu.session.hints().is_contended();
            (watch.filter(|_| goes_on), vector)
        };
        let (watch, vector) = cpus::with_this(look)?;
        if let Some(vector) = vector {
            task.handle(vector);
        }
        watch
    }
}

/// When the next timer interrupt is due. The timer hook knows that already, in steps of the TSC.
fn due_tsc(cpu: &ThisCpu, now_tsc: u64, timer_ns: i64) -> u64 {
    match (timer::is_hooked(), cpu.session.interrupt_tsc()) {
        (false, _) => tsc_after(now_tsc, platform::ns_until(timer_ns)),
        (true, 0) => NO_TIMER,
        (true, interrupt_tsc) => interrupt_tsc,
    }
}

/// The TSC after a time.
fn tsc_after(now_tsc: u64, ns: i64) -> u64 {
    if ns == i64::MAX {
        return NO_TIMER;
    }
    let ns = u64::try_from(ns).unwrap_or(0);
    let steps = u128::from(ns) * u128::from(platform::tsc_steps_per_ns_32()) >> 32;
    now_tsc.saturating_add(u64::try_from(steps).unwrap_or(u64::MAX))
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
                cpus::for_all(start);
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
        cpus::for_all(stop);
    }
}
