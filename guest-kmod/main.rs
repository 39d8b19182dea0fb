// SPDX-License-Identifier: GPL-2.0
//! The guest module: a running Linux kernel becomes a cooperating guest, and back.
//!
//! Loading looks for the host, opens a session on each CPU (`cpus`), then puts the hooks in;
//! unloading does the reverse. `platform` holds what is unsafe, `callbacks` what C calls; the hooks
//! are a file each here and in glue/. Whatever a hook finds, the kernel's own path is open to it.
#![deny(unsafe_code)]

mod blocks;
mod callbacks;
mod cpus;
mod debugfs;
mod features;
mod flavour;
mod hook_figures;
mod host;
mod idle;
mod idle_cpu;
mod ipi;
mod memory;
mod platform;
mod selftest;
mod timer;

use guest_shim::Marker;

use blocks::Hooks;
use cpus::Cpus;
use features::{Hook, Summary};
use flavour::{pr_err, pr_info, Result, ENODEV};
use idle::Idle;
use ipi::Ipi;
use platform::{Bare, Registration};
use timer::Timer;

// Where the kernel has no Rust, glue/entry.c says the same.
#[cfg(CONFIG_RUST)]
kernel::prelude::module! {
    type: Module,
    name: "coopvirt",
    author: "the Coopvirt developers",
    description: "The guest's half of cooperative virtualization",
    license: "GPL",
}

/// Work code of this module's marks; none of the measured works has it.
const WORK_MODULE: u8 = 0x70;

/// Everything that is undone at unload, in this order.
struct Module {
    _debugfs: Registration,
    _memory: Option<Hooks>,
    _ipi: Option<Ipi>,
    _timer: Option<Timer>,
    _idle: Option<Idle>,
    _cpus: Cpus,
    _life: Registration,
    marker: Marker<Bare>,
}

impl Module {
    /// Called once, by the kernel's flavour.
    fn load() -> Result<Self> {
        let params = platform::params();
        let offer = host::find()?;
        let mut marker = Marker::new(Bare);
        marker.point(WORK_MODULE);
        // There before the first area is and after the last one: no kernel may come after this one while the host
        // writes into them (`[LIFE-5]`).
        let life = Registration::life()?;
        let cpus = Cpus::open(&offer, features::options(&params))?;
        if let Some(error) = cpus.first_error() {
            pr_err!("not loaded: {}\n", error);
            return Err(ENODEV);
        }
        let idle = features::install(Hook::Idle, &params, Idle::register);
        let timer = features::install(Hook::Timer, &params, || Timer::register(&offer));
        let ipi = features::install(Hook::Ipi, &params, Ipi::register);
        let memory = memory::install(&params, &offer);
        let debugfs = Registration::debugfs()?;
        selftest::run(&params);
        pr_info!(
            "loaded: host {} offers {:?}; {}\n",
            offer.version,
            offer.features,
            Summary
        );
        Ok(Self {
            _debugfs: debugfs,
            _memory: memory,
            _ipi: ipi,
            _timer: timer,
            _idle: idle,
            _cpus: cpus,
            _life: life,
            marker,
        })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        self.marker.point(WORK_MODULE);
        pr_info!("unloading\n");
    }
}
