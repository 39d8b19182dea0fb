//! ACPI PM1a registers and the reset register: how a guest switches the machine off or restarts it.
//!
//! | port | width | register |
//! |---|---|---|
//! | +0 | 2 | PM1 status: write one to clear; no event is ever raised |
//! | +2 | 2 | PM1 enable |
//! | +4 | 2 | PM1 control: SCI_EN reads as one; SLP_EN with the S5 type switches off |
//! | +8 | 1 | reset register |
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

/// The PM1a block with the reset register behind it.
pub struct Power {
    enable: u16,
    acpi_in_use: Arc<AtomicBool>,
    events: Sender<MachineEvent>,
}

impl Power {
    /// Bytes of port space.
    pub const PORTS: u64 = 9;

    /// Sends what the guest asks for to `events`, and sets `acpi_in_use` once the guest has set up
    /// its ACPI events.
    pub fn new(acpi_in_use: Arc<AtomicBool>, events: Sender<MachineEvent>) -> Self {
        Self {
            enable: 0,
            acpi_in_use,
            events,
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
            (0, 4) => self.enable = word(&data[2..]),
            (2, _) => self.enable = word(data),
            (PM1_CONTROL, 2..) => self.control(word(data)),
            (RESET, 1) => {
                let _ = self.events.send(MachineEvent::Reset);
            }
            _ => {}
        }
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
        let mut power = Power::new(Arc::default(), sender);
        power.write(4, &(SLEEP_ENABLE | 3 << 10).to_le_bytes());
        assert!(requests.try_recv().is_err());
        power.write(4, &(SLEEP_ENABLE | 5 << 10).to_le_bytes());
        assert_eq!(requests.try_recv(), Ok(MachineEvent::PowerOff));
        power.write(8, &[1]);
        assert_eq!(requests.try_recv(), Ok(MachineEvent::Reset));
    }

    #[test]
    fn any_access_is_harmless() {
        let (sender, _requests) = channel();
        let mut power = Power::new(Arc::default(), sender);
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
