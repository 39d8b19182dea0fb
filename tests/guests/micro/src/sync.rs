//! What CPUs need to work together: a barrier.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::x86::tsc;

/// All CPUs wait here for each other, any number of times.
#[derive(Debug)]
pub struct Barrier {
    cpus: usize,
    arrived: AtomicUsize,
    round: AtomicUsize,
}

impl Barrier {
    /// For so many CPUs.
    pub fn new(cpus: usize) -> Self {
        let (arrived, round) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self {
            cpus,
            arrived,
            round,
        }
    }

    /// Spins until as many CPUs have come.
    #[track_caller]
    pub fn wait(&self) {
        // Nobody can begin the next round before this CPU has come in this one.
        let round = self.round.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.cpus {
            self.arrived.store(0, Ordering::Relaxed);
            // Release: what every CPU wrote before is seen by all after; the last one has acquired
            // it from the others by its own addition.
            self.round.store(round.wrapping_add(1), Ordering::Release);
            return;
        }
        tsc::spin_until("a barrier", || self.round.load(Ordering::Acquire) != round);
    }
}
