//! When to ask a sleeping host to listen (`[BELL-6]`).
//!
//! What takes its stock path needs no doorbell, so nothing would wake a host that could spare it.
//! [`Asking`] says after which stock path one is worth it: it counts, and knows no time, as what a
//! doorbell gains depends on the machine and the work. Used by the paths that elide; never for
//! correctness.

/// Fewest stock paths for one doorbell.
const FEWEST: u32 = 16;
/// Most; so much for asking a host that never listens: one exit in 4,096 more than stock.
const MOST: u32 = 4096;

/// What was gained and missed since the last doorbell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking {
    patience: u32,
    missed: u32,
    gained: u32,
    has_asked: bool,
}

impl Asking {
    /// Before anything is known.
    pub(crate) const fn new() -> Self {
        Self {
            patience: FEWEST,
            missed: 0,
            gained: 0,
            has_asked: false,
        }
    }

    /// A stock path was spared.
    pub(crate) fn elided(&mut self) {
        self.gained = self.gained.saturating_add(1);
    }

    /// A stock path was taken because nobody listened; says whether to ring now.
    pub(crate) fn fell_back(&mut self) -> bool {
        self.missed += 1;
        if self.missed < self.patience {
            return false;
        }
        if self.has_asked {
            // Paid, if it has spared as many as had to be missed before it.
            self.patience = match self.gained >= self.patience {
                true => (self.patience / 4).max(FEWEST),
                false => (self.patience * 2).min(MOST),
            };
        }
        *self = Self {
            patience: self.patience,
            has_asked: true,
            ..Self::new()
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Doorbells for so many fallbacks, with so much gained after each doorbell.
    fn bells(asking: &mut Asking, fallbacks: u32, gain: u32) -> u32 {
        let mut bells = 0;
        for _ in 0..fallbacks {
            if asking.fell_back() {
                bells += 1;
                (0..gain).for_each(|_| asking.elided());
            }
        }
        bells
    }

    #[test]
    fn bell_6_a_host_that_never_listens_costs_hardly_more_than_stock() {
        let mut asking = Asking::new();
        assert_eq!(bells(&mut asking, 15, 0), 0);
        assert_eq!(bells(&mut asking, 1, 0), 1);
        assert!(bells(&mut asking, 8_192, 0) <= 9);
        assert_eq!(bells(&mut asking, 409_600, 0), 100);
    }

    #[test]
    fn bell_6_a_host_that_listens_is_asked_at_once_again() {
        let mut asking = Asking::new();
        assert_eq!(bells(&mut asking, 16_000, 1_000), 1_000);
        // It stops to pay, and later pays again.
        bells(&mut asking, 100_000, 3);
        bells(&mut asking, 50_000, 5_000);
        assert_eq!(bells(&mut asking, 160, 100), 10);
    }

    #[test]
    fn bell_6_a_gain_below_what_was_missed_is_none() {
        let mut asking = Asking::new();
        assert!(bells(&mut asking, 100_000, FEWEST - 1) < 40);
    }
}
