//! The order of the runs: which arm boots when, with which console and works.
//!
//! Pure; called by [`super::session`]. Each repetition holds every cell once, in an order of its
//! own, so that a drift of the machine hits all arms alike.

use coopvirt_spec::work::Work;

use super::args::{Choice, Console, Refill};
use super::arm::Arm;
use super::setting::Setting;
use super::stats::Random;

/// One boot that is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Which repetition, from 0.
    pub repetition: u32,
    /// The arm.
    pub arm: &'static Arm,
    /// How it is booted.
    pub setting: Setting,
    /// What the guest does.
    pub works: Vec<Work>,
}

/// All cells of a comparison in the order in which they are run.
pub fn cells(choice: &Choice, console: Console, repetitions: u32, seed: u64) -> Vec<Cell> {
    let mut all = Vec::new();
    for repetition in 0..repetitions {
        let mut cells = repetition_of(choice, console, repetition);
        // A seed per repetition: a resumed comparison has the same order as an unbroken one.
        let mixed = seed ^ u64::from(repetition + 1).wrapping_mul(0xd134_2543_de82_ef95);
        Random::new(mixed).shuffle(&mut cells);
        all.append(&mut cells);
    }
    all
}

fn repetition_of(choice: &Choice, console: Console, repetition: u32) -> Vec<Cell> {
    let mut cells = Vec::new();
    let setting = Setting::quiet(console);
    let is_apart = |work: &Work| *work == Work::Refill && choice.refill == Refill::Returned;
    let (apart, works): (Vec<Work>, Vec<Work>) = choice.works.iter().partition(|w| is_apart(w));
    for &arm in &choice.arms {
        let main = (setting, works.clone());
        let returned = (Setting::returned(console), apart.clone());
        for (setting, works) in [main, returned] {
            // What a guest cannot give back it cannot refill either: a gap, not a failure.
            let is_impossible = setting == Setting::returned(console) && !arm.gives_memory_back();
            if works.is_empty() || is_impossible {
                continue;
            }
            cells.push(Cell {
                repetition,
                arm,
                setting,
                works,
            });
        }
        if arm.has_log_boots && choice.works.contains(&Work::Boot) {
            cells.extend(Setting::BOOT_ONLY.map(|setting| {
                let works = vec![Work::Boot];
                Cell {
                    repetition,
                    arm,
                    setting,
                    works,
                }
            }));
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::args::tests::parse;
    use crate::compare::setting::Log;

    #[test]
    fn every_repetition_has_every_cell_once_in_its_own_order() {
        let choice = parse("").choose().unwrap();
        let all = cells(&choice, Console::Virtio, 6, 1);
        // Six arms, and three of them boot with the kernel's log on two consoles as well.
        assert_eq!(all.len(), 6 * 12);
        let key = |cell: &Cell| (cell.arm.name.as_str(), cell.setting);
        let orders: Vec<Vec<_>> = all
            .chunks(12)
            .map(|c| c.iter().map(key).collect())
            .collect();
        for order in &orders {
            let mut sorted = order.clone();
            sorted.sort();
            sorted.dedup();
            assert_eq!(sorted.len(), 12);
        }
        assert!(orders.iter().any(|order| *order != orders[0]));
        assert_eq!(all, cells(&choice, Console::Virtio, 6, 1));
        assert_eq!(all[..12], cells(&choice, Console::Virtio, 1, 1));
    }

    #[test]
    fn a_guest_that_keeps_its_memory_does_not_refill_any() {
        let words =
            "--arms kvm,coop/only-release,coop/no-release --works pipe,refill --refill returned";
        let all = cells(&parse(words).choose().unwrap(), Console::Virtio, 1, 1);
        let refills = all.iter().filter(|cell| cell.works == [Work::Refill]);
        let mut refills: Vec<_> = refills.map(|cell| cell.arm.name.as_str()).collect();
        refills.sort_unstable();
        assert_eq!(refills, ["coop/only-release", "kvm"]);
        assert_eq!(all.len(), 5);
    }

    #[test]
    fn a_refill_of_returned_memory_has_a_boot_of_its_own() {
        let choice = parse("--arms hvm --works pipe,refill --refill returned")
            .choose()
            .unwrap();
        let mut all = cells(&choice, Console::Virtio, 1, 1);
        all.sort_by_key(|cell| cell.setting);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].works, [Work::Pipe]);
        assert_eq!(all[1].works, [Work::Refill]);
        assert_eq!(all[1].setting, Setting::returned(Console::Virtio));
        let choice = parse("--arms hvm --works refill --refill returned")
            .choose()
            .unwrap();
        assert_eq!(cells(&choice, Console::Virtio, 1, 1).len(), 1);
    }

    #[test]
    fn the_log_is_printed_only_where_boots_are_asked_for() {
        let choice = parse("--arms kvm,hvm --works boot,pipe").choose().unwrap();
        let mut all = cells(&choice, Console::Virtio, 1, 1);
        all.retain(|cell| cell.setting.log == Log::Full);
        assert_eq!(all.len(), 2);
        assert_eq!(
            (all[0].arm.name.as_str(), &all[0].works[..]),
            ("kvm", &[Work::Boot][..])
        );
        let choice = parse("--arms kvm --works pipe").choose().unwrap();
        assert_eq!(cells(&choice, Console::Virtio, 1, 1).len(), 1);
    }
}
