//! The keyboard controller's command port, as far as it resets the machine.
//!
//! There is no keyboard: status reads as "nothing to read, ready for a command", and command 0xfe
//! (pulse the reset line) is the only one with an effect.

use std::sync::mpsc::Sender;

use crate::bus::BusDevice;
use crate::event::MachineEvent;

const COMMAND_RESET: u8 = 0xfe;

/// Port 0x64.
pub struct I8042 {
    events: Sender<MachineEvent>,
}

impl I8042 {
    /// Sends the guest's reset to `events`.
    pub fn new(events: Sender<MachineEvent>) -> Self {
        Self { events }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if data.first() == Some(&COMMAND_RESET) {
            // The receiver only goes away when the machine is stopping already.
            let _ = self.events.send(MachineEvent::Reset);
        }
    }

    fn name(&self) -> &str {
        "i8042"
    }
}
