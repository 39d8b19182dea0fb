//! How late timer interrupts come, as the guest sees it, and whether any does not come at all.
//!
//! Fed by the clock event device of one CPU: each deadline that it sets, each interrupt, and a look
//! whenever the CPU comes by (a new deadline, the end of an idle wait). Pure bookkeeping.

/// Powers of two of TSC ticks that are told apart.
pub const BINS: usize = 40;

/// One CPU's deadlines.
#[derive(Clone, Debug)]
pub struct Lateness {
    /// The deadline that an interrupt has to come for, zero if none.
    awaited_tsc: u64,
    /// What is late by more than this is lost.
    lost_after_tsc: u64,
    /// When that was seen first of the awaited one, zero for not yet.
    overdue_tsc: u64,
    lost: u64,
    bins: [u64; BINS],
}

impl Lateness {
    /// Nothing awaited. `lost_after_tsc` has to be far above any delay that a busy host causes.
    pub const fn new(lost_after_tsc: u64) -> Self {
        Self {
            awaited_tsc: 0,
            lost_after_tsc,
            overdue_tsc: 0,
            lost: 0,
            bins: [0; BINS],
        }
    }

    /// A deadline was set, zero for none; it takes the place of the one before.
    pub fn set(&mut self, deadline_tsc: u64) {
        (self.awaited_tsc, self.overdue_tsc) = (deadline_tsc, 0);
    }

    /// An interrupt came. One that comes before its deadline is none of ours.
    pub fn interrupt(&mut self, now_tsc: u64) {
        if self.awaited_tsc == 0 || now_tsc < self.awaited_tsc {
            return;
        }
        let late_tsc = now_tsc - self.awaited_tsc;
        let bin = (u64::BITS - late_tsc.leading_zeros()) as usize;
        if let Some(bin) = self.bins.get_mut(bin.min(BINS - 1)) {
            *bin += 1;
        }
        self.set(0);
    }

    /// Whether the awaited deadline is so long overdue that its interrupt must be lost, and was when somebody asked as
    /// long ago; says so once. (A machine that was stopped for long finds everything overdue when it goes on, and its
    /// host comes to raise it then.) `is_pending`: whether the interrupt is there and waits for the CPU to take it.
    pub fn is_lost(&mut self, now_tsc: u64, is_pending: impl FnOnce() -> bool) -> bool {
        let is_overdue =
            self.awaited_tsc != 0 && now_tsc.saturating_sub(self.awaited_tsc) > self.lost_after_tsc;
        if !is_overdue || is_pending() {
            return false;
        }
        if self.overdue_tsc == 0 {
            self.overdue_tsc = now_tsc;
        }
        if now_tsc.saturating_sub(self.overdue_tsc) < self.lost_after_tsc {
            return false;
        }
        self.set(0);
        self.lost += 1;
        true
    }

    /// Interrupts that never came.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Bin 0: not late; bin n: late by at least 2^(n-1) and less than 2^n ticks of the TSC.
    pub const fn bins(&self) -> &[u64; BINS] {
        &self.bins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_is_late_by_what_has_passed_since_its_deadline() {
        let mut lateness = Lateness::new(1_000);
        for (deadline, now, bin) in [(100, 100, 0), (100, 101, 1), (100, 104, 3), (7, 263, 9)] {
            let before = lateness.bins()[bin];
            lateness.set(deadline);
            lateness.interrupt(now);
            assert_eq!(lateness.bins()[bin], before + 1, "{deadline} {now}");
        }
        assert_eq!(lateness.bins().iter().sum::<u64>(), 4);
    }

    #[test]
    fn timer_8_an_early_interrupt_leaves_the_deadline_awaited() {
        let mut lateness = Lateness::new(1_000);
        lateness.set(500);
        lateness.interrupt(499);
        assert!(lateness.bins().iter().all(|&bin| bin == 0));
        assert!(!lateness.is_lost(1_501, || false));
        assert!(lateness.is_lost(2_501, || false));
    }

    /// Its TSC goes on while a machine is stopped.
    #[test]
    fn a_machine_that_was_stopped_for_long_has_lost_nothing() {
        let mut lateness = Lateness::new(1_000);
        for stop in [50_000, 90_000] {
            lateness.set(stop - 40_000);
            assert!(!lateness.is_lost(stop, || false));
            lateness.interrupt(stop + 10);
            assert!(!lateness.is_lost(stop + 30_000, || false));
        }
        assert_eq!(lateness.lost(), 0);
    }

    #[test]
    fn a_deadline_is_lost_once_and_only_if_nothing_is_pending() {
        let mut lateness = Lateness::new(1_000);
        lateness.set(500);
        assert!(!lateness.is_lost(1_500, || false));
        assert!(!lateness.is_lost(1_501, || true));
        assert!(!lateness.is_lost(1_501, || false));
        assert!(!lateness.is_lost(2_500, || false));
        assert!(lateness.is_lost(2_501, || false));
        assert!(!lateness.is_lost(9_999, || false));
        assert_eq!(lateness.lost(), 1);
        lateness.set(0);
        assert!(!lateness.is_lost(u64::MAX, || false));
        lateness.set(600);
        lateness.interrupt(700);
        assert!(!lateness.is_lost(u64::MAX, || false));
        assert_eq!(lateness.lost(), 1);
    }
}
