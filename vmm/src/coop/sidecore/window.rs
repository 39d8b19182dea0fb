//! How long to poll without work, and how long to sleep before looking again by oneself.
//!
//! Nothing is tuned to one machine: both follow from how long a wake-up of this thread has taken
//! here lately. Polling for less than a few wake-ups' time saves nothing; polling for much longer
//! costs more than it saves.
//!
//! Sleeping guests ring the doorbell for calls, but not for what they can do by their stock path.
//! So a sleeping thread also wakes by itself now and then and polls for one window: a *nap*. How long
//! it lasts follows from what it costs.

use std::time::Duration;

/// A nap lasts from so many times of what a wake-up and the shortest window take ...
const SHORTEST_NAP: u32 = 64;
/// ... to so many, which is next to nothing: a guest that would rather be heard rings (`[BELL-6]`), and naps
/// are for those that do not.
const LONGEST_NAP: u32 = 16 * 1024;
/// A window is from this many wake-up times ...
const FEWEST: u32 = 2;
/// ... to this many; to this many for a guest that asks for it without need, as far as is known.
const MOST: u32 = 16;
const UNLIKELY: u32 = 4;

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// A doorbell.
    Bell,
    /// The timer, for a deadline.
    Deadline,
    /// The timer, because the nap is over.
    Nap,
}

/// A sleep in so many shows what sleeps cost: asking for that costs as well.
const SHOWN: u32 = 64;

/// The two times, and what they follow from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    wake_up: Duration,
    /// What a sleep with its wake-up takes of this thread's CPU time, and how many there were since that
    /// was measured.
    sleep_cpu: Duration,
    unseen: u32,
    window: Duration,
    /// In wake-ups with their shortest windows.
    nap: u32,
    is_probe: bool,
    /// Whether the last sleep was a nap: what comes after it is a glance.
    is_nap: bool,
}

impl Window {
    /// Before anything is known, a wake-up is taken to cost 20 µs.
    pub(super) fn new() -> Self {
        let wake_up = Duration::from_micros(20);
        Self {
            wake_up,
            sleep_cpu: wake_up,
            unseen: SHOWN,
            window: wake_up * 8,
            nap: SHORTEST_NAP,
            is_probe: false,
            is_nap: false,
        }
    }

    /// How long to poll after the last work.
    pub(super) fn polling(&self) -> Duration {
        match self.is_nap {
            true => self.wake_up * FEWEST,
            false => self.window,
        }
    }

    /// A guest made a stock write for a deadline, so long after this thread went to sleep: whether
    /// polling would have spared it, which follows the same rule as a doorbell that ends a sleep.
    pub(super) fn missed(&mut self, slept: Duration) -> bool {
        let is_within_reach = slept <= self.window * 2;
        if is_within_reach {
            self.window *= 2;
        } else {
            self.window /= 2;
        }
        self.clamp();
        is_within_reach
    }

    /// How long to sleep at most.
    pub(super) fn nap(&self) -> Duration {
        self.wake_up * (1 + FEWEST) * self.nap
    }

    /// How long a wake-up takes.
    pub(super) fn wake_up(&self) -> Duration {
        self.wake_up
    }

    /// How long to wait awake rather than to sleep: for as long as a sleep would cost of CPU time. That is
    /// not how long a wake-up takes: where others run on this thread's CPU, that may be a hundred times as
    /// long.
    pub(super) fn awake(&self) -> Duration {
        self.sleep_cpu.min(self.wake_up)
    }

    /// Whether the next sleep is to be measured.
    pub(super) fn is_shown(&mut self) -> bool {
        self.unseen += 1;
        if self.unseen < SHOWN {
            return false;
        }
        self.unseen = 0;
        true
    }

    /// A sleep took so much CPU time.
    pub(super) fn cost(&mut self, cpu: Duration) {
        // What else the kernel did in this thread's time is bounded, as for a wake-up.
        let cpu = cpu.min(self.sleep_cpu * 2);
        self.sleep_cpu = (self.sleep_cpu * 7 + cpu) / 8;
        self.sleep_cpu = self.sleep_cpu.max(Duration::from_micros(1));
    }

    /// What follows the last work by no more than this can be caught by polling.
    pub(super) fn reach(&self) -> Duration {
        self.wake_up * MOST
    }

    /// A timer came so late: that is what a wake-up costs here.
    pub(super) fn measured(&mut self, late: Duration) {
        // One long preemption must not make an hour of it.
        let late = late.min(self.wake_up * 4).min(Duration::from_millis(2));
        self.wake_up = (self.wake_up * 7 + late) / 8;
        self.wake_up = self.wake_up.max(Duration::from_micros(1));
        self.clamp();
    }

    /// A doorbell came, with nothing to do: a guest goes by its stock path and would rather be heard
    /// (`[BELL-6]`). The longest window tries it, a shorter one where that is not likely to hear anything.
    pub(super) fn asked(&mut self, is_likely: bool) {
        self.window = self.wake_up * if is_likely { MOST } else { UNLIKELY };
        self.is_probe = true;
    }

    /// Work came while polling, after so long without any.
    pub(super) fn worked(&mut self, idle: Duration) {
        self.nap = SHORTEST_NAP;
        // Nearly missed, or found by chance: a longer window finds more.
        if self.is_probe || idle > self.window / 2 {
            self.window *= 2;
            self.clamp();
        }
        self.is_probe = false;
        self.is_nap = false;
    }

    /// The thread has slept so long.
    pub(super) fn slept(&mut self, time: Duration, wake: Wake) {
        if self.is_probe {
            // The last probe found nothing.
            self.nap = (self.nap * 2).min(LONGEST_NAP);
            self.window /= 2;
        } else if wake == Wake::Bell {
            // Would a window twice as long have caught it?
            if time <= self.window * 2 {
                self.window *= 2;
            } else {
                self.window /= 2;
            }
        }
        self.is_nap = wake == Wake::Nap;
        self.is_probe = self.is_nap;
        self.clamp();
    }

    fn clamp(&mut self) {
        self.window = self
            .window
            .clamp(self.wake_up * FEWEST, self.wake_up * MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: Duration = Duration::from_micros(1);

    #[test]
    fn an_idle_machine_costs_less_and_less() {
        let mut window = Window::new();
        for _ in 0..20 {
            window.slept(window.nap(), Wake::Nap);
        }
        let cost = window.polling() + window.wake_up;
        assert_eq!(window.nap(), cost * LONGEST_NAP);
        assert_eq!(window.polling(), window.wake_up * FEWEST);
    }

    #[test]
    fn frequent_work_keeps_it_polling_and_rare_work_does_not() {
        let mut window = Window::new();
        for _ in 0..20 {
            window.slept(window.polling(), Wake::Bell);
        }
        assert_eq!(window.polling(), window.wake_up * MOST);
        for _ in 0..20 {
            window.slept(window.polling() * 10, Wake::Bell);
        }
        assert_eq!(window.polling(), window.wake_up * FEWEST);
        window.slept(window.nap(), Wake::Nap);
        window.worked(MICRO);
        assert!(window.polling() > window.wake_up * FEWEST);
        assert_eq!(window.nap, SHORTEST_NAP);
    }

    #[test]
    fn bell_6_who_asks_without_need_is_listened_to_for_less_but_not_for_nothing() {
        let mut window = Window::new();
        window.asked(true);
        assert_eq!(window.polling(), window.wake_up * MOST);
        window.asked(false);
        assert_eq!(window.polling(), window.wake_up * UNLIKELY);
        // What is heard then makes it longer.
        window.worked(window.polling());
        assert!(window.polling() > window.wake_up * UNLIKELY);
    }

    #[test]
    fn a_missed_deadline_is_polled_for_only_if_that_would_have_caught_it() {
        let mut window = Window::new();
        let near = window.polling();
        assert!(window.missed(near) && window.polling() > near);
        let far = window.polling() * 3;
        assert!(!window.missed(far));
        for _ in 0..10 {
            assert!(!window.missed(far));
        }
        assert_eq!(window.polling(), window.wake_up * FEWEST);
    }

    #[test]
    fn waiting_awake_is_bounded_by_the_cpu_time_of_a_sleep_however_late_wake_ups_are() {
        let mut window = Window::new();
        let shown = (0..10 * SHOWN).filter(|_| window.is_shown()).count();
        assert_eq!(shown, 10);
        for _ in 0..200 {
            window.measured(Duration::from_millis(2));
            window.cost(MICRO * 8);
        }
        assert!(window.wake_up() > MICRO * 1_000, "{window:?}");
        assert!(window.awake() < MICRO * 10, "{window:?}");
        for _ in 0..200 {
            window.measured(MICRO * 3);
        }
        assert!(window.awake() < MICRO * 5, "{window:?}");
    }

    #[test]
    fn the_window_follows_the_cost_of_a_wake_up_within_bounds() {
        let mut window = Window::new();
        for _ in 0..200 {
            window.measured(Duration::from_secs(10));
        }
        assert!(window.wake_up <= Duration::from_millis(2), "{window:?}");
        assert!(window.polling() >= window.wake_up * FEWEST);
        for _ in 0..200 {
            window.measured(Duration::ZERO);
        }
        assert!(window.wake_up >= MICRO && window.polling() <= MICRO * 2 * MOST);
    }
}
