//! Deadlines without an exit (`[TIMER-2]`, `[TIMER-3]`, `[TIMER-8]`, `[TIMER-10]`, `[TIMER-11]`, `[HALT-4]`, `[HALT-5]`).
//!
//! Called by the clock event device, with interrupts off, in place of the TSC-deadline write.

use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::lease;
use coopvirt_spec::mem::{Load, SharedMem};
use coopvirt_spec::page::at;
use coopvirt_spec::timer::{self, Published};
use coopvirt_spec::version::Features;

use crate::platform::Cpu;
use crate::session::Session;

/// Stock writes after which the host is woken. One alone says nothing: whatever begins was not to be foreseen.
const FEWEST_BEFORE_BELL: u32 = 2;
/// The longest row between two rings, if ringing does not help: then it costs next to nothing.
const MOST_BEFORE_BELL: u32 = 1 << 14;

/// How many deadlines have taken the stock path since the host served one last, and when to ring. One that the host
/// would have served, but that was replaced before it was due, says nothing: a kernel that wakes up publishes a timer far
/// ahead, then its tick, then what it sleeps for, and it is the last that a host has to foresee.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StockRow {
    len: u32,
    ring_at: u32,
    /// The deadline that the stock timer was set to last, until another one is published; zero: none.
    last_tsc: u64,
}

impl StockRow {
    pub(crate) const fn new() -> Self {
        Self {
            len: 0,
            ring_at: FEWEST_BEFORE_BELL,
            last_tsc: 0,
        }
    }

    /// The host has served a deadline: it foresees them.
    fn served(&mut self) {
        (self.len, self.ring_at) = (0, FEWEST_BEFORE_BELL);
    }

    /// One more; says whether to ring. Rows between rings double.
    fn is_one_to_ring(&mut self, deadline_tsc: u64) -> bool {
        self.last_tsc = deadline_tsc;
        self.len += 1;
        if self.len < self.ring_at {
            return false;
        }
        self.len = 0;
        self.ring_at = (self.ring_at * 2).min(MOST_BEFORE_BELL);
        true
    }
}

/// Stock writes after which it is known what one takes: the first may have been disturbed.
const FIRST_WRITES: u32 = 4;

/// A timer of the host's is early by no more than one part of so many of the time that it was set for: its
/// clock, which may be slewed, is not the TSC.
const EARLY: u64 = 256;

/// What the local APIC's own timer was set to by the last stock write, and what one takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StockTimer {
    /// Zero: it is not known to be set.
    set_tsc: u64,
    /// How far ahead that was.
    ahead_tsc: u64,
    /// The same as what it is set to, if the host did that at a halt.
    handed_tsc: u64,
    /// The least that a write took, and how many there were.
    write_tsc: u64,
    writes: u32,
}

impl StockTimer {
    pub(crate) const fn new() -> Self {
        Self {
            set_tsc: 0,
            ahead_tsc: 0,
            handed_tsc: 0,
            write_tsc: u64::MAX,
            writes: 0,
        }
    }

    /// Whether it will interrupt as near to this deadline as matters: a kernel that sets one and the
    /// same timer twice finds a slightly different deadline each time, and a write would take longer
    /// than what lies between the two. An interrupt that is early by less has not reached its handler
    /// before the deadline.
    const fn has(&self, deadline_tsc: u64, now_tsc: u64) -> bool {
        self.writes >= FIRST_WRITES
            && self.set_tsc > now_tsc
            && self.set_tsc.abs_diff(deadline_tsc) <= self.write_tsc
    }

    /// The host sets it as the vCPU halts (`[HALT-2]`).
    fn set_by_host(&mut self, deadline_tsc: u64, now_tsc: u64) {
        (self.set_tsc, self.handed_tsc) = (deadline_tsc, deadline_tsc);
        self.ahead_tsc = deadline_tsc.saturating_sub(now_tsc);
    }

    /// A timer interrupt has come. If it can have been this timer's, then it is not set any more; also where it
    /// was early, which the TSC alone does not show.
    fn interrupted(&mut self, now_tsc: u64, is_early: bool) {
        let reach = self.write_tsc.max(self.ahead_tsc / EARLY);
        if is_early || self.set_tsc <= now_tsc.saturating_add(reach) {
            (self.set_tsc, self.handed_tsc) = (0, 0);
        }
    }
}

impl<C: Cpu> Session<C> {
    /// Sets the local APIC's own timer, an exit. All such writes have to come here: the session
    /// remembers what it is set to.
    pub fn write_stock_deadline(&mut self, deadline_tsc: u64) {
        let before = self.cpu.read_tsc();
        self.cpu.write_stock_deadline(deadline_tsc);
        let took = self.cpu.read_tsc().saturating_sub(before);
        let timer = &mut self.stock_timer;
        (timer.set_tsc, timer.handed_tsc) = (deadline_tsc, 0);
        timer.ahead_tsc = deadline_tsc.saturating_sub(before);
        timer.write_tsc = timer.write_tsc.min(took);
        timer.writes = timer.writes.saturating_add(1);
    }

    /// Sets the deadline, zero for none; by the word if the host keeps it, else by the stock write.
    pub fn set_deadline(&mut self, deadline_tsc: u64) {
        self.set_deadline_by(deadline_tsc, 0);
    }

    /// The same; the host may be late by `grace_tsc`, for a caller that takes the deadline by itself before
    /// ([`Session::take_due`]). The stock write is made for the deadline itself.
    pub fn set_deadline_by(&mut self, deadline_tsc: u64, grace_tsc: u64) {
        (self.deadline_tsc, self.grace_tsc) = (deadline_tsc, 0);
        self.rests_on_stock = false;
        if self.with_feature(Features::TIMER).is_none() {
            self.write_stock_deadline(deadline_tsc);
            return;
        }
        let cpu = &self.cpu;
        let host_tsc = match deadline_tsc {
            timer::NONE => timer::NONE,
            _ => deadline_tsc.saturating_add(grace_tsc),
        };
        let published = timer::publish(cpu.area(), host_tsc, || cpu.read_tsc());
        match published {
            Published::NoDeadline => {}
            Published::Listening | Published::Armed => {
                self.grace_tsc = grace_tsc;
                self.elided();
            }
            Published::Fallback if self.stock_timer.has(deadline_tsc, cpu.read_tsc()) => {
                // As after a write; but the row of writes gets no longer.
                timer::note_stock(cpu.area(), deadline_tsc);
                self.stock_row.last_tsc = deadline_tsc;
                self.count(GuestCounter::DeadlinePublished, 1);
                self.count(GuestCounter::DeadlineElided, 1);
            }
            Published::Fallback if self.can_rest_on_stock(deadline_tsc) => {
                self.rests_on_stock = true;
                self.elided();
            }
            Published::Fallback => {
                self.write_stock_deadline(deadline_tsc);
                // The local APIC keeps this deadline; the host need not raise it again.
                timer::note_stock(self.cpu.area(), deadline_tsc);
                self.count(GuestCounter::DeadlinePublished, 1);
                self.count(GuestCounter::DeadlineFallback, 1);
                if self.stock_row.is_one_to_ring(deadline_tsc) {
                    self.ring_for_deadlines();
                }
            }
        }
    }

    /// One that needs no stock write; the stock write before is replaced, if that was not due (`[TIMER-10]`).
    fn elided(&mut self) {
        let cpu = &self.cpu;
        if self.stock_row.last_tsc > 0 && cpu.read_tsc() < self.stock_row.last_tsc {
            timer::forget_stock(cpu.area());
        }
        self.stock_row.last_tsc = timer::NONE;
        self.count(GuestCounter::DeadlinePublished, 1);
        self.count(GuestCounter::DeadlineElided, 1);
    }

    /// Whether the stock timer will interrupt before this deadline anyway, so that it need not be written before
    /// (`[HALT-5]`): a vCPU that halts by then hands the deadline over, without an interrupt for nothing.
    fn can_rest_on_stock(&self, deadline_tsc: u64) -> bool {
        let set_tsc = self.stock_timer.set_tsc;
        self.halts_by_doorbell
            && self.features().contains(Features::HALT)
            && set_tsc > self.cpu.read_tsc()
            && set_tsc < deadline_tsc
    }

    /// To be called by the timer interrupt after its handler. One that came early, for an older stock write, is nothing
    /// to a kernel that has set a later deadline; where it does not set that again, this does.
    pub fn timer_handled(&mut self) {
        if self.rests_on_stock && self.stock_timer.set_tsc == 0 {
            self.set_deadline(self.deadline_tsc);
        }
    }

    /// How to halt now, to be called where nothing but the halt comes between: by the doorbell at this port
    /// ([`coopvirt_spec::doorbell::HALT`] is written to it), or, `None`, by HLT (`[HALT-4]`). By the doorbell, the local APIC's timer
    /// is set to the deadline without a stock write.
    pub fn halt_port(&mut self) -> Option<u16> {
        let due_tsc = self.interrupt_tsc();
        let now_tsc = self.cpu.read_tsc();
        let is_handed_over = self.stock_timer.handed_tsc == due_tsc && due_tsc > now_tsc;
        let (active, mem) = self.with_feature(Features::HALT)?;
        let port = active.offer.sync_port;
        let armed_tsc = mem.load_u64(at::ARMED, Load::Relaxed);
        let has_nothing_to_say = match due_tsc {
            0 => armed_tsc == timer::NONE,
            _ => is_handed_over,
        };
        if has_nothing_to_say || lease::seems_held(mem, now_tsc) {
            return None;
        }
        if due_tsc > now_tsc {
            self.stock_timer.set_by_host(due_tsc, now_tsc);
        }
        self.count(GuestCounter::IdleRung, 1);
        Some(port)
    }

    /// When the interrupt for the deadline is due at the host's, zero for never.
    pub const fn interrupt_tsc(&self) -> u64 {
        self.deadline_tsc.saturating_add(self.grace_tsc)
    }

    /// Whether the last deadline was set without an exit.
    pub fn sets_deadlines_freely(&self) -> bool {
        self.features().contains(Features::TIMER) && self.stock_row.last_tsc == 0
    }

    /// Wakes a host that has stopped to expect deadlines (`[TIMER-11]`).
    fn ring_for_deadlines(&mut self) {
        if let Some(active) = &self.active {
            self.cpu.write_port(active.offer.async_port, 0);
            self.count(GuestCounter::AsyncBell, 1);
        }
    }

    /// To be called by the timer interrupt before its handler: notices a broken area, and counts
    /// what came too early. The handler runs in any case (`[TIMER-8]`).
    pub fn timer_interrupt(&mut self) {
        self.grace_tsc = 0;
        let now_tsc = self.cpu.read_tsc();
        let is_early = self.deadline_tsc == 0 || now_tsc < self.deadline_tsc;
        self.stock_timer.interrupted(now_tsc, is_early);
        if !is_early && self.stock_row.last_tsc == timer::NONE {
            self.stock_row.served();
        }
        if self.active.is_none() {
            return;
        }
        // A broken area is closed here, and with that the deadline written to the stock timer.
        if self.usable().is_some() && is_early {
            self.count(GuestCounter::TimerSpurious, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timer_11_rings_that_do_not_help_become_rare() {
        let mut row = StockRow::new();
        let is_rung = (1..=100_000).filter(|_| row.is_one_to_ring(1));
        let mut rings = [0; 32];
        let mut nr_rings = 0;
        for (slot, at) in rings.iter_mut().zip(is_rung) {
            *slot = at;
            nr_rings += 1;
        }
        assert_eq!(rings[..5], [2, 6, 14, 30, 62]);
        assert_eq!(nr_rings, 14 + (100_000 - 32_766) / 16_384);
    }
}
