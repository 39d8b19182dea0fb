//! ACPI PM1a registers and the reset register: how a guest switches the machine off or restarts it.
//!
//! | port | width | register |
//! |---|---|---|
//! | +0 | 2 | PM1 status: the power button is the one event; write one to clear |
//! | +2 | 2 | PM1 enable |
//! | +4 | 2 | PM1 control: SCI_EN reads as one; SLP_EN with the S5 type switches off |
//! | +8 | 1 | reset register |
//!
//! The button is ACPI's fixed one: while it is both pressed and enabled, the SCI is asserted.
//!
//! Source: ACPI specification 6.5, sections 4.8.3 and 4.8.3.6.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::Arc;

use crate::boot::acpi::SLEEP_TYPE_S5;
use crate::bus::BusDevice;
use crate::event::MachineEvent;

const PM1_CONTROL: u64 = 4;
const RESET: u64 = 8;
const SCI_ENABLED: u16 = 1;
const SLEEP_ENABLE: u16 = 1 << 13;
/// In PM1 status and enable.
const POWER_BUTTON: u16 = 1 << 8;

/// The guest has not enabled the power button: its kernel has no driver for it, or not yet.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the guest does not listen to the power button (is its kernel's module \"button\" loaded?)"
)]
pub struct NotListening;

/// The PM1a block with the reset register behind it.
pub struct Power {
    status: u16,
    enable: u16,
    is_asserted: bool,
    sci: Box<dyn Fn(bool) + Send>,
    acpi_in_use: Arc<AtomicBool>,
    events: Sender<MachineEvent>,
}

impl Power {
    /// Bytes of port space.
    pub const PORTS: u64 = 9;

    /// Sends what the guest asks for to `events`, and sets `acpi_in_use` once the guest has set up
    /// its ACPI events. `sci` sets the level of the SCI.
    pub fn new(
        acpi_in_use: Arc<AtomicBool>,
        events: Sender<MachineEvent>,
        sci: Box<dyn Fn(bool) + Send>,
    ) -> Self {
        Self {
            status: 0,
            enable: 0,
            is_asserted: false,
            sci,
            acpi_in_use,
            events,
        }
    }

    /// Presses the power button.
    pub fn press(&mut self) -> Result<(), NotListening> {
        if self.enable & POWER_BUTTON == 0 {
            return Err(NotListening);
        }
        self.status |= POWER_BUTTON;
        self.update_sci();
        Ok(())
    }

    fn update_sci(&mut self) {
        let level = self.status & self.enable & POWER_BUTTON != 0;
        if level != self.is_asserted {
            self.is_asserted = level;
            (self.sci)(level);
        }
    }

    fn control(&mut self, value: u16) {
        let sleep_type = value >> 10 & 7;
        if value & SLEEP_ENABLE != 0 && sleep_type == u16::from(SLEEP_TYPE_S5) {
            // The receiver only goes away when the machine is stopping already.
            let _ = self.events.send(MachineEvent::PowerOff);
        }
    }
}

impl BusDevice for Power {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let mut registers = [0u8; 16];
        registers[0..2].copy_from_slice(&self.status.to_le_bytes());
        registers[2..4].copy_from_slice(&self.enable.to_le_bytes());
        registers[4..6].copy_from_slice(&SCI_ENABLED.to_le_bytes());
        for (at, byte) in (offset..).zip(data) {
            *byte = usize::try_from(at)
                .ok()
                .and_then(|at| registers.get(at))
                .copied()
                .unwrap_or(0);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset < PM1_CONTROL {
            // Read once, when the machine has stopped: no order with anything else is needed.
            self.acpi_in_use.store(true, Ordering::Relaxed);
        }
        let word = |data: &[u8]| u16::from_le_bytes([data[0], data.get(1).copied().unwrap_or(0)]);
        match (offset, data.len()) {
            (_, 0) => {}
            (0, 2) => self.status &= !word(data),
            (0, 4) => {
                self.status &= !word(data);
                self.enable = word(&data[2..]);
            }
            (2, _) => self.enable = word(data),
            (PM1_CONTROL, 2..) => self.control(word(data)),
            (RESET, 1) => {
                let _ = self.events.send(MachineEvent::Reset);
            }
            _ => {}
        }
        self.update_sci();
    }

    fn name(&self) -> &str {
        "acpi-pm"
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn s5_switches_off_and_other_sleep_types_do_not() {
        let (sender, requests) = channel();
        let mut power = Power::new(Arc::default(), sender, Box::new(|_| ()));
        power.write(4, &(SLEEP_ENABLE | 3 << 10).to_le_bytes());
        assert!(requests.try_recv().is_err());
        power.write(4, &(SLEEP_ENABLE | 5 << 10).to_le_bytes());
        assert_eq!(requests.try_recv(), Ok(MachineEvent::PowerOff));
        power.write(8, &[1]);
        assert_eq!(requests.try_recv(), Ok(MachineEvent::Reset));
    }

    #[test]
    fn the_button_holds_the_sci_until_the_guest_clears_it() {
        let (sender, _requests) = channel();
        let (levels, seen) = channel();
        let sci = Box::new(move |level| levels.send(level).unwrap());
        let mut power = Power::new(Arc::default(), sender, sci);
        let status = |power: &mut Power| {
            let mut data = [0; 2];
            power.read(0, &mut data);
            u16::from_le_bytes(data)
        };
        assert_eq!(power.press(), Err(NotListening));
        assert_eq!(status(&mut power), 0);
        power.write(2, &POWER_BUTTON.to_le_bytes());
        assert_eq!(power.press(), Ok(()));
        assert_eq!(power.press(), Ok(()));
        assert_eq!(status(&mut power), POWER_BUTTON);
        power.write(0, &0_u16.to_le_bytes());
        assert_eq!(status(&mut power), POWER_BUTTON);
        power.write(0, &POWER_BUTTON.to_le_bytes());
        assert_eq!(status(&mut power), 0);
        assert_eq!(seen.try_iter().collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn any_access_is_harmless() {
        let (sender, _requests) = channel();
        let mut power = Power::new(Arc::default(), sender, Box::new(|_| ()));
        for offset in 0..Power::PORTS {
            for len in 0..=8 {
                power.write(offset, &vec![0xa5; len]);
                power.read(offset, &mut vec![0; len]);
            }
        }
        let mut control = [0; 2];
        power.read(4, &mut control);
        assert_eq!(u16::from_le_bytes(control), SCI_ENABLED);
    }
}
