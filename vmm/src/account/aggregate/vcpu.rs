//! One vCPU between two exits: which event belongs to which exit.
//!
//! Used by [`super::machine`], which counts what is complete. Nothing here grows with what a guest does.

use super::event::Exit;
use crate::account::reason::{Class, Reason};

/// What is known of one vCPU thread between two exits.
#[derive(Default)]
pub(super) struct Vcpu {
    pub(super) pending: Option<Pending>,
    /// A halt that ended at once because an interrupt was already waiting that the guest could not
    /// take yet: which one is seen when it takes it, an exit or two later.
    pub(super) halt: Option<Pending>,
    /// Details that came before the exit that they may belong to.
    early: Details,
    /// This vCPU's exits are traced after the host has handled the interrupt.
    is_traced_late: bool,
    /// Since when the guest runs, where that is traced.
    pub(super) entered_ns: Option<u64>,
}

/// An exit whose details are still coming in.
pub(super) struct Pending {
    pub(super) exit: Exit,
    pub(super) time_ns: u64,
    pub(super) duration_ns: Option<u64>,
    pub(super) reason: Reason,
    pub(super) details: Details,
    pub(super) has_left_kernel: bool,
    pub(super) is_mark: bool,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Details {
    pub(super) msr: Option<(bool, u32)>,
    pub(super) gpa: Option<u64>,
    pub(super) hypercall: Option<u64>,
    pub(super) cpuid: Option<u32>,
    pub(super) injected: Option<u8>,
    pub(super) host_vector: Option<u8>,
    pub(super) host_irq: Option<u32>,
    pub(super) has_host_tick: bool,
    pub(super) has_guest_timer: bool,
    pub(super) has_kick: bool,
}

impl Pending {
    /// A halt of which nobody has said yet what ended it.
    fn is_unexplained_halt(&self) -> bool {
        let is_open = self.details.injected.is_none() && !self.has_left_kernel;
        self.reason.class() == Class::Halt && is_open
    }
}

impl Vcpu {
    /// Notes that the guest runs on.
    pub(super) fn enter(&mut self, time_ns: u64) {
        self.entered_ns = Some(time_ns);
        if let Some(pending) = &mut self.pending {
            let duration_ns = time_ns.saturating_sub(pending.time_ns);
            pending.duration_ns.get_or_insert(duration_ns);
        }
    }

    /// Notes a new exit and gives the ones before it that are now complete.
    pub(super) fn exit(
        &mut self,
        exit: Exit,
        time_ns: u64,
        mark_port: u16,
    ) -> [Option<Pending>; 2] {
        let reason = Reason::new(exit.isa, exit.reason);
        let early = std::mem::take(&mut self.early);
        self.is_traced_late = !exit.is_traced_early;
        let mut details = Details::default();
        if self.is_traced_late {
            match reason.class() {
                Class::Interrupt => {
                    details.has_host_tick = early.has_host_tick;
                    details.has_guest_timer = early.has_guest_timer;
                    details.has_kick = early.has_kick;
                    details.host_vector = early.host_vector;
                    details.host_irq = early.host_irq;
                }
                Class::Msr => details.msr = early.msr,
                _ => {}
            }
        }
        let is_mark =
            reason.class() == Class::Io && reason.io_access(exit.info1) == (mark_port, false);
        let new = Pending {
            exit,
            time_ns,
            duration_ns: None,
            reason,
            details,
            has_left_kernel: false,
            is_mark,
        };
        let mut done = self.pending.replace(new);
        let has_run_on = !matches!(reason.class(), Class::Window | Class::Interrupt);
        if let Some(done) = done.take_if(|done| !has_run_on && done.is_unexplained_halt()) {
            return [self.halt.replace(done), None];
        }
        let has_got_one = done
            .as_ref()
            .is_some_and(|done| done.details.injected.is_some());
        [self.halt.take_if(|_| has_run_on || has_got_one), done]
    }

    /// Notes that KVM injected an interrupt.
    ///
    /// At an interrupt window it is the one that has waited, since before a halt if there was one.
    /// At any other exit it may be a newer one, which says nothing of the halt.
    pub(super) fn inject(&mut self, vector: u8) {
        let at = self.pending.as_ref().map(|pending| pending.reason.class());
        if let (Some(halt), Some(Class::Window)) = (&mut self.halt, at) {
            halt.details.injected.get_or_insert(vector);
        }
        self.later(|details| {
            details.injected.get_or_insert(vector);
        });
    }

    /// Notes a return to userspace; true if it is the one that a mark causes.
    pub(super) fn leave_kernel(&mut self) -> bool {
        // A tick that hits userspace code says nothing about the exit that comes next.
        self.early = Details::default();
        let Some(pending) = &mut self.pending else {
            return false;
        };
        let is_first = !std::mem::replace(&mut pending.has_left_kernel, true);
        pending.is_mark && is_first
    }

    /// Puts a detail to the pending exit if it fits there, else aside for the next.
    pub(super) fn detail(
        &mut self,
        fits: impl Fn(Reason, &Details) -> bool,
        set: impl Fn(&mut Details),
    ) {
        match &mut self.pending {
            Some(pending) if !pending.has_left_kernel && fits(pending.reason, &pending.details) => {
                set(&mut pending.details);
            }
            _ => set(&mut self.early),
        }
    }

    /// Puts a detail to the pending exit whose handling it is part of: nothing of the kind comes
    /// before the exit's own event.
    pub(super) fn later(&mut self, set: impl Fn(&mut Details)) {
        if let Some(pending) = &mut self.pending {
            if !pending.has_left_kernel {
                set(&mut pending.details);
            }
        }
    }

    /// Notes that an interrupt was handled.
    ///
    /// Where exits are traced early, the interrupt that caused one is handled right after it, so
    /// it belongs to the pending exit if that is an interrupt. Where they are traced late it
    /// belongs to the next.
    pub(super) fn interrupt(&mut self, set: impl Fn(&mut Details)) {
        if self.is_traced_late {
            set(&mut self.early);
        } else if let Some(pending) = &mut self.pending {
            if !pending.has_left_kernel {
                set(&mut pending.details);
            }
        }
    }
}
