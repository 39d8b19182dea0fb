//! When one vCPU's next deadline will be published, and for when to promise a look at it.
//!
//! A guest whose next deadline lies behind the host's promise (`[TIMER-6]`) needs no stock write. So
//! whoever served a deadline promises a look a little before the next one is expected; at that look
//! the published deadline is known, and the promise becomes exact. Mean and deviation of the
//! intervals from deadline to deadline are followed as TCP follows round-trip times (RFC 6298); how
//! much earlier than the mean the promise lies follows from them and from how long a wake-up takes.
//! No time is fixed, all are the guest's TSC.
//!
//! A wake-up of this thread costs as much CPU time as several stock writes. So what comes steadily is
//! looked for once, just before it is due; and a host that does not poll leaves a look right after the
//! deadline before to what can be foreseen in no other way ([`Prediction::thrifty`]).
//!
//! A tick that hides among other deadlines is found by its phase ([`tick`]). Guesses that have not been
//! worth their wake-up lately are left out ([`worth`]).
//!
//! A vCPU that halts by the doorbell is looked at then (`[HALT-3]`): the promise made there is one for behind the
//! deadline that it waits for, or for the tick that it publishes if it goes on before ([`halts`]).
//!
//! Whatever a guest publishes, looks are bounded: a few per deadline, and then the published one
//! alone; without any they become rarer, and end.
//!
//! [`super::seat`] keeps one for each area. Nothing here looks at memory or at a clock.

mod halts;
mod tick;
mod worth;

pub(super) use halts::Halts;
use tick::Tick;
use worth::{Kind, Worth};

/// Guesses made although a deadline is published: a guest that sleeps publishes its tick before the
/// deadline that it sleeps for.
const GUESSES: u32 = 3;
/// Promises for a tick without any deadline after which none is expected any more.
const TICKS: u32 = 2;
/// Looks without any deadline after which nothing is expected any more.
const FRUITLESS: u32 = 8;
/// Stock writes that one deadline may take at most, as far as predictions go.
const WRITES: u64 = 4;
/// Intervals after a row of stock writes that count more than those after them.
const FRESH: u8 = 6;
/// After a stock write that was replaced before it was due, so many deadlines are looked for at once: a
/// guest publishes its tick as it wakes up, and then, a little later, what it sleeps for.
const EAGER: u8 = 8;
/// The first look that follows a deadline at once comes after so many wake-ups ...
const EAGER_WAKE_UPS: u64 = 4;
/// ... doubled as often as such a look has come before the guest had published, but no more often than this ...
const MOST_DOUBLINGS: u8 = 5;
/// ... and halved again after so many in a row that did not.
const EAGER_HITS: u8 = 64;
/// The longest row of stock writes that is believed.
const LONGEST_ROW: u64 = 1 << 16;
/// What comes steadily deviates by no more than one part of so many of a wake-up.
const STEADY: u64 = 2;
/// Promises without any deadline after which the next look is not in haste any more.
const HASTY: u32 = 8;

/// What became of a promise that was a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A deadline was published behind it, without a stock write, and has been served.
    Hit,
    /// The look came before any deadline.
    Early,
    /// The guest made a stock write, for a deadline before it.
    Missed,
}

/// What a look found in the deadline word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing that is not served.
    Nothing,
    /// A deadline that is not due.
    Later(u64),
    /// A deadline that is being served now.
    Served(u64),
}

/// Expects one vCPU's deadlines.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prediction {
    /// The deadline before, whoever served it; zero if there was none.
    last_tsc: u64,
    mean: u64,
    deviation: u64,
    stock_tsc: u64,
    /// When the last look was.
    look_tsc: u64,
    /// The guest's count of stock writes, as the look before found it.
    stock_writes: u64,
    /// For how many deadlines the first promise is one for as soon as the guest may have published.
    eager: u8,
    /// How much later than as soon as can be that is, in doublings; how many looks in a row were not too soon;
    /// and whether the look to come is one of these.
    eager_doublings: u8,
    eager_hits: u8,
    is_eager_look: bool,
    /// How many of the next intervals are the first of a new habit.
    fresh: u8,
    /// Whether the last interval was not learnt from, because it was unlike those before.
    is_odd: bool,
    /// Promises made since the deadline before.
    promises: u32,
    /// Whether a promise since the deadline before was a guess.
    is_guessed: bool,
    worth: Worth,
    tick: Tick,
    /// Promises for a tick since the deadline before.
    ticks: u32,
    /// Whether a stock write more is better than a look more.
    is_thrifty: bool,
}

impl Prediction {
    /// For a host that does not poll: it prefers a few stock writes to a wake-up for each deadline more.
    pub(super) fn thrifty() -> Self {
        Self {
            is_thrifty: true,
            ..Self::default()
        }
    }

    /// Whether the next deadline will be served without a stock write by a thread that sleeps, too.
    pub(super) fn is_foreseen(&self, wake_up: u64) -> bool {
        self.is_steady(wake_up)
    }

    /// Whether nothing was promised since the last deadline, so that a new promise may lie earlier.
    pub(super) fn is_new(&self) -> bool {
        self.promises == 0
    }

    /// The guest's last stock deadline (`[TIMER-10]`), as a look found it, and how many it says to
    /// have written since ever: nobody looks while they serve a guest well.
    pub(super) fn stock(&mut self, now_tsc: u64, stock_tsc: u64, writes: u64) -> Option<Outcome> {
        let new = writes.wrapping_sub(self.stock_writes);
        let row = new.clamp(1, LONGEST_ROW);
        self.stock_writes = writes;
        let since_look = now_tsc.saturating_sub(std::mem::replace(&mut self.look_tsc, now_tsc));
        if stock_tsc == 0 && new > 0 {
            // Replaced before it was due: no interval, but it would have been spared.
            self.eager = (self.eager + EAGER).min(2 * EAGER);
            self.tick.replaced(self.last_tsc, now_tsc);
            self.worth.replaced();
        }
        if stock_tsc == 0 || stock_tsc == self.stock_tsc {
            return None;
        }
        self.stock_tsc = stock_tsc;
        let was_guessed = std::mem::take(&mut self.is_guessed);
        // One deadline may take a few writes: those that come first are replaced before they are due.
        if row > 1 && since_look / row < self.mean / WRITES {
            // Most of a row was not seen, and so there is no telling how long its intervals were,
            // but that they are short ones, and not those of before.
            self.mean = since_look / row;
            self.fresh = FRESH;
            self.deviation = self.mean / 4;
            // One that is far ahead may be replaced before it is reached: the row goes on from here.
            self.last_tsc = stock_tsc.min(now_tsc.max(self.last_tsc));
            (self.promises, self.ticks) = (0, 0);
            self.tick.learn(stock_tsc);
            self.worth.restart();
        } else {
            self.worth.missed(stock_tsc);
            let error = stock_tsc.saturating_sub(self.last_tsc).abs_diff(self.mean);
            self.learn(stock_tsc);
            if !self.is_odd {
                // The next promise is so much earlier; then the deviation shrinks again.
                let doubled = error.saturating_mul(2).min(self.mean / 4);
                self.deviation = self.deviation.max(doubled);
            }
        }
        was_guessed.then_some(Outcome::Missed)
    }

    /// What a look found; `is_promised` if it is the one that was promised.
    pub(super) fn looked(&mut self, seen: Seen, is_promised: bool) -> Option<Outcome> {
        if is_promised {
            self.worth.looked(match seen {
                Seen::Nothing => None,
                Seen::Later(deadline_tsc) | Seen::Served(deadline_tsc) => Some(deadline_tsc),
            });
            if std::mem::take(&mut self.is_eager_look) {
                self.learn_eagerness(seen == Seen::Nothing);
            }
        }
        match seen {
            Seen::Nothing => (is_promised && self.is_guessed).then_some(Outcome::Early),
            Seen::Later(_) => None,
            Seen::Served(deadline_tsc) => {
                let was_guessed = std::mem::take(&mut self.is_guessed);
                self.worth.over();
                self.eager = self.eager.saturating_sub(1);
                self.learn(deadline_tsc);
                was_guessed.then_some(Outcome::Hit)
            }
        }
    }

    /// For when to promise the next look; `None` if nothing is to be expected. `wake_up` is how long
    /// it takes to wake up.
    pub(super) fn promise(
        &mut self,
        now_tsc: u64,
        wake_up: u64,
        published: Option<u64>,
    ) -> Option<u64> {
        if self.last_tsc == 0 {
            // As if there had been one just now: then the first one can be expected.
            self.last_tsc = now_tsc;
        }
        self.is_eager_look = self.promises == 0 && published.is_none() && self.is_eager(wake_up);
        let guess_tsc = self.guess(now_tsc, wake_up, published);
        self.is_guessed |= guess_tsc.is_some();
        let at_tsc = guess_tsc.or(published)?;
        self.promises = self.promises.saturating_add(1);
        Some(self.without_haste(at_tsc, now_tsc, wake_up))
    }

    fn guess(&mut self, now_tsc: u64, wake_up: u64, published: Option<u64>) -> Option<u64> {
        let Some(deadline_tsc) = published else {
            let guess_tsc = self.guess_blindly(now_tsc, wake_up)?;
            // A tick before that would be missed; a guest that is idle makes none.
            let tick_tsc = self.tick.next(now_tsc.saturating_add(wake_up));
            let earlier_tsc =
                tick_tsc.filter(|tick_tsc| self.ticks < TICKS && *tick_tsc < guess_tsc);
            if earlier_tsc.is_some() {
                self.ticks += 1;
                self.tick.promised();
            }
            return earlier_tsc.or(Some(guess_tsc));
        };
        if self.promises >= GUESSES {
            return None;
        }
        // The guest may still replace it by an earlier one. A guess that is hardly earlier than the
        // deadline would be a wake-up for nothing.
        let guess_tsc = self.expected(self.promises, now_tsc, wake_up);
        let is_earlier = guess_tsc.saturating_add(wake_up.saturating_mul(2)) < deadline_tsc;
        (is_earlier && self.worth.tries(Kind::Before, guess_tsc, deadline_tsc)).then_some(guess_tsc)
    }

    /// Guesses while nothing is published.
    fn guess_blindly(&mut self, now_tsc: u64, wake_up: u64) -> Option<u64> {
        if self.promises >= FRUITLESS {
            return None;
        }
        if self.promises == 0 {
            let guess_tsc = self.expected(0, now_tsc, wake_up);
            let else_tsc = self.expected(1, now_tsc, wake_up);
            // The first one of what comes like clockwork is the later one.
            if self.is_eager(wake_up)
                || else_tsc <= guess_tsc
                || self.worth.tries(Kind::First, guess_tsc, else_tsc)
            {
                return Some(guess_tsc);
            }
            self.promises = 1;
        }
        if self.promises > 1 && self.last_tsc < now_tsc {
            // It may just not have come to publishing one: as long again, and so on, before it is
            // taken for one that is late. The number of these looks is a logarithm.
            let elapsed = now_tsc - self.last_tsc;
            let again_tsc = now_tsc.saturating_add(elapsed.max(wake_up.saturating_mul(2)));
            if again_tsc < self.last_tsc.saturating_add(self.mean) {
                self.promises = 1;
                return Some(again_tsc);
            }
        }
        Some(self.expected(self.promises, now_tsc, wake_up))
    }

    /// Early at first, then closer to what is usual, then less and less often.
    fn expected(&self, promises: u32, now_tsc: u64, wake_up: u64) -> u64 {
        // The first promise may lie as close as can be: whatever the guest publishes is behind it.
        let soonest_tsc = now_tsc.saturating_add(match promises {
            0 => wake_up / 4,
            _ => wake_up.saturating_mul(2),
        });
        let spread = self.deviation.saturating_mul(4);
        let early = wake_up.saturating_mul(2);
        let from_last = |cycles: u64| {
            let early = cycles.saturating_sub(early);
            self.last_tsc.saturating_add(early).max(soonest_tsc)
        };
        let usual = self.mean.max(wake_up.saturating_mul(4));
        match promises {
            0 if self.is_eager(wake_up) => {
                let wake_ups = EAGER_WAKE_UPS << self.eager_doublings;
                let after = wake_up.saturating_mul(wake_ups);
                // Not so late that the next deadline may be over.
                let after = after.min((self.mean / 2).max(wake_up.saturating_mul(EAGER_WAKE_UPS)));
                self.last_tsc.saturating_add(after).max(soonest_tsc)
            }
            0 if self.is_steady(wake_up) => {
                // What comes like clockwork may as well be served a little late: nobody waits awake then.
                let early = spread.saturating_mul(4).max(wake_up / 4).min(wake_up);
                self.last_tsc
                    .saturating_add(self.mean.saturating_sub(early))
                    .max(soonest_tsc)
            }
            0 => from_last(self.mean.saturating_sub(spread)),
            1 => from_last(self.mean.saturating_sub(self.deviation)),
            2 => from_last(self.mean.saturating_add(self.deviation.saturating_mul(2))),
            more => soonest_tsc.saturating_add(usual.saturating_mul(1 << (more - 3).min(16))),
        }
    }

    /// Whether what comes is looked for in one wake-up, which ends when it is due: the promise lies no
    /// more than the wake-up itself before it, and for what is left then the thread waits awake. Some of
    /// these promises come too late, and a stock write is made; it costs less than a second wake-up for
    /// each deadline would. For what comes less regularly the thread wakes up earlier, and sleeps again
    /// until it is due.
    fn is_steady(&self, wake_up: u64) -> bool {
        self.mean > 0 && self.deviation.saturating_mul(STEADY) <= wake_up
    }

    /// Whether the first look follows the deadline before at once. That is two wake-ups for each deadline,
    /// which a thrifty host makes only for what neither a promise just before it nor one for the tick
    /// would spare.
    fn is_eager(&self, wake_up: u64) -> bool {
        let is_foreseen = self.is_steady(wake_up) || self.tick.is_known();
        self.eager > 0 && !(self.is_thrifty && is_foreseen)
    }

    /// A look that followed a deadline at once has found what the guest published then, or came too soon. How
    /// long a guest takes to go back to sleep is its own matter.
    fn learn_eagerness(&mut self, is_too_soon: bool) {
        if is_too_soon {
            self.eager_doublings = (self.eager_doublings + 1).min(MOST_DOUBLINGS);
            self.eager_hits = 0;
            return;
        }
        self.eager_hits += 1;
        if self.eager_hits >= EAGER_HITS {
            self.eager_doublings = self.eager_doublings.saturating_sub(1);
            self.eager_hits = 0;
        }
    }

    /// A guest that moves its deadline again and again, always a little ahead, must not keep a
    /// thread busy. What it has published by then comes late by a few wake-ups.
    fn without_haste(&self, at_tsc: u64, now_tsc: u64, wake_up: u64) -> u64 {
        let near_tsc = now_tsc.saturating_add(wake_up.saturating_mul(8));
        if self.promises > HASTY {
            return at_tsc.max(near_tsc);
        }
        at_tsc.max(now_tsc.saturating_add(1))
    }

    fn learn(&mut self, deadline_tsc: u64) {
        let interval = deadline_tsc.saturating_sub(self.last_tsc);
        let is_first = self.last_tsc == 0;
        self.last_tsc = deadline_tsc;
        (self.promises, self.ticks) = (0, 0);
        self.tick.learn(deadline_tsc);
        // None to learn from: a deadline in the past, or one that was served before.
        if is_first || interval == 0 {
            return;
        }
        if self.mean == 0 {
            (self.mean, self.deviation) = (interval, interval / 2);
            return;
        }
        // A pause is not a change of habit; a new habit still gets through, in some steps.
        let most = (self.mean.saturating_mul(3)).saturating_add(self.deviation.saturating_mul(4));
        let interval = interval.min(most);
        let error = interval.abs_diff(self.mean);
        // A single one that is nothing like the others is none of them: a tick among sleeps.
        let is_odd = error > self.deviation.saturating_mul(4).max(self.mean / 8);
        self.is_odd = is_odd && !self.is_odd && self.fresh == 0;
        if self.is_odd {
            return;
        }
        let (mean_weight, deviation_weight) = match self.fresh {
            0 => (8, 4),
            _ => (2, 2),
        };
        self.fresh = self.fresh.saturating_sub(1);
        let part = |old: u64, new: u64, of: u64| (old - old / of).saturating_add(new / of);
        self.deviation = part(self.deviation, error, deviation_weight);
        self.mean = part(self.mean, interval, mean_weight);
    }
}

#[cfg(test)]
#[path = "predict/tests.rs"]
mod tests;
