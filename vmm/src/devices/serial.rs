//! COM1: a 16550A by `vm-superio`, its interrupt through an irqfd, its output to the console.
//!
//! A vCPU that prints waits for the console's reader before it takes the port's lock: input, and with it
//! the whole I/O thread, must not wait behind it. What is typed waits in a queue of ours behind the 64 bytes
//! of the port's own, which gets more whenever the guest has emptied it.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;
use crate::console::input::InputSink;
use crate::console::typed::Typed;
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
const MODEM_CONTROL: u8 = 4;
const LOOP: u8 = 1 << 4;

/// What the receive FIFO holds.
const FIFO_BYTES: usize = 64;

struct Uart {
    port: Serial<IrqLine, NoEvents, Box<dyn Write + Send>>,
    typed: Typed,
}

impl Uart {
    /// Gives the guest what was typed. A whole FIFO at once, so that it costs one interrupt.
    fn refill(&mut self) {
        // Nothing is received while what the guest prints comes back to it; a look costs little, so
        // there is one after each access.
        if self.typed.is_empty() || self.port.fifo_capacity() < FIFO_BYTES || self.is_in_loop() {
            return;
        }
        let mut keys = [0; FIFO_BYTES];
        let count = self.typed.pop(&mut keys);
        // It fails where the interrupt does, and has taken the keys then.
        let _ = self.port.enqueue_raw_bytes(&keys[..count]);
    }

    fn is_in_loop(&mut self) -> bool {
        self.port.read(MODEM_CONTROL) & LOOP != 0
    }
}

/// The port as vCPU threads and the console's input share it.
#[derive(Clone)]
pub struct SerialPort {
    uart: Arc<Mutex<Uart>>,
    output: Option<ConsoleOutput>,
}

impl SerialPort {
    /// A port whose interrupt is `irq` and whose output goes to `output`, if anywhere.
    pub fn new(irq: EventFd, output: Option<ConsoleOutput>) -> io::Result<Self> {
        let writer: Box<dyn Write + Send> = match &output {
            Some(output) => Box::new(output.clone()),
            None => Box::new(io::sink()),
        };
        let uart = Uart {
            port: Serial::new(IrqLine(irq), writer),
            typed: Typed::new()?,
        };
        Ok(Self {
            uart: Arc::new(Mutex::new(uart)),
            output,
        })
    }

    fn uart(&self) -> MutexGuard<'_, Uart> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InputSink for SerialPort {
    fn push(&self, bytes: &[u8]) -> usize {
        let mut uart = self.uart();
        let accepted = uart.typed.push(bytes);
        uart.refill();
        accepted
    }

    fn room(&self) -> Arc<EventFd> {
        self.uart().typed.room()
    }
}

impl BusDevice for SerialPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let (Ok(offset), Some(first)) = (u8::try_from(offset), data.first_mut()) else {
            return;
        };
        let mut uart = self.uart();
        *first = uart.port.read(offset);
        uart.refill();
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (Ok(offset), Some(&value)) = (u8::try_from(offset), data.first()) else {
            return;
        };
        if let Some(output) = self.output.as_ref().filter(|_| offset == DATA) {
            output.wait_for_room();
        }
        let mut uart = self.uart();
        // It fails where the interrupt does: its counter is full, and the guest has one to come.
        let _ = uart.port.write(offset, value);
        uart.refill();
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
        let mut serial = SerialPort::new(irq, None).expect("another, too");
        for value in 0..=255u8 {
            for offset in 0..8 {
                serial.write(offset, &[value]);
                serial.write(offset, &[]);
                serial.read(offset, &mut [0; 4]);
            }
        }
        let mut taken = 0;
        for _ in 0..10_000 {
            taken += serial.push(&[b'x'; 100]);
        }
        assert!((64 << 10..128 << 10).contains(&taken), "{taken}");
    }

    #[test]
    fn what_does_not_fit_the_fifo_comes_when_the_guest_has_emptied_it_with_an_interrupt() {
        const INTERRUPT_ENABLE: u64 = 1;
        const LINE_STATUS: u64 = 5;
        let irq = EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd can be made");
        let interrupts = irq.try_clone().expect("it can be cloned");
        let mut serial = SerialPort::new(irq, None).expect("another, too");
        serial.write(INTERRUPT_ENABLE, &[1]);
        let line: Vec<u8> = (0..200).collect();
        assert_eq!(serial.push(&line), 200);
        let read = |serial: &mut SerialPort, offset| {
            let mut byte = [0];
            serial.read(offset, &mut byte);
            byte[0]
        };
        let mut came = Vec::new();
        while read(&mut serial, LINE_STATUS) & 1 != 0 {
            if came.len() % FIFO_BYTES == 0 {
                assert_eq!(interrupts.read().ok(), Some(1), "{}", came.len());
            }
            came.push(read(&mut serial, 0));
        }
        assert_eq!(came, line);
        // What the guest prints comes back to it for a while; nothing that is typed then is lost.
        serial.write(MODEM_CONTROL.into(), &[LOOP]);
        assert_eq!(serial.push(b"k"), 1);
        assert_eq!(read(&mut serial, LINE_STATUS) & 1, 0);
        serial.write(MODEM_CONTROL.into(), &[0]);
        assert_eq!(read(&mut serial, 0), b'k');
    }

    /// Prints more than a pipe that nobody reads and the buffers before it hold.
    #[test]
    fn input_does_not_wait_for_the_reader_of_the_output_and_the_end_does_not_either() {
        let irq = EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd can be made");
        let (_reader, writer) = io::pipe().expect("a pipe can be made");
        let output = ConsoleOutput::new(Box::new(writer), Weak::new()).expect("a thread");
        let serial = SerialPort::new(irq, Some(output.clone())).expect("an eventfd");
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
