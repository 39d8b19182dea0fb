//! Measures what each way out of a guest costs on this host.
//!
//! `coopvirt doors` runs the bare-metal guest of [`guest`], which goes through each door of [`table`]
//! again and again: once traced, a known number of times, for the exits; once untraced, for the time.
//! [`figures`] makes figures of what the guest wrote down. With `--levels` the same guest is timed at
//! each level of measuring ([`levels`]): what the instrument itself costs. Nothing here may change how a door works:
//! the machine is that of `coopvirt run`.

pub mod figures;
pub mod guest;
pub mod levels;
mod run;
pub mod table;

pub use run::{run, DoorsError, DoorsReport, Options, Row};
