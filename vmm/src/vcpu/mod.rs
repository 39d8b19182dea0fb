//! vCPUs: one thread owns each one; others send it commands and kick it.
//!
//! `exit` parses what KVM returned into our own [`Exit`] once; `dispatch` decides over the buses
//! what to do with it (pure, tested without KVM); `thread` is the loop with pause and stop;
//! `kick` gets a vCPU out of guest mode; `tally` counts exits to userspace.

pub mod dispatch;
pub mod exit;
pub mod kick;
pub mod pin;
pub mod tally;
pub mod thread;

pub use exit::Exit;
pub use thread::{VcpuEvent, VcpuHandle};
