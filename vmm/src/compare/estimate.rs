//! How long a comparison will take, said before it starts.
//!
//! Seconds of boots and works as they were measured in the lab and on fast hosts; good to some tens
//! of percent. Once runs have ended, [`super::progress`] knows better. Pure; called by
//! [`super::session`].

use std::time::Duration;

use coopvirt_spec::work::Work;

use super::cmdline::Amount;
use super::plan::Cell;
use super::setting::{Backing, Log};

/// Seconds of something, on an emulated host and on another.
struct Cost {
    emulated: f64,
    native: f64,
}

const fn cost(emulated: f64, native: f64) -> Cost {
    Cost { emulated, native }
}

/// A boot and a power-off.
const BOOT: Cost = cost(5.0, 1.5);
/// What the kernel's log adds.
const LOG: Cost = cost(3.0, 0.5);
/// Waiting until the guest has reported its free memory.
const RETURNED: Cost = cost(22.0, 12.0);
/// The quiet time before each work, and its record.
const SETTLE: Cost = cost(0.5, 0.35);

/// How long these cells take.
pub fn of(cells: &[Cell], amount: Amount, is_emulated: bool) -> Duration {
    let pick = |cost: Cost| match is_emulated {
        true => cost.emulated,
        false => cost.native,
    };
    let seconds = cells.iter().map(|cell| {
        let works = cell.works.iter().map(|work| match lasting(*work, amount) {
            Some(seconds) => seconds + pick(SETTLE),
            None if *work == Work::Boot => 0.0,
            None => pick(of_work(*work)) * amount.scale + pick(SETTLE),
        });
        let log = if cell.setting.log == Log::Full {
            pick(LOG)
        } else {
            0.0
        };
        let is_returned = cell.setting.backing == Backing::Returned;
        let wait = if is_returned { pick(RETURNED) } else { 0.0 };
        pick(BOOT) + f64::from(amount.warm_up) + log + wait + works.sum::<f64>()
    });
    // Scale and repetitions have limits: days at the most.
    Duration::from_secs_f64(seconds.sum::<f64>().clamp(0.0, 1e9))
}

/// What lasts for a time instead of a number of operations.
fn lasting(work: Work, amount: Amount) -> Option<f64> {
    let lasts = matches!(work, Work::Idle | Work::Busy | Work::Clock);
    lasts.then(|| match amount.seconds {
        Some(seconds) => f64::from(seconds),
        None => (2.0 * amount.scale).max(1.0),
    })
}

/// At scale 1.
fn of_work(work: Work) -> Cost {
    match work {
        Work::Touch | Work::Refill => cost(2.0, 0.1),
        Work::Cycles => cost(90.0, 30.0),
        Work::Wakeup | Work::Cyclictest => cost(5.0, 3.0),
        _ => cost(0.6, 0.2),
    }
}

/// "about 18 min: 48 boots".
pub fn text(time: Duration, boots: usize) -> String {
    let time = match time.as_secs() {
        seconds @ ..=90 => format!("{seconds} s"),
        seconds => format!("{} min", (seconds + 30) / 60),
    };
    let s = if boots == 1 { "" } else { "s" };
    format!("about {time}: {boots} boot{s}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::args::tests::parse;
    use crate::compare::experiments;
    use crate::compare::plan;

    fn minutes(line: &str) -> u64 {
        let args = parse(line);
        let choice = args.choose().unwrap();
        let cells = plan::cells(&choice, args.console, args.repetitions, args.seed);
        let amount = Amount {
            scale: args.scale,
            seconds: args.seconds,
            warm_up: args.settle,
        };
        of(&cells, amount, true).as_secs() / 60
    }

    #[test]
    fn more_work_takes_longer() {
        assert!(minutes("-n 20") > minutes("-n 10"));
        assert!(minutes("-n 10 --scale 4") > minutes("-n 10"));
        assert!(minutes("-n 10 --seconds 9") > minutes("-n 10"));
        assert!(minutes("-n 10 --refill returned") > minutes("-n 10"));
        assert_eq!(
            text(Duration::from_secs(1070), 48),
            "about 18 min: 48 boots"
        );
        assert_eq!(text(Duration::from_secs(9), 1), "about 9 s: 1 boot");
    }

    #[test]
    fn the_whole_experiment_fits_into_45_minutes_of_the_lab() {
        let full = experiments::by_name("full").unwrap().text;
        assert!(full.contains("repetitions = 3") && full.contains("seconds = 2"));
        assert!(minutes("--arms stock,coop -n 3 --seconds 2") < 40);
    }
}
