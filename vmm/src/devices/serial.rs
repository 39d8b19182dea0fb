//! COM1: a 16550A by `vm-superio`, its interrupt through an irqfd, its output to the console.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;

/// Raises the serial interrupt by its irqfd.
pub struct IrqLine(EventFd);

impl Trigger for IrqLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

type Uart = Serial<IrqLine, NoEvents, Box<dyn Write + Send>>;

/// The port as vCPU threads and the console's input share it.
#[derive(Clone)]
pub struct SerialPort {
    uart: Arc<Mutex<Uart>>,
}

impl SerialPort {
    /// A port whose interrupt is `irq` and whose output goes to `output`.
    pub fn new(irq: EventFd, output: Box<dyn Write + Send>) -> Self {
        Self {
            uart: Arc::new(Mutex::new(Serial::new(IrqLine(irq), output))),
        }
    }

    /// Puts typed bytes into the receive FIFO; returns how many fitted.
    pub fn push(&self, bytes: &[u8]) -> usize {
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
        let room = uart.fifo_capacity().min(bytes.len());
        uart.enqueue_raw_bytes(&bytes[..room]).unwrap_or(0)
    }
}

impl BusDevice for SerialPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let (Ok(offset), Some(first)) = (u8::try_from(offset), data.first_mut()) else {
            return;
        };
        *first = self
            .uart
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read(offset);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (Ok(offset), Some(&value)) = (u8::try_from(offset), data.first()) else {
            return;
        };
        // A console that cannot be written to loses output; it must not stop the guest.
        let _ = self
            .uart
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(offset, value);
    }

    fn name(&self) -> &str {
        "serial"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_access_is_harmless_and_input_is_bounded() {
        let irq = EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd can be made");
        let mut serial = SerialPort::new(irq, Box::new(io::sink()));
        for value in 0..=255u8 {
            for offset in 0..8 {
                serial.write(offset, &[value]);
                serial.write(offset, &[]);
                serial.read(offset, &mut [0; 4]);
            }
        }
        let mut taken = 0;
        for _ in 0..100 {
            taken += serial.push(&[b'x'; 100]);
        }
        assert!(taken <= 64, "{taken}");
    }
}
