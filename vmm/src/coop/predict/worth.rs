//! Which guesses have been worth their wake-up lately.
//!
//! A guess costs a wake-up; it is worth that if the guest has published a deadline meanwhile that
//! the next later promise would not have covered. Each kind of guess has a credit: a vain one costs
//! some of it, a good one earns more. A kind without credit is left out, until the guest makes a
//! stock write that a guess of this kind would have spared. Ticks at halts ([`Kind::Woken`]) have to earn their first
//! credit, and lose it also while they are left out and not needed.
//!
//! Whatever a guest does, the credits only choose between promises that are made anyway.

/// The kinds of guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first after a deadline, when nothing is published yet.
    First,
    /// One before a deadline that is published already, in case that an earlier one replaces it.
    Before,
    /// One at a halt, for the tick of a vCPU that is woken before the deadline that it waits for.
    Woken,
}

/// What is known of one kind.
#[derive(Clone, Copy, Debug)]
struct Record {
    credit: u8,
    /// The guess that was left out since the deadline before, zero for none.
    skipped_tsc: u64,
}

const FULL: u8 = 16;
/// What a guess that was worth it earns.
const GOOD: u8 = 4;
/// What one earns that was left out and would have been worth it.
const MISSED: u8 = 8;
/// A promise for a tick at a halt is made from so much credit on, and one that was worth it, or would have been, earns so
/// much: where fewer than a third of the halts need it, most of its wake-ups would be in vain.
const ENOUGH_FOR_TICKS: u8 = FULL / 2;
const TICK_GOOD: u8 = 2;

/// The guess whose look is to come.
#[derive(Clone, Copy, Debug)]
struct Pending {
    kind: Kind,
    /// What would have been promised in its place.
    else_tsc: u64,
}

/// The credits for one vCPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Worth {
    records: [Record; 3],
    pending: Option<Pending>,
    /// Whether the deadline before was missed.
    has_missed: bool,
}

impl Default for Worth {
    fn default() -> Self {
        let record = |credit| Record {
            credit,
            skipped_tsc: 0,
        };
        Self {
            // A tick at a halt is promised to those only that have shown to need it: most guests sleep on.
            records: [record(FULL), record(FULL), record(0)],
            pending: None,
            has_missed: false,
        }
    }
}

impl Worth {
    /// Whether to guess `at_tsc` in place of promising `else_tsc`, as far as this kind's record goes.
    pub(super) fn tries(&mut self, kind: Kind, at_tsc: u64, else_tsc: u64) -> bool {
        if kind == Kind::Woken {
            self.needed_no_tick();
        }
        let record = &mut self.records[kind as usize];
        let wanted = if kind == Kind::Woken {
            ENOUGH_FOR_TICKS
        } else {
            1
        };
        if record.credit < wanted {
            record.skipped_tsc = at_tsc;
            return false;
        }
        self.pending = Some(Pending { kind, else_tsc });
        true
    }

    /// The look that was promised last has found this deadline, or none.
    pub(super) fn looked(&mut self, deadline_tsc: Option<u64>) {
        let Some(Pending { kind, else_tsc }) = self.pending.take() else {
            return;
        };
        let record = &mut self.records[kind as usize];
        record.credit = match deadline_tsc.is_some_and(|found| found < else_tsc) {
            true if kind == Kind::Woken => (record.credit + TICK_GOOD).min(FULL),
            true => (record.credit + GOOD).min(FULL),
            false => record.credit.saturating_sub(1),
        };
    }

    /// The guest has made a stock write for this deadline. Two in a row are a new habit.
    pub(super) fn missed(&mut self, stock_tsc: u64) {
        let is_new_habit = self.has_missed;
        for (kind, record) in self.records.iter_mut().enumerate() {
            let is_for_ticks = kind == Kind::Woken as usize;
            let earned = if is_for_ticks { TICK_GOOD } else { MISSED };
            if is_new_habit && !is_for_ticks {
                record.credit = FULL;
            } else if (1..=stock_tsc).contains(&record.skipped_tsc) {
                record.credit = (record.credit + earned).min(FULL);
                record.skipped_tsc = 0;
            }
        }
        self.over();
        self.has_missed = true;
    }

    /// The guest has made a stock write and replaced it before it was due: as at a halt for which no tick was promised.
    pub(super) fn replaced(&mut self) {
        let record = &mut self.records[Kind::Woken as usize];
        if std::mem::take(&mut record.skipped_tsc) > 0 {
            record.credit = (record.credit + TICK_GOOD).min(FULL);
        }
    }

    /// A halt for which no tick was promised is over, if there was one, and none was needed.
    fn needed_no_tick(&mut self) {
        let record = &mut self.records[Kind::Woken as usize];
        if std::mem::take(&mut record.skipped_tsc) > 0 {
            record.credit = record.credit.saturating_sub(1);
        }
    }

    /// Nothing is known any more, but how halts end.
    pub(super) fn restart(&mut self) {
        let [_, _, woken] = self.records;
        *self = Self::default();
        self.records[Kind::Woken as usize] = woken;
    }

    /// A deadline is over: what was left out before it spared nothing.
    pub(super) fn over(&mut self) {
        self.pending = None;
        self.has_missed = false;
        self.needed_no_tick();
        for record in &mut self.records {
            record.skipped_tsc = 0;
        }
    }
}
