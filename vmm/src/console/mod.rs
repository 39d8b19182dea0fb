//! The user's side of the guest's console: terminal mode, input with its escape key, output.
//!
//! `terminal` puts the terminal into raw mode and back whatever happens; `input` reads keys on the
//! I/O thread, and `typed` keeps them for the guest; `output` is an ordinary writer, and `writer` the thread that fills it for the device.

pub mod input;
pub mod output;
pub mod terminal;
pub mod typed;
pub mod writer;
