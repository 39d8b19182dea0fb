// SPDX-License-Identifier: GPL-2.0
//! The interrupt hooks: interrupts to other CPUs through the ring (`[LEASE-3]`, `[LEASE-5]`).
//!
//! Which of them are not needed at all, because their target polls in its idle loop, glue/ipi.c
//! sees; those that nobody takes are sent by whatever sent them before.

use coopvirt_spec::op::IpiArgs;
use guest_shim::VectorSet;

use crate::cpus::{self, ThisCpu};
use crate::flavour::Result;
use crate::platform::Registration;

/// The vectors of the three hooks, on every kernel of this series. All may come twice.
const RESCHEDULE: u8 = 0xfd;
const CALL_FUNCTION: u8 = 0xfc;
const CALL_FUNCTION_SINGLE: u8 = 0xfb;

/// What may be elided.
pub(crate) const ELIDABLE: VectorSet = VectorSet::new()
    .with(RESCHEDULE)
    .with(CALL_FUNCTION)
    .with(CALL_FUNCTION_SINGLE);

/// Whether the host takes this interrupt; the caller has to send it if not.
pub(crate) fn send(ipi: &IpiArgs) -> bool {
    cpus::with_this(|cpu| cpu.session.try_send_ipi(ipi)).unwrap_or(false)
}

/// How long to look first whether the target of an interrupt comes to poll, in steps of the TSC. Not
/// at all while others want this CPU: they may have the target's, too.
pub(crate) fn patience() -> u64 {
    let before = |cpu: &mut ThisCpu| {
        if cpu.session.hints().is_contended() {
            return 0;
        }
        cpu.patience.before(cpu.idle.policy.exit_tsc())
    };
    cpus::with_this(before).unwrap_or(0)
}

/// It was waited for so long; whether it came.
pub(crate) fn waited(spent_tsc: u64, is_spared: bool) {
    let _ = cpus::with_this(|cpu| {
        let exit_tsc = cpu.idle.policy.exit_tsc();
        cpu.patience.waited(spent_tsc, exit_tsc, is_spared);
    });
}

/// The hooks, while they are in.
pub(crate) struct Ipi {
    _registration: Registration,
}

impl Ipi {
    /// Puts the hooks in. They pay without the host's help too, for targets that poll.
    pub(crate) fn register() -> Result<Self> {
        Ok(Self {
            _registration: Registration::ipi()?,
        })
    }
}
