// SPDX-License-Identifier: GPL-2.0
//! What the idle driver keeps for each CPU, and what it measures and tells the host when it begins.

use coopvirt_spec::discover::{HYPERVISOR_PRESENT, SCAN_END, SCAN_FIRST, SCAN_STEP};
use guest_shim::grace::{Grace, Times};
use guest_shim::idle::IdlePolicy;
use guest_shim::tick::TickPolicy;
use guest_shim::Cpu;

use crate::platform::{self, cpuid, read_tsc, IdleTask, KernelCpu};

/// KVM's switch for its own polling after a halt, and the feature bit that announces it.
const MSR_KVM_POLL_CONTROL: u32 = 0x4b56_4d05;
const KVM_FEATURE_POLL_CONTROL: u32 = 1 << 12;

/// Exits of which the fastest gives the first guess of what a halt costs.
const GUESSES: u32 = 4;

/// What is kept for each CPU.
pub(crate) struct IdleCpu {
    /// What it has learnt.
    pub(crate) policy: IdlePolicy,
    /// Whether the host polls after a halt, if it can be told.
    host_polls: Option<bool>,
    /// Whether the tick is worth stopping, its period in steps of the TSC, and the waits that were to begin without.
    pub(crate) tick: TickPolicy,
    pub(crate) tick_tsc: u64,
    pub(crate) tickless: u64,
    /// Which ticks this loop may take by itself, and how many it did.
    grace: Grace,
    pub(crate) taken: u64,
    /// Whether handlers can be called for interrupts that were not raised.
    pub(crate) can_handle: bool,
}

impl IdleCpu {
    pub(crate) const fn new() -> Self {
        Self {
            policy: IdlePolicy::new(),
            host_polls: None,
            tick: TickPolicy::new(),
            tick_tsc: 0,
            tickless: 0,
            grace: Grace::new(),
            taken: 0,
            can_handle: false,
        }
    }

    /// By how much the host may be late with a deadline that is set now.
    pub(crate) fn grace(&mut self, deadline_tsc: u64) -> u64 {
        if !self.can_handle || !platform::params().tick {
            return 0;
        }
        let times = Times {
            exit_tsc: self.policy.exit_tsc(),
            wake_up_tsc: self.policy.halt_cost_tsc(),
        };
        let hits = self.policy.counters().hits;
        self.grace.of(deadline_tsc, self.tick_tsc, hits, times)
    }

    pub(crate) fn start(&mut self, cpu: &KernelCpu) {
        self.policy.guess(fastest_exit_tsc());
        self.can_handle = platform::params().post && IdleTask::prepare_handling();
        self.host_polls = has_poll_control().then_some(true);
        self.let_host_poll(cpu, false);
    }

    pub(crate) fn stop(&mut self, cpu: &KernelCpu) {
        self.let_host_poll(cpu, true);
        self.host_polls = None;
        self.can_handle = false;
    }

    /// Whether the host polls after a halt, as far as this module knows.
    pub(crate) fn does_host_poll(&self) -> bool {
        self.host_polls != Some(false)
    }

    /// Polling on both sides for the same work is one too many. An exit, if it is a change.
    pub(crate) fn let_host_poll(&mut self, cpu: &KernelCpu, polls: bool) {
        if self.host_polls == Some(!polls) && cpu.write_msr(MSR_KVM_POLL_CONTROL, u64::from(polls))
        {
            self.host_polls = Some(polls);
        }
    }
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
