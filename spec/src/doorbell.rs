//! The two doorbells (`[BELL-1]` to `[BELL-7]`): port writes that say "look now".
//!
//! They follow the mark port. Nothing in the PC architecture, in our machine or in QEMU's
//! `microvm` and `q35` claims them.

/// The asynchronous doorbell: wakes whoever polls, by an ioeventfd. 32-bit writes only.
pub const ASYNC_PORT: u16 = 0x0d10;
/// The synchronous doorbell: the writing vCPU's own thread drains its ring before the write
/// returns. 32-bit writes only.
pub const SYNC_PORT: u16 = 0x0d14;
/// What is written to either.
pub const VALUE: u32 = 0;
/// What is written to the synchronous one in place of a halt (`[HALT-1]`).
pub const HALT: u32 = 1;

/// A doorbell that was rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bell {
    /// Look at all areas, some time soon.
    Async,
    /// Look at the writing vCPU's ring, now.
    Sync,
    /// Look at the writing vCPU's deadline, and let it halt.
    Halt,
}

impl Bell {
    /// What a port write means; `None` if it is no doorbell (`[BELL-5]`). For the host.
    pub fn decode(port: u16, bytes: &[u8]) -> Option<Bell> {
        let value = u32::from_le_bytes(bytes.try_into().ok()?);
        match (port, value) {
            (ASYNC_PORT, VALUE) => Some(Bell::Async),
            (SYNC_PORT, VALUE) => Some(Bell::Sync),
            (SYNC_PORT, HALT) => Some(Bell::Halt),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bell_5_only_32_bit_writes_of_these_values_ring() {
        assert_eq!(Bell::decode(0x0d10, &[0; 4]), Some(Bell::Async));
        assert_eq!(Bell::decode(0x0d14, &[0; 4]), Some(Bell::Sync));
        assert_eq!(Bell::decode(0x0d14, &[1, 0, 0, 0]), Some(Bell::Halt));
        let others: [(u16, &[u8]); 8] = [
            (0x0d10, &[0]),
            (0x0d14, &[0, 0]),
            (0x0d10, &[1, 0, 0, 0]),
            (0x0d14, &[2, 0, 0, 0]),
            (0x0d14, &[1]),
            (0x0d14, &[0; 8]),
            (0x0d12, &[0; 4]),
            (0x0d0c, &[0; 4]),
        ];
        for (port, bytes) in others {
            assert_eq!(Bell::decode(port, bytes), None);
        }
    }
}
