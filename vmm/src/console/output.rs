//! Where the guest's console output goes: standard output.

use std::io::{self, Write};

use rustix::event::{poll, PollFd, PollFlags};
use rustix::io::Errno;

/// Standard output without a buffer of its own: a guest's console is read while it is written.
#[derive(Debug, Default)]
pub struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stdout = rustix::stdio::stdout();
        loop {
            match rustix::io::write(stdout, bytes) {
                // Whoever shares the file with us may have made it so; we have the time to wait.
                Err(Errno::AGAIN) => {
                    poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], None)?;
                }
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
