//! The order of the runs: which arm boots when, with which console and works.
//!
//! Pure; called by [`super::session`]. Each repetition holds every cell once, in an order of its
//! own, so that a drift of the machine hits all arms alike.

use coopvirt_spec::work::Work;

use super::args::{Choice, Console};
use super::arm::Arm;
use super::stats::Random;

/// One boot that is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Which repetition, from 0.
    pub repetition: u32,
    /// The arm.
    pub arm: &'static Arm,
    /// The guest's console.
    pub console: Console,
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
    for &arm in &choice.arms {
        cells.push(Cell {
            repetition,
            arm,
            console,
            works: choice.works.clone(),
        });
        if arm.has_other_console && choice.works.contains(&Work::Boot) {
            let works = vec![Work::Boot];
            cells.push(Cell {
                repetition,
                arm,
                console: console.other(),
                works,
            });
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::args::tests::parse;

    #[test]
    fn every_repetition_has_every_cell_once_in_its_own_order() {
        let choice = parse("").choose().unwrap();
        let all = cells(&choice, Console::Virtio, 6, 1);
        // Six arms, and three of them boot with the serial console as well.
        assert_eq!(all.len(), 6 * 9);
        let key = |cell: &Cell| (cell.arm.name, cell.console);
        let orders: Vec<Vec<_>> = all.chunks(9).map(|c| c.iter().map(key).collect()).collect();
        for order in &orders {
            let mut sorted = order.clone();
            sorted.sort();
            sorted.dedup();
            assert_eq!(sorted.len(), 9);
        }
        assert!(orders.iter().any(|order| *order != orders[0]));
        assert_eq!(all, cells(&choice, Console::Virtio, 6, 1));
        assert_eq!(all[..9], cells(&choice, Console::Virtio, 1, 1));
    }

    #[test]
    fn the_other_console_boots_only_where_boots_are_asked_for() {
        let choice = parse("--arms kvm,hvm --works boot,pipe").choose().unwrap();
        let mut all = cells(&choice, Console::Virtio, 1, 1);
        all.retain(|cell| cell.console == Console::Serial);
        assert_eq!(all.len(), 1);
        assert_eq!(
            (all[0].arm.name, &all[0].works[..]),
            ("kvm", &[Work::Boot][..])
        );
        let choice = parse("--arms kvm --works pipe").choose().unwrap();
        assert_eq!(cells(&choice, Console::Virtio, 1, 1).len(), 1);
    }
}
