//! COM1: a 16550A by `vm-superio`, its interrupt through an irqfd, its output to the console.
//!
//! A vCPU that prints waits for the console's reader before it takes the port's lock: input, and with it
//! the whole I/O thread, must not wait behind it.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;
use crate::console::writer::ConsoleOutput;

/// Raises the serial interrupt by its irqfd.
pub struct IrqLine(EventFd);

impl Trigger for IrqLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Where the guest writes what it prints, and reads what was typed.
const DATA: u8 = 0;

type Uart = Serial<IrqLine, NoEvents, Box<dyn Write + Send>>;

/// The port as vCPU threads and the console's input share it.
#[derive(Clone)]
pub struct SerialPort {
    uart: Arc<Mutex<Uart>>,
    output: Option<ConsoleOutput>,
}

impl SerialPort {
    /// A port whose interrupt is `irq` and whose output goes to `output`, if anywhere.
    pub fn new(irq: EventFd, output: Option<ConsoleOutput>) -> Self {
        let writer: Box<dyn Write + Send> = match &output {
            Some(output) => Box::new(output.clone()),
            None => Box::new(io::sink()),
        };
        Self {
            uart: Arc::new(Mutex::new(Serial::new(IrqLine(irq), writer))),
            output,
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
        if let Some(output) = self.output.as_ref().filter(|_| offset == DATA) {
            output.wait_for_room();
        }
        // It fails where the interrupt does: its counter is full, and the guest has one to come.
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
    use std::sync::mpsc::channel;
    use std::sync::Weak;
    use std::time::Duration;

    use super::*;

    const SHORT: Duration = Duration::from_secs(1);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn any_access_is_harmless_and_input_is_bounded() {
        let irq = EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd can be made");
        let mut serial = SerialPort::new(irq, None);
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

    /// Prints more than a pipe that nobody reads and the buffers before it hold.
    #[test]
    fn input_does_not_wait_for_the_reader_of_the_output_and_the_end_does_not_either() {
        let irq = EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd can be made");
        let (_reader, writer) = io::pipe().expect("a pipe can be made");
        let output = ConsoleOutput::new(Box::new(writer), Weak::new()).expect("a thread");
        let serial = SerialPort::new(irq, Some(output.clone()));
        let (printed, progress) = channel();
        let mut of_vcpu = serial.clone();
        std::thread::spawn(move || {
            for _ in 0..1 << 20 {
                of_vcpu.write(0, b"x");
                let _ = printed.send(());
            }
        });
        while progress.recv_timeout(SHORT).is_ok() {}
        let (pushed, is_pushed) = channel();
        std::thread::spawn(move || pushed.send(serial.push(b"k")));
        assert_eq!(is_pushed.recv_timeout(LONG), Ok(1));
        output.end();
        assert_eq!(progress.recv_timeout(LONG), Ok(()));
    }
}
