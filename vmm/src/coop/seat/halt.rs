//! What one vCPU's area is asked as the vCPU halts by the doorbell (`[HALT-2]`, `[HALT-3]`).

use coopvirt_spec::counter::HostCounter;
use coopvirt_spec::timer::{self, Look, NONE};
use coopvirt_spec::version::Features;

use super::Served;
use crate::coop::predict::Seen;
use crate::coop::serve::Shared;

/// What became of a halt by the doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halted {
    /// Whether the vCPU is to wait.
    pub waits: bool,
    /// When the next look is promised, in the host's TSC.
    pub next_host_tsc: Option<u64>,
}

impl Served {
    /// Whether halts by the doorbell are served.
    pub fn can_halt(&self) -> bool {
        self.features.contains(Features::HALT) && self.broken().is_none()
    }

    /// The vCPU is about to wait as behind HLT (`[HALT-2]`, `[HALT-3]`): its deadline goes to its own timer, by
    /// `set_timer`, which says whether that worked.
    pub fn halt(&mut self, shared: &Shared, set_timer: impl FnOnce(u64) -> bool) -> Halted {
        let Some(timing) = self.timing.filter(|_| self.has_timer()) else {
            // There is no deadline to look at.
            return Halted {
                waits: true,
                next_host_tsc: None,
            };
        };
        let now = timing.clock.now();
        self.halts.halts(now);
        self.learn_handed_over(now);
        if self.handed_tsc != NONE {
            self.timer.take_over(&self.area, self.handed_tsc);
        }
        let mut seen = self.look_at_deadline(shared, timing);
        // A promise for a later time is to follow.
        if self.timer.armed_tsc() != NONE && !matches!(seen, Seen::Served(_)) {
            seen = match self.timer.disarm(&self.area, now) {
                Look::Idle => Seen::Nothing,
                Look::Later { deadline_tsc } => Seen::Later(deadline_tsc),
                Look::Due { deadline_tsc } => Seen::Served(deadline_tsc),
            };
        }
        let wake_up = timing.clock.cycles(self.wake_up);
        let waits_until_tsc = match seen {
            Seen::Served(_) => {
                if let Some(at_tsc) = self.prediction.promise(now, wake_up, None) {
                    self.timer.arm(&self.area, at_tsc);
                }
                self.raise_timer(shared, timing, seen);
                None
            }
            Seen::Later(deadline_tsc) if !set_timer(deadline_tsc) => {
                self.timer.arm(&self.area, deadline_tsc);
                None
            }
            Seen::Later(deadline_tsc) => {
                self.timer.hand_over(&self.area, deadline_tsc);
                self.handed_tsc = deadline_tsc;
                self.count(shared, HostCounter::TimerHanded, 1);
                Some(deadline_tsc)
            }
            // Handed over before, or the guest's own stock write, of which it says so (`[TIMER-10]`).
            Seen::Nothing => [self.handed_tsc, timer::stock_deadline(&self.area)]
                .into_iter()
                .filter(|at_tsc| *at_tsc > now)
                .min(),
        };
        if let Some(deadline_tsc) = waits_until_tsc {
            let at_tsc = (self.prediction).at_halt(self.halts, now, deadline_tsc, wake_up);
            self.halts.waits(deadline_tsc);
            self.timer.arm(&self.area, at_tsc);
        }
        let armed_tsc = self.timer.armed_tsc();
        let now_host = crate::kvm::tsc::read();
        Halted {
            waits: !matches!(seen, Seen::Served(_)),
            next_host_tsc: (armed_tsc != NONE).then(|| timing.clock.host_at(armed_tsc, now_host)),
        }
    }

    /// The deadline that was handed over last is over, if it is: predictions take it for one that was served.
    pub(super) fn learn_handed_over(&mut self, now_tsc: u64) {
        if self.handed_tsc != NONE && self.handed_tsc <= now_tsc {
            let _ = self.prediction.looked(Seen::Served(self.handed_tsc), false);
            self.handed_tsc = NONE;
        }
    }
}
