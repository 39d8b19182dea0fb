//! How long to wait for another CPU to come into its idle loop before it is interrupted.
//!
//! A CPU that polls in its idle loop needs no interrupt (`ipi` in guest-kmod). Two CPUs that answer each
//! other go idle about when the other one has work for them: what is sent a little before the target
//! has come there is an exit of the sender and one of the target, for a wait of less than either. So
//! the sender looks again for as long as the two exits would take, if that has paid lately.
//!
//! It is arithmetic over time stamps without a constant that is a time. Waiting in vain is paid for by
//! what was spared before and by a small part of every interrupt's cost, so that it is bounded
//! wherever no target ever comes.

/// What an interrupt costs the two sides, and how long to wait for not having to send it, in exits.
const EXITS_SPARED: u64 = 2;
/// How much can be saved up, in exits: so much waiting in vain, and it ends.
const MOST_EXITS: u64 = 8;
/// The part of an exit that each interrupt adds to the savings.
const PART: u64 = 16;

/// What one CPU has learnt about waiting for others. All times are steps of the TSC.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    savings: u64,
    has_begun: bool,
    vain_tsc: u64,
}

impl Patience {
    /// Knows nothing, and has all savings to find out.
    pub const fn new() -> Self {
        Self {
            savings: 0,
            has_begun: false,
            vain_tsc: 0,
        }
    }

    /// An interrupt is to be sent: how long to look first for the target to poll, zero for not at all.
    /// An exit that the host answers at once takes `exit_tsc`, zero if that is not known.
    pub fn before(&mut self, exit_tsc: u64) -> u64 {
        let most = exit_tsc.saturating_mul(MOST_EXITS);
        let earned = if self.has_begun {
            exit_tsc / PART
        } else {
            most
        };
        self.has_begun = exit_tsc > 0;
        self.savings = self.savings.saturating_add(earned).min(most);
        let reach = exit_tsc.saturating_mul(EXITS_SPARED);
        if self.savings >= reach {
            reach
        } else {
            0
        }
    }

    /// The target was waited for so long; whether it came, and no interrupt is needed.
    pub fn waited(&mut self, spent_tsc: u64, exit_tsc: u64, is_spared: bool) {
        if is_spared {
            let gain = exit_tsc.saturating_mul(EXITS_SPARED);
            self.savings = self.savings.saturating_add(gain);
        } else {
            self.vain_tsc = self.vain_tsc.saturating_add(spent_tsc);
            self.savings = self.savings.saturating_sub(spent_tsc);
        }
    }

    /// How long was waited in vain.
    pub const fn vain_tsc(&self) -> u64 {
        self.vain_tsc
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interrupts to a target that polls `after` each is to be sent; how many were sent.
    fn sent(patience: &mut Patience, count: u32, exit: u64, after: u64) -> u32 {
        let mut sent = 0;
        for _ in 0..count {
            let until = patience.before(exit);
            let is_spared = until > 0 && after <= until;
            if until > 0 {
                patience.waited(after.min(until), exit, is_spared);
            }
            sent += u32::from(!is_spared);
        }
        sent
    }

    #[test]
    fn a_target_that_comes_soon_is_waited_for_and_goes_on_to_be() {
        for exit in [1_000, 5_000, 1_000_000] {
            let mut patience = Patience::new();
            assert_eq!(sent(&mut patience, 1_000, exit, exit), 0);
            assert_eq!(patience.vain_tsc(), 0);
        }
    }

    #[test]
    fn waiting_in_vain_costs_a_small_part_of_each_interrupt() {
        for exit in [1_000, 5_000, 1_000_000] {
            let mut patience = Patience::new();
            assert_eq!(sent(&mut patience, 100, exit, 1), 0);
            // What was saved up goes first.
            sent(&mut patience, 100, exit, 100 * exit);
            let before = patience.vain_tsc();
            assert_eq!(sent(&mut patience, 1_600, exit, 100 * exit), 1_600);
            let vain = patience.vain_tsc() - before;
            assert!(vain > 0 && vain <= 102 * exit, "{vain} of {exit}");
        }
    }

    #[test]
    fn a_target_that_comes_again_is_found_again() {
        let mut patience = Patience::new();
        sent(&mut patience, 1_000, 4_000, 1_000_000);
        assert!(sent(&mut patience, 100, 4_000, 2_000) <= 32);
    }

    #[test]
    fn nothing_is_waited_for_where_no_exits_time_is_known() {
        let mut patience = Patience::new();
        assert_eq!(sent(&mut patience, 1_000, 0, 0), 1_000);
        for spent in [0, 1, u64::MAX] {
            patience.before(u64::MAX);
            patience.waited(spent, u64::MAX, spent == 1);
        }
    }
}
