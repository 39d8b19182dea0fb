//! The two doorbells (`[BELL-1]` to `[BELL-5]`): port writes that say "look now".
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

/// A doorbell that was rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bell {
    /// Look at all areas, some time soon.
    Async,
    /// Look at the writing vCPU's ring, now.
    Sync,
}

impl Bell {
    /// What a port write means; `None` if it is no doorbell (`[BELL-5]`). For the host.
    pub fn decode(port: u16, bytes: &[u8]) -> Option<Bell> {
        if bytes != VALUE.to_le_bytes() {
            return None;
        }
        match port {
            ASYNC_PORT => Some(Bell::Async),
            SYNC_PORT => Some(Bell::Sync),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bell_5_only_a_32_bit_zero_rings() {
        assert_eq!(Bell::decode(0x0d10, &[0; 4]), Some(Bell::Async));
        assert_eq!(Bell::decode(0x0d14, &[0; 4]), Some(Bell::Sync));
        let others: [(u16, &[u8]); 6] = [
            (0x0d10, &[0]),
            (0x0d14, &[0, 0]),
            (0x0d14, &[1, 0, 0, 0]),
            (0x0d14, &[0; 8]),
            (0x0d12, &[0; 4]),
            (0x0d0c, &[0; 4]),
        ];
        for (port, bytes) in others {
            assert_eq!(Bell::decode(port, bytes), None);
        }
    }
}
