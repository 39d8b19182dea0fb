//! Guest log text: made harmless and bounded before it reaches the host's log (`[TRUST-5]`).

use std::time::{Duration, Instant};

/// Longest text of one call, by the spec.
pub const MAX_TEXT_BYTES: u32 = 1024;
/// Lines that a vCPU can write at once after a quiet time.
const BURST: u32 = 64;
/// Time after which a vCPU may write one more line.
const REFILL: Duration = Duration::from_millis(20);

/// Decides whether a vCPU may write another line.
#[derive(Clone, Copy, Debug)]
pub struct LogLimit {
    lines: u32,
    since: Instant,
}

impl Default for LogLimit {
    fn default() -> Self {
        Self::new(Instant::now())
    }
}

impl LogLimit {
    /// A vCPU that has been quiet.
    pub fn new(now: Instant) -> Self {
        Self {
            lines: BURST,
            since: now,
        }
    }

    /// Takes one line; false if there have been too many.
    pub fn take(&mut self, now: Instant) -> bool {
        let refills = now.saturating_duration_since(self.since).as_nanos() / REFILL.as_nanos();
        if let Ok(refills @ 1..) = u32::try_from(refills.min(u128::from(BURST))) {
            self.lines = self.lines.saturating_add(refills).min(BURST);
            self.since = now;
        }
        if self.lines == 0 {
            return false;
        }
        self.lines -= 1;
        true
    }
}

/// One line that cannot do anything to a terminal or a log, whatever the guest wrote.
pub fn line(vcpu: u8, level: u8, text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut line = format!("guest vcpu{vcpu} <{level}>: ");
    for character in text.trim_end_matches(['\n', '\r', '\0']).chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_5_a_flood_of_lines_is_cut_and_recovers() {
        let start = Instant::now();
        let mut limit = LogLimit::new(start);
        let written = (0..10_000).filter(|_| limit.take(start)).count();
        assert_eq!(written, 64);
        let later = start + 3 * REFILL;
        assert_eq!((0..100).filter(|_| limit.take(later)).count(), 3);
        let much_later = later + Duration::from_secs(1_000_000);
        assert_eq!((0..100).filter(|_| limit.take(much_later)).count(), 64);
    }

    #[test]
    fn trust_5_text_cannot_steer_a_terminal() {
        assert_eq!(line(2, 6, b"hello\r\n"), "guest vcpu2 <6>: hello");
        let nasty = line(0, 3, b"\x1b]0;x\x07\nfake \xff\xfe");
        assert!(!nasty.chars().any(char::is_control), "{nasty}");
        assert!(nasty.contains("fake"));
        assert!(line(0, 0, &[0x9b; 1024]).len() < 16 * 1024);
    }
}
