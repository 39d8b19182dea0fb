//! The user's side of the guest's console: terminal mode, input with its escape key, output.
//!
//! `terminal` puts the terminal into raw mode and back whatever happens; `input` reads keys on the
//! I/O thread; output is an ordinary writer given to the console device.

pub mod input;
pub mod output;
pub mod terminal;
