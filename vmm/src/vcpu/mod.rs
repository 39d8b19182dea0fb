//! vCPUs: one thread owns each one; others send it commands and kick it.
//!
//! `exit` parses what KVM returned into our own [`Exit`] once; `dispatch` decides over the buses
//! what to do with it (pure, tested without KVM); `thread` is the loop with pause and stop;
//! `own` is what the thread does for the cooperative interface;
//! `kick` gets a vCPU out of guest mode; `tally` counts exits to userspace.

pub mod dispatch;
pub mod exit;
pub mod kick;
mod own;
pub mod pin;
pub mod tally;
pub mod thread;

pub use exit::Exit;
pub use thread::{VcpuEvent, VcpuHandle};
