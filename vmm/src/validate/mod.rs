//! Proves the instrument exact: a guest that causes N exits of each kind, and what was counted.
//!
//! `coopvirt validate` runs the guest of [`guest`] with the same machine, tracer and counters as
//! `coopvirt run`, and compares what each of them says of each kind with N. [`kinds`] is the table
//! of what is expected.

pub mod guest;
pub mod kinds;
mod run;

pub use run::{run, KindResult, Options, ValidateError, Validation};
