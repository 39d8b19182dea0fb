// SPDX-License-Identifier: GPL-2.0
//! The guest module: the shim in a Linux kernel.
//!
//! Version 0 makes measurement marks from inside the kernel: one when it is loaded and one when it
//! is unloaded, so that everything between can be counted by any tracer of the host.

use core::arch::asm;

use coopvirt_spec::mark::MARK_PORT;
use guest_shim::{Marker, Platform};
use kernel::prelude::*;

module! {
    type: CoopvirtModule,
    name: "coopvirt",
    author: "the Coopvirt developers",
    description: "The guest's half of cooperative virtualization",
    license: "GPL",
}

/// Work code of this module's marks; none of the measured works has it.
const WORK_MODULE: u8 = 0x70;

/// The kernel as the shim's platform.
struct Kernel;

impl Platform for Kernel {
    fn write_mark_port(&mut self, value: u32) {
        // SAFETY: a port write has no effect on memory. `[MARK-1]` gives this port no other
        // effect on a host that knows it, and nothing claims it on one that does not.
        unsafe {
            asm!("out dx, eax", in("dx") MARK_PORT, in("eax") value,
                 options(nomem, nostack, preserves_flags));
        }
    }
}

struct CoopvirtModule {
    marker: Marker<Kernel>,
}

impl kernel::Module for CoopvirtModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let mut marker = Marker::new(Kernel);
        marker.point(WORK_MODULE);
        pr_info!("loaded; marks go to port {:#x}\n", MARK_PORT);
        Ok(Self { marker })
    }
}

impl Drop for CoopvirtModule {
    fn drop(&mut self) {
        self.marker.point(WORK_MODULE);
        pr_info!("unloaded\n");
    }
}
