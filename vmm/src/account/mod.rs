//! Exit accounting: what exits happened, why, and whether the counters agree.
//!
//! Three independent sources count the same thing: the kernel's tracepoints ([`tracer`], the same
//! way for every VMM), KVM's binary statistics ([`stats_fd`], only for a VM of our own) and the
//! VMM's own count of `KVM_RUN` returns. [`identity`] says whether they agree. [`aggregate`] turns
//! decoded events into counts and cuts them at the guest's marks; it knows nothing of the kernel,
//! so that hand-made events can test it.

pub mod aggregate;
pub mod backend;
pub mod durations;
pub mod identity;
pub mod model;
pub mod msr;
pub mod names;
pub mod reason;
pub mod report;
pub mod stats_fd;
pub mod threads;
pub mod trace;
pub mod tracer;
pub mod vectors;
