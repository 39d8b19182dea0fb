//! From the kernel's tracepoints to decoded events: tracefs, symbols, perf rings, decoding.
//!
//! [`crate::account::tracer`] puts these together. Nothing here knows marks, phases or causes.

mod affinity;
pub mod cpu_clock;
pub mod decode;
pub mod error;
pub mod kallsyms;
mod perf_ioctl;
pub mod rings;
pub mod tracefs;
