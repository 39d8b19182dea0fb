//! pvpanic: a guest with its driver reports a kernel panic in one byte.
//!
//! Source: QEMU `docs/specs/pvpanic.rst`. Reads give the supported events.

use std::sync::mpsc::Sender;

use crate::bus::BusDevice;
use crate::event::MachineEvent;

const PANICKED: u8 = 1;
const CRASH_LOADED: u8 = 2;

/// The event port.
pub struct PvPanic {
    events: Sender<MachineEvent>,
}

impl PvPanic {
    /// Sends panic events to `events`.
    pub fn new(events: Sender<MachineEvent>) -> Self {
        Self { events }
    }
}

impl BusDevice for PvPanic {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(PANICKED | CRASH_LOADED);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if data.first().is_some_and(|event| event & PANICKED != 0) {
            // The receiver only goes away when the machine is stopping already.
            let _ = self.events.send(MachineEvent::Panicked);
        }
    }

    fn name(&self) -> &str {
        "pvpanic"
    }
}
