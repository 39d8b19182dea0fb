//! The debug-exit port: a test guest ends the machine with a code.

use std::sync::mpsc::Sender;

use crate::bus::BusDevice;
use crate::event::MachineEvent;

/// One byte-wide port.
pub struct DebugExit {
    events: Sender<MachineEvent>,
}

impl DebugExit {
    /// Sends the guest's code to `events`.
    pub fn new(events: Sender<MachineEvent>) -> Self {
        Self { events }
    }
}

impl BusDevice for DebugExit {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if let Some(&code) = data.first() {
            // The receiver only goes away when the machine is stopping already.
            let _ = self.events.send(MachineEvent::Exit(code));
        }
    }

    fn name(&self) -> &str {
        "debug-exit"
    }
}
