//! The doors: every way out of the guest that is measured, in the order of the guest's own table.

use coopvirt_spec::page::AreaLayout;
use coopvirt_spec::version::Features;

use super::guest::HALT_CYCLES;

/// Entries of a ring as version 1 announces it.
pub const RING_ENTRIES: u32 = AreaLayout::DEFAULT.ring_entries();

/// Name of the ring's doors with a doorbell.
pub const SYNC: &str = "ring, synchronous doorbell";
/// Name of the ring's doors without.
pub const POLLED: &str = "ring, sidecore polls";

/// Which machine a door is measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// Its polling thread never polls.
    Quiet,
    /// Its polling thread polls always.
    Polled,
}

impl Machine {
    /// What the guest negotiates there.
    pub fn features(self) -> Features {
        match self {
            Machine::Quiet => Features::RING,
            Machine::Polled => Features::RING | Features::SIDECORE,
        }
    }
}

/// One door.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    /// Its index in the guest's table; `None`: the guest cannot do it.
    pub index: Option<u8>,
    /// Name in the table.
    pub name: &'static str,
    /// Operations in one iteration of the guest's loop.
    pub batch: u32,
    /// Where it is measured.
    pub machine: Machine,
    /// Cycles that each iteration only waits, by its own wish.
    pub waits_cycles: u64,
}

impl Door {
    /// Why it cannot be measured, if so.
    pub fn obstacle(&self) -> Option<String> {
        (self.batch > RING_ENTRIES).then(|| format!("the ring holds {RING_ENTRIES}"))
    }
}

const fn plain(index: u8, name: &'static str) -> Door {
    Door {
        index: Some(index),
        name,
        batch: 1,
        machine: Machine::Quiet,
        waits_cycles: 0,
    }
}

const fn ring(index: Option<u8>, name: &'static str, batch: u32, machine: Machine) -> Door {
    Door {
        index,
        name,
        batch,
        machine,
        waits_cycles: 0,
    }
}

/// The loop that all others are compared with: index 0, on every machine.
pub const EMPTY: Door = plain(0, "empty loop");

/// The doors.
pub const ALL: [Door; 17] = [
    plain(1, "port, to userspace"),
    plain(2, "port, ioeventfd (asynchronous doorbell)"),
    plain(3, "MMIO, to userspace"),
    plain(4, "RDMSR in the kernel (APICBASE)"),
    plain(5, "WRMSR in the kernel (TSC_DEADLINE)"),
    plain(6, "WRMSR to userspace"),
    plain(7, "hypercall, unknown number"),
    plain(8, "CPUID"),
    Door {
        waits_cycles: HALT_CYCLES,
        ..plain(9, "HLT, own timer, wake-up; after its deadline")
    },
    ring(Some(10), SYNC, 1, Machine::Quiet),
    ring(Some(11), SYNC, 8, Machine::Quiet),
    ring(Some(12), SYNC, 32, Machine::Quiet),
    ring(None, SYNC, 64, Machine::Quiet),
    ring(Some(13), POLLED, 1, Machine::Polled),
    ring(Some(14), POLLED, 8, Machine::Polled),
    ring(Some(15), POLLED, 32, Machine::Polled),
    ring(None, POLLED, 64, Machine::Polled),
];

/// The doors that the guest of a machine goes through, the empty loop among them.
pub fn on(machine: Machine) -> impl Iterator<Item = Door> {
    let of_it = ALL.into_iter().filter(move |door| door.machine == machine);
    std::iter::once(EMPTY).chain(of_it.filter(|door| door.index.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_has_every_door_and_each_that_it_lacks_has_an_obstacle() {
        let indices: Vec<u8> = ALL.iter().filter_map(|door| door.index).collect();
        assert_eq!(indices, (1..=15).collect::<Vec<u8>>());
        assert!(ALL
            .iter()
            .all(|door| door.index.is_none() == door.obstacle().is_some()));
        assert_eq!(on(Machine::Quiet).count() + on(Machine::Polled).count(), 17);
    }
}
