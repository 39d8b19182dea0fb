//! Says records to the host, through the serial port, and ends the machine.
//!
//! Nothing else may write to that port. Only tests and the panic handler call this, never an
//! interrupt's callback.

use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use micro_protocol::{Record, EXIT_PANICKED, MAX_FRAME_BYTES};

use crate::x86::{interrupts, port};

/// COM1. Its transmitter is always ready in a virtual machine: asking would cost an exit a byte.
const PORT_SERIAL: u16 = 0x3f8;
const PORT_DEBUG_EXIT: u16 = 0xf4;
/// Longest text of a failure.
const MAX_TEXT_BYTES: usize = 700;
/// So often a CPU that panics looks whether another one has finished its record.
const PATIENCE: u32 = 10_000_000;

static IS_BUSY: AtomicBool = AtomicBool::new(false);
static HAS_PANICKED: AtomicBool = AtomicBool::new(false);

/// Says a record.
pub fn send(record: &Record<'_>) {
    let mut patience = PATIENCE;
    // Who holds the lock may have panicked inside, or been hit by a fault: then go on regardless.
    while IS_BUSY.swap(true, Ordering::Acquire) && patience > 0 {
        patience -= 1;
        core::hint::spin_loop();
    }
    let mut buffer = [0; MAX_FRAME_BYTES];
    for &byte in record.encode(&mut buffer) {
        port::write_u8(PORT_SERIAL, byte);
    }
    IS_BUSY.store(false, Ordering::Release);
}

/// Says a figure that the running test has measured.
pub fn value(name: &str, value: u64) {
    send(&Record::Value { name, value });
}

/// Ends the machine with this code.
pub fn end(code: u8) -> ! {
    port::write_u8(PORT_DEBUG_EXIT, code);
    interrupts::stop()
}

/// Says file and line of the first panic, and ends the machine.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    interrupts::disable();
    if HAS_PANICKED.swap(true, Ordering::Relaxed) {
        interrupts::stop();
    }
    let mut text = Text {
        bytes: [0; MAX_TEXT_BYTES],
        len: 0,
    };
    // Writing to a `Text` never fails.
    let _ = write!(text, "{}", info.message());
    let (file, line) = info
        .location()
        .map_or(("", 0), |place| (place.file(), place.line()));
    let text = core::str::from_utf8(&text.bytes[..text.len]).unwrap_or("(not text)");
    send(&Record::Fail { file, line, text });
    end(EXIT_PANICKED)
}

/// Text of limited length; what is too long is cut.
struct Text {
    bytes: [u8; MAX_TEXT_BYTES],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let mut len = text.len().min(MAX_TEXT_BYTES - self.len);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        self.bytes[self.len..self.len + len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}
