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
