// SPDX-License-Identifier: GPL-2.0
//! The text of the files in /sys/kernel/debug/coopvirt. The format is documented in README.md.

use core::fmt::{self, Write};

use coopvirt_spec::counter::{GUEST_COUNTERS, HOST_COUNTERS};
use coopvirt_spec::discover::Offer;
use coopvirt_spec::mem::SharedMem;
use coopvirt_spec::page::at;
use guest_shim::lateness::Lateness;
use guest_shim::Cpu;

use crate::cpus::{self, ThisCpu};
use crate::features::Hook;
use crate::hook_figures;
use crate::platform::{self, Show};
use crate::selftest;

/// Writes the text of a file, by its number in glue/debugfs.c.
pub(crate) fn show(file: u32, to: &mut Show) {
    // `Show` takes everything; there is nobody to tell of an error.
    let _ = match file {
        0 => write_state(to),
        1 => write_params(to),
        2 => write_counters(to),
        3 => selftest::write(to),
        _ => Ok(()),
    };
}

fn write_state(to: &mut Show) -> fmt::Result {
    if let Some(offer) = Offer::find(platform::cpuid) {
        writeln!(to, "host {}", offer.version)?;
        writeln!(to, "offered {:?}", offer.features)?;
    }
    for (hook, name) in Hook::ALL {
        writeln!(to, "{name} {}", hook.outcome())?;
    }
    for cpu in (0..platform::nr_cpus()).filter(|&cpu| platform::is_possible(cpu)) {
        let state = platform::call_on(cpu, || {
            cpus::with_this(|cpu| (cpu.session.features(), cpu.opened))
        });
        match state.flatten() {
            None => writeln!(to, "cpu{cpu} offline")?,
            Some((_, Some(Err(error)))) => writeln!(to, "cpu{cpu} without an area: {error}")?,
            Some((features, _)) => writeln!(to, "cpu{cpu} {features:?}")?,
        }
    }
    Ok(())
}

fn write_params(to: &mut Show) -> fmt::Result {
    let params = platform::params();
    writeln!(to, "level {}", params.level)?;
    for (name, is_on) in [
        ("idle", params.idle),
        ("tick", params.tick),
        ("post", params.post),
        ("halt", params.halt),
        ("timer", params.timer),
        ("ipi", params.ipi),
        ("populate", params.populate),
        ("release", params.release),
        ("selftest", params.selftest),
    ] {
        writeln!(to, "{name} {}", u8::from(is_on))?;
    }
    Ok(())
}

/// A copy of one CPU's counters, made on it.
struct Copy {
    guest: [u64; 16],
    host: [u64; 16],
    lateness: Lateness,
    idle: [(&'static str, u64); 12],
}

impl Copy {
    fn of(cpu: &ThisCpu) -> Self {
        let mut host = [0; 16];
        cpu.session
            .cpu()
            .area()
            .read_words(at::HOST_COUNTERS, &mut host);
        let policy = &cpu.idle.policy;
        let idle = policy.counters();
        Self {
            guest: *cpu.session.counters().values(),
            host,
            lateness: cpu.timer.lateness.clone(),
            idle: [
                ("idle_polls", idle.polls),
                ("idle_hits", idle.hits),
                ("idle_halts", idle.halts),
                ("idle_contended", idle.contended),
                ("idle_polled_tsc", idle.polled_tsc),
                ("idle_vain_tsc", idle.vain_tsc),
                ("idle_halt_cost_tsc", policy.halt_cost_tsc()),
                ("idle_window_tsc", policy.window_tsc()),
                ("idle_tickless", cpu.idle.tickless),
                ("idle_ticks_taken", cpu.idle.taken),
                ("ipi_vain_tsc", cpu.patience.vain_tsc()),
                ("idle_host_polls", u64::from(cpu.idle.does_host_poll())),
            ],
        }
    }
}

fn write_counters(to: &mut Show) -> fmt::Result {
    for cpu in (0..platform::nr_cpus()).filter(|&cpu| platform::is_possible(cpu)) {
        let Some(copy) = platform::call_on(cpu, || cpus::with_this(|cpu| Copy::of(cpu))).flatten()
        else {
            writeln!(to, "cpu{cpu} offline")?;
            continue;
        };
        for (&(_, name), value) in GUEST_COUNTERS.iter().zip(copy.guest) {
            writeln!(to, "cpu{cpu} {name} {value}")?;
        }
        for (&(_, name), value) in HOST_COUNTERS.iter().zip(copy.host) {
            writeln!(to, "cpu{cpu} host_{name} {value}")?;
        }
        hook_figures::write_cpu(to, cpu, &copy.lateness)?;
        for (name, value) in copy.idle {
            writeln!(to, "cpu{cpu} {name} {value}")?;
        }
    }
    hook_figures::write_memory(to)
}
