//! The first line of a program of the host's: `CONNECT <port>`.

use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{recv, RecvFlags};

/// The longest line, its end included: 10 digits are the largest port, and some may have leading zeros.
const MAX_LINE_BYTES: usize = 32;

/// A program of the host's that has not yet said which port it wants.
pub(super) struct Greeting {
    stream: UnixStream,
    pub(super) deadline: Instant,
}

/// What it has said so far.
pub(super) enum Said {
    Port(u32),
    /// More has to come.
    Part,
    /// Something else, or nothing for ever.
    Nonsense,
}

impl Greeting {
    pub(super) fn new(stream: UnixStream, deadline: Instant) -> Self {
        Self { stream, deadline }
    }

    /// Looks for the line, and takes nothing behind it: that is for the guest.
    pub(super) fn hear(&self) -> Said {
        let mut line = [0; MAX_LINE_BYTES];
        let len = match receive(&self.stream, &mut line, RecvFlags::PEEK) {
            Ok(0) => return Said::Nonsense,
            Ok(len) => len,
            Err(Errno::AGAIN) => return Said::Part,
            Err(_) => return Said::Nonsense,
        };
        let Some(end) = line[..len].iter().position(|&byte| byte == b'\n') else {
            return if len < MAX_LINE_BYTES {
                Said::Part
            } else {
                Said::Nonsense
            };
        };
        let taken = receive(&self.stream, &mut line[..=end], RecvFlags::empty());
        if taken != Ok(end + 1) {
            return Said::Nonsense;
        }
        port(&line[..end]).map_or(Said::Nonsense, Said::Port)
    }

    pub(super) fn into_stream(self) -> UnixStream {
        self.stream
    }
}

fn receive(stream: &UnixStream, buffer: &mut [u8], flags: RecvFlags) -> Result<usize, Errno> {
    loop {
        match recv(stream, &mut *buffer, flags | RecvFlags::DONTWAIT) {
            Err(Errno::INTR) => {}
            received => return received.map(|(len, _)| len),
        }
    }
}

fn port(line: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(line).ok()?;
    let digits = text.trim_end_matches('\r').strip_prefix("CONNECT ")?;
    // `parse` would take a sign too.
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_port_in_digits_is_a_port() {
        assert_eq!(port(b"CONNECT 52"), Some(52));
        assert_eq!(port(b"CONNECT 4294967295\r"), Some(u32::MAX));
        for line in [
            &b"CONNECT"[..],
            b"CONNECT ",
            b"CONNECT +1",
            b"CONNECT -1",
            b"CONNECT 4294967296",
            b"connect 1",
            b"CONNECT 1 2",
            b"GET / HTTP/1.1\r",
            b"CONNECT \xff",
            b"",
        ] {
            assert_eq!(port(line), None, "{line:?}");
        }
    }
}
