//! Decoded events in, counts and phases out: a state machine without any I/O.
//!
//! [`Aggregator::feed`] takes [`event::Event`]s of one VM in the order of time, and samples of its
//! CPU time; [`Aggregator::finish`] gives the [`crate::account::model::Trace`]. The tracer's drain
//! thread calls it. Everything a guest can influence (marks, ports, MSRs, addresses) is bounded
//! here, and nothing here may panic on it.

mod cause;
pub mod event;
mod machine;
mod marks;
mod samples;
mod tally;
#[cfg(test)]
mod tests;
mod vcpu;

pub use machine::Aggregator;
