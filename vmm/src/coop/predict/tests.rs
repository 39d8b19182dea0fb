//! Guests of several habits against the predictions, with a thread that takes 20 to wake up.

use super::*;

const WAKE_UP: u64 = 20;

/// What a run of deadlines cost.
#[derive(Debug, Default)]
struct Cost {
    served: u32,
    stock: u32,
    looks: u32,
    /// How long a thread that was awake has waited.
    awake: u64,
}

/// A guest that publishes a deadline, then perhaps another one, when one is over.
struct Guest {
    random: u64,
    now: u64,
    prediction: Prediction,
    armed: Option<u64>,
    /// How much later than promised each look is.
    late: u64,
    /// The word that keeps the last stock deadline.
    stock_tsc: u64,
    stock_writes: u64,
    /// Stock writes since the last doorbell or elided one, after how many it rings (`[TIMER-11]`),
    /// and when the doorbell's look is.
    row: u32,
    rings_at: u32,
    bell: Option<u64>,
    is_awake: bool,
}

impl Guest {
    fn new() -> Self {
        Self {
            random: 88_172_645_463_325_252,
            now: 1_000_000,
            prediction: Prediction::default(),
            armed: None,
            late: 0,
            stock_tsc: 0,
            stock_writes: 0,
            row: 0,
            rings_at: 2,
            bell: None,
            is_awake: false,
        }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % end.max(1)
    }

    /// One deadline: what is published at which time, in order; the last one counts.
    fn deadline(&mut self, published: &[(u64, u64)], cost: &mut Cost) {
        let (mut word, mut stock) = (None, None);
        let mut steps = published.iter().copied().peekable();
        loop {
            let step = steps.peek().copied();
            // What is nearer than a wake-up is waited for awake, once.
            let late = if self.is_awake { 0 } else { self.late };
            let promised = self.armed.map_or(u64::MAX, |armed| armed + late);
            let next_look = promised.min(self.bell.unwrap_or(u64::MAX));
            let end = word.or(stock).unwrap_or(u64::MAX);
            let next = step.map_or(u64::MAX, |(at, _)| at);
            if next <= next_look && next <= end {
                self.now = self.now.max(next);
                let (_, deadline) = steps.next().expect("peeked");
                let is_elided = self.armed.is_some_and(|armed| armed <= deadline);
                (word, stock) = match is_elided {
                    true => (Some(deadline), None),
                    false => (None, Some(deadline)),
                };
                if is_elided {
                    (self.row, self.rings_at) = (0, 2);
                    if self.now < self.stock_tsc {
                        // As `[TIMER-10]` asks of the guest.
                        self.stock_tsc = 0;
                    }
                } else {
                    cost.stock += 1;
                    self.stock_writes += 1;
                    self.stock_tsc = deadline;
                    self.row += 1;
                }
                if self.row >= self.rings_at {
                    (self.row, self.rings_at) = (0, self.rings_at * 2);
                    self.bell = Some(self.now + self.late);
                }
                continue;
            }
            // Nobody else serves the word; a look that comes late serves it late.
            if next_look <= end || word.is_some() {
                assert!(self.armed.or(self.bell).is_some(), "lost");
                self.now = self.now.max(next_look);
                let is_promised = promised <= self.now;
                self.bell = None;
                let _ = self
                    .prediction
                    .stock(self.now, self.stock_tsc, self.stock_writes);
                cost.looks += u32::from(!self.is_awake);
                let is_due = word.is_some_and(|word| word <= self.now);
                let seen = match word {
                    Some(word) if is_due => Seen::Served(word),
                    Some(word) => Seen::Later(word),
                    None => Seen::Nothing,
                };
                let _ = self.prediction.looked(seen, is_promised);
                let later = word.filter(|_| !is_due);
                self.armed = self.armed.filter(|_| !is_promised);
                if self.armed.is_none() || self.prediction.is_new() {
                    let wake_up = WAKE_UP.max(self.late);
                    let promise = self.prediction.promise(self.now, wake_up, later);
                    self.armed = [self.armed, promise].into_iter().flatten().min();
                }
                self.armed = [self.armed, later].into_iter().flatten().min();
                let near = self.now + WAKE_UP.max(self.late);
                self.is_awake = !self.is_awake && self.armed.is_some_and(|armed| armed <= near);
                if self.is_awake {
                    let until = self.armed.unwrap_or(self.now);
                    cost.awake += until.saturating_sub(self.now);
                }
                if is_due {
                    cost.served += 1;
                    return;
                }
                continue;
            }
            // By the local APIC's timer.
            self.now = self.now.max(end);
            return;
        }
    }
}

fn run(turns: u32, next: impl FnMut(&mut Guest) -> Vec<(u64, u64)>) -> Cost {
    run_late(0, turns, next)
}

fn run_late(late: u64, turns: u32, mut next: impl FnMut(&mut Guest) -> Vec<(u64, u64)>) -> Cost {
    let (mut guest, mut cost) = (Guest::new(), Cost::default());
    guest.late = late;
    // As after registration.
    guest.armed = guest.prediction.promise(guest.now, WAKE_UP, None);
    for _ in 0..turns {
        let published = next(&mut guest);
        guest.deadline(&published, &mut cost);
    }
    cost
}

#[test]
fn a_tick_like_clockwork_needs_one_wake_up() {
    let mut tick = 1_000_000;
    let cost = run_late(2_000, 1_000, |guest| {
        tick += 400_000;
        vec![(guest.now + 5, tick)]
    });
    assert!(cost.stock <= 10, "{cost:?}");
    assert!(cost.looks <= 1_100, "{cost:?}");
}

#[test]
fn a_tick_that_came_late_once_is_not_missed_the_next_time() {
    let (mut tick, mut turn) = (1_000_000, 0);
    let cost = run_late(2_000, 1_000, |guest| {
        tick += 400_000;
        turn += 1;
        let late = if turn % 50 == 0 { 1_500 } else { 0 };
        vec![(guest.now + 5, tick + late)]
    });
    assert!(cost.stock <= 10, "{cost:?}");
}

#[test]
fn a_steady_tick_needs_few_stock_writes_and_two_looks() {
    for jitter in [1, 20, 200] {
        let cost = run(1_000, |guest| {
            let handler = guest.now + 5 + guest.below(10);
            let period = 4_000 - jitter / 2 + guest.below(jitter);
            vec![(handler, guest.now + period)]
        });
        assert!(cost.stock <= 50, "jitter {jitter}: {cost:?}");
        assert!(cost.looks <= 2_100, "jitter {jitter}: {cost:?}");
    }
}

#[test]
fn a_sleeper_needs_few_stock_writes_although_its_tick_is_published_first() {
    let mut tick = 0;
    let cost = run(1_000, |guest| {
        let (handler, task) = (guest.now + 5, guest.now + 30 + guest.below(40));
        while tick <= guest.now {
            tick += 4_000;
        }
        let sleep = task + 1_050 + guest.below(10);
        vec![(handler, tick), (task, sleep.min(tick))]
    });
    assert!(cost.stock <= 50, "{cost:?}");
    assert!(cost.looks <= 2_200, "{cost:?}");
}

#[test]
fn a_sleeper_without_a_tick_in_its_halts_is_found_soon() {
    // What it publishes as it wakes up is far ahead, then its tick, and then what it sleeps for; the
    // first two are never reached.
    for pause in [0, 300_000, 5_000_000] {
        let (mut turn, mut far) = (0, 0);
        let cost = run_late(30, 1_000, |guest| {
            turn += 1;
            if far <= guest.now + 1_200 {
                far = guest.now + 84_000;
            }
            let handler = guest.now + 5;
            if turn <= 5 && pause > 0 {
                return vec![(handler, guest.now + pause)];
            }
            let tick = (guest.now + 15).next_multiple_of(4_000);
            let task = guest.now + 30 + guest.below(5);
            let sleep = task + 1_050 + guest.below(10);
            vec![(handler, far), (handler + 10, tick), (task, sleep)]
        });
        // Some of those whose tick comes before what they sleep for.
        assert!(cost.stock <= 150, "after {pause}: {cost:?}");
        assert!(cost.looks <= 2_050, "after {pause}: {cost:?}");
    }
}

/// What a guest does before it sleeps again may take longer than a few of the host's wake-ups: a look that comes
/// before that spares nothing, and the tick that is published first then is a stock write.
#[test]
fn the_first_look_waits_for_a_guest_that_takes_long_to_go_back_to_sleep() {
    for busy in [30, 120, 300] {
        let mut tick = 0;
        let cost = run(1_000, |guest| {
            let task = guest.now + busy + guest.below(5);
            while tick <= task {
                tick += 4_000;
            }
            let sleep = task + 1_050 + guest.below(10);
            match tick < sleep {
                // Published first, and replaced: it is stopped while the guest sleeps.
                true => vec![(task, tick), (task + 3, sleep)],
                false => vec![(task, sleep)],
            }
        });
        assert!(cost.stock <= 160, "{busy}: {cost:?}");
        assert!(cost.looks <= 2_100, "{busy}: {cost:?}");
    }
}

#[test]
fn a_thrifty_host_looks_once_for_a_sleeper_whose_tick_was_known() {
    let (mut turn, mut far) = (0, 0);
    let cost = run_late(30, 1_200, |guest| {
        if turn == 0 {
            guest.prediction.is_thrifty = true;
        }
        turn += 1;
        let tick = (guest.now + 15).next_multiple_of(4_000);
        if turn <= 200 {
            return vec![(guest.now + 5, tick)];
        }
        if far <= guest.now + 1_200 {
            far = guest.now + 84_000;
        }
        let task = guest.now + 30 + guest.below(5);
        let sleep = task + 1_050 + guest.below(10);
        vec![(guest.now + 5, far), (guest.now + 15, tick), (task, sleep)]
    });
    // One look for what it sleeps for, one for each tick, and no long waits awake.
    assert!(cost.stock <= 220, "{cost:?}");
    assert!(cost.looks <= 1_550, "{cost:?}");
    assert!(cost.awake <= 10 * 1_000, "{cost:?}");
}

#[test]
fn random_deadlines_cost_a_bounded_number_of_looks() {
    let cost = run(1_000, |guest| {
        let handler = guest.now + 5;
        let deadline = handler + 1 + guest.below(3_000);
        vec![(handler, deadline)]
    });
    assert!(cost.stock <= 100, "{cost:?}");
    assert!(cost.looks <= 2_500, "{cost:?}");
}

#[test]
fn a_new_habit_is_learnt() {
    let mut turn = 0;
    let cost = run(1_000, |guest| {
        let period = [4_000, 1_000, 10_000, 300][turn / 250];
        turn += 1;
        vec![(guest.now + 5, guest.now + period + guest.below(10))]
    });
    // Until the first look that had been promised for the old one, and a few more.
    assert!(cost.stock <= 60, "{cost:?}");
}

#[test]
fn an_idle_guest_is_left_alone_in_the_end() {
    let mut prediction = Prediction::default();
    let (mut now, mut looks) = (5_000, 0);
    let _ = prediction.looked(Seen::Served(4_000), true);
    let _ = prediction.looked(Seen::Served(5_000), true);
    while let Some(at) = prediction.promise(now, WAKE_UP, None) {
        assert!(at > now);
        now = at;
        looks += 1;
        assert_eq!(prediction.looked(Seen::Nothing, true), Some(Outcome::Early));
    }
    // Some more before the usual time has passed.
    assert!((FRUITLESS..FRUITLESS + 8).contains(&looks), "{looks}");
    assert!(now > 5_000 + 16_000, "rarer and rarer: {now}");
}

#[test]
fn a_stock_deadline_far_ahead_is_not_waited_for_in_small_steps() {
    let mut prediction = Prediction::default();
    let _ = prediction.looked(Seen::Served(4_000), true);
    let _ = prediction.looked(Seen::Served(1_000_000), true);
    let (mut now, mut looks) = (1_000_010, 0);
    let _ = prediction.stock(now, 50_000_000, 1);
    while let Some(at) = prediction
        .promise(now, WAKE_UP, None)
        .filter(|at| *at < 50_000_000)
    {
        now = at.max(now + 1);
        let _ = prediction.looked(Seen::Nothing, true);
        looks += 1;
    }
    assert!(looks < 30, "{looks}");
}

#[test]
fn trust_4_a_deadline_that_moves_on_and_on_costs_no_look_for_each_move() {
    let mut prediction = Prediction::default();
    let (mut now, mut looks) = (1_000, 0);
    while now < 1_000_000 {
        let at = prediction.promise(now, WAKE_UP, Some(now + 1));
        now = at.expect("a deadline is published").max(now + 1);
        let _ = prediction.looked(Seen::Later(now + 1), true);
        looks += 1;
    }
    assert!(
        looks <= 1_000_000 / WAKE_UP / 8 + HASTY as u64 + 2,
        "{looks}"
    );
}

#[test]
fn trust_4_no_value_makes_it_panic() {
    let values = [0, 1, 2, 1 << 40, u64::MAX - 1, u64::MAX];
    let mut prediction = Prediction::default();
    for turn in 0..values.len().pow(4) {
        let of = |place: u32| values[turn / values.len().pow(place) % values.len()];
        let _ = prediction.stock(of(3), of(0), of(1));
        let _ = prediction.looked(Seen::Served(of(1)), turn % 2 == 0);
        let _ = prediction.looked(Seen::Later(of(2)), turn % 3 == 0);
        let _ = prediction.promise(of(3), of(2), (turn % 5 > 0).then_some(of(0)));
        let _ = prediction.promise(of(3), of(1), None);
    }
}

/// What a sleeping thread serves as well is no reason to poll; what it would miss is one.
#[test]
fn what_comes_like_clockwork_is_foreseen_and_nothing_else() {
    let mut prediction = Prediction::default();
    assert!(!prediction.is_foreseen(WAKE_UP), "nothing is known yet");
    let mut deadline_tsc = 1_000_000;
    let mut serve = |prediction: &mut Prediction, interval: u64| {
        deadline_tsc += interval;
        prediction.looked(Seen::Served(deadline_tsc), true);
    };
    (0..40).for_each(|_| serve(&mut prediction, 4_000));
    assert!(prediction.is_foreseen(WAKE_UP));
    (0..40).for_each(|n| serve(&mut prediction, 3_000 + n % 7 * 400));
    assert!(!prediction.is_foreseen(WAKE_UP));
}

/// A thread that was late once, and has not woken up since, is still taken to be slow.
#[test]
fn halt_3_a_promise_behind_a_deadline_lies_before_the_next_one_however_late_wake_ups_are() {
    const PERIOD: u64 = 1_000_000;
    let mut prediction = Prediction::default();
    let mut halts = Halts::default();
    for tick in 1..=20 {
        let deadline_tsc = tick * PERIOD;
        prediction.looked(Seen::Served(deadline_tsc), false);
        let now = deadline_tsc + 50_000;
        halts.halts(now);
        for wake_up in [0, 1_000, 290_000, 2_000_000, u64::MAX] {
            let next_tsc = deadline_tsc + PERIOD;
            let at_tsc = prediction.at_halt(halts, now, next_tsc, wake_up);
            let is_learnt = tick > 2;
            assert!(at_tsc > next_tsc, "{wake_up}");
            assert!(
                !is_learnt || at_tsc < next_tsc + PERIOD,
                "{wake_up}: {at_tsc}"
            );
        }
        halts.waits(deadline_tsc + PERIOD);
    }
}

/// A guest with an established tick that halts until far behind it, in each period. Says for how many of the last 40
/// halts the tick was promised. `wakes`: a device wakes it before, and it has its tick again.
fn ticks_promised_at_halts(wakes: impl Fn(u64) -> bool) -> usize {
    const PERIOD: u64 = 4_000_000;
    let mut prediction = Prediction::default();
    for tick in 1..=100 {
        prediction.looked(Seen::Served(tick * PERIOD), false);
    }
    let (mut writes, mut promised) = (0, Vec::new());
    for tick in 101..=300 {
        let halt_tsc = tick * PERIOD + PERIOD / 4;
        let next_tick_tsc = (tick + 1) * PERIOD;
        let at_tsc =
            prediction.at_halt(Halts::default(), halt_tsc, halt_tsc + 20 * PERIOD, WAKE_UP);
        let is_promised = at_tsc <= next_tick_tsc;
        promised.push(is_promised);
        // Woken up, it sets its tick, by a stock write if that lies before the promise, and halts again.
        writes += u64::from(wakes(tick) && !is_promised);
        prediction.stock(halt_tsc + PERIOD / 2, 0, writes);
        if is_promised {
            // Nobody has halted since: the look comes.
            let seen = match wakes(tick) {
                true => Seen::Served(next_tick_tsc),
                false => Seen::Nothing,
            };
            prediction.looked(seen, true);
        }
    }
    let last = promised.iter().rev().take(40);
    last.filter(|is_promised| **is_promised).count()
}

#[test]
fn halt_3_a_tick_is_promised_at_halts_to_guests_that_are_woken_before_it_and_to_no_others() {
    assert_eq!(ticks_promised_at_halts(|_| true), 40);
    let mostly = ticks_promised_at_halts(|tick| tick % 3 != 0);
    assert!(mostly > 30, "{mostly}");
    assert_eq!(ticks_promised_at_halts(|_| false), 0);
    let rarely = ticks_promised_at_halts(|tick| tick % 5 == 0);
    assert_eq!(rarely, 0, "one in five is not worth four wake-ups");
}
