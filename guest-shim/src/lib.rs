//! The guest's half of the interface that `spec/SPEC.md` describes.
//!
//! What differs between a kernel module, a bare-metal guest and a user program is behind
//! [`Platform`] (marks) and [`Cpu`] (everything else); the rest is here, once, without unsafe code.
//!
//! - [`session`]: finds the host, negotiates, registers and unregisters one vCPU's area;
//! - [`batch`]: calls in batches, synchronous and asynchronous, and lists of ranges;
//! - [`timer`], [`ipi`]: what is elided, and the stock path when it cannot be;
//! - [`patience`]: whether an interrupt can wait for its target to poll;
//! - [`memory`]: which free memory the host backs; [`lateness`]: how late timers come;
//! - [`idle`]: whether to poll before a halt; [`tick`]: whether a halt is for longer than a tick;
//! - `delivery`: interrupts posted while this vCPU polls; [`grace`]: ticks that it takes by itself;
//! - [`counters`]: what was done and what was saved, in the area for the host's report.
//!
//! One rule holds everywhere (`[LEVEL-1]`): whatever the host does or is not, the guest ends up with
//! its own stock path, and with no slower one.
#![no_std]
#![forbid(unsafe_code)]

mod asking;
pub mod batch;
pub mod counters;
mod delivery;
pub mod grace;
pub mod idle;
pub mod ipi;
pub mod lateness;
mod marker;
pub mod memory;
pub mod patience;
mod platform;
pub mod session;
pub mod tick;
pub mod timer;

pub use marker::Marker;
pub use platform::{Cpu, Platform};
pub use session::{OpenError, Options, Session, VectorSet};
