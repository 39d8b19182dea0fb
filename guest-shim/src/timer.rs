//! Deadlines without an exit (`[TIMER-2]`, `[TIMER-3]`, `[TIMER-8]`).
//!
//! Called by the clock event device, with interrupts off, in place of the TSC-deadline write.

use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::timer::{self, Published};
use coopvirt_spec::version::Features;

use crate::platform::Cpu;
use crate::session::Session;

impl<C: Cpu> Session<C> {
    /// Sets the deadline, zero for none; by the word if the host keeps it, else by the stock write.
    pub fn set_deadline(&mut self, deadline_tsc: u64) {
        self.deadline_tsc = deadline_tsc;
        if self.with_feature(Features::TIMER).is_none() {
            self.cpu.write_stock_deadline(deadline_tsc);
            return;
        }
        let cpu = &self.cpu;
        let published = timer::publish(cpu.area(), deadline_tsc, || cpu.read_tsc());
        match published {
            Published::NoDeadline => {}
            Published::Listening | Published::Armed => {
                self.count(GuestCounter::DeadlinePublished, 1);
                self.count(GuestCounter::DeadlineElided, 1);
            }
            Published::Fallback => {
                cpu.write_stock_deadline(deadline_tsc);
                // The local APIC keeps this deadline; the host need not raise it again.
                let _ = timer::publish(cpu.area(), timer::NONE, || 0);
                self.count(GuestCounter::DeadlinePublished, 1);
                self.count(GuestCounter::DeadlineFallback, 1);
            }
        }
    }

    /// To be called by the timer interrupt before its handler: notices a broken area, and counts
    /// what came too early. The handler runs in any case (`[TIMER-8]`).
    pub fn timer_interrupt(&mut self) {
        if self.active.is_none() {
            return;
        }
        let is_early = self.deadline_tsc == 0 || self.cpu.read_tsc() < self.deadline_tsc;
        // A broken area is closed here, and with that the deadline written to the stock timer.
        if self.usable().is_some() && is_early {
            self.count(GuestCounter::TimerSpurious, 1);
        }
    }
}
