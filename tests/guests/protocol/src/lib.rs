//! The words between the bare-metal test guest and the host's tests.
//!
//! The guest ([`Record::encode`]) writes nothing but frames to its serial port; the host
//! ([`decode`]) reads nothing else. `frame` has the bytes of a frame, `record` what it means. The
//! crate must stay free of dependencies and unsafe code: it runs without an operating system.
#![no_std]
#![forbid(unsafe_code)]

mod frame;
mod record;

pub use frame::{FrameError, MAX_FRAME_BYTES};
pub use record::{decode, Record};

/// Code at the debug-exit port: all tests ran, `Done` is said.
///
/// Not zero, and none of the statuses with which the VMM itself can end: success is a positive word.
pub const EXIT_DONE: u8 = 0x40;
/// Code at the debug-exit port: a test panicked, and the machine with it.
pub const EXIT_PANICKED: u8 = 0x41;
