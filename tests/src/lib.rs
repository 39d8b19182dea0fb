//! What the tests of the whole share: a machine with a true KVM and guests on it.
//!
//! `lab` finds kernels and programs, `guest` builds and runs a guest with a time limit, `outcome`
//! is what came of it (and keeps the evidence if a test fails), `pty` runs it on a terminal,
//! `files` makes files for it, `daemon` serves them from another process. `micro` runs the bare-metal
//! guest and reads its records, `exits` its exit report, `tools` runs guests with Debian's programs,
//! `tap` is their network, `beyond` a server behind it.
//! Tests panic; nothing here is for other uses.

pub mod beyond;
pub mod ctl;
pub mod daemon;
pub mod exits;
pub mod files;
pub mod guest;
#[path = "../../vmm/tests/support/kernels.rs"]
pub mod kernels;
pub mod kmod;
pub mod lab;
pub mod micro;
pub mod outcome;
pub mod pty;
pub mod tap;
pub mod tools;

pub use guest::{Console, Guest, Image, Running};
pub use lab::Lab;
pub use micro::MicroGuest;
pub use outcome::Outcome;
