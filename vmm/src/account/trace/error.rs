//! Why exits cannot be traced, and what to do about it.

use std::io;
use std::path::PathBuf;

/// What went wrong when tracing was set up or read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// No tracefs anywhere.
    #[error(
        "tracefs is not mounted: mount it with `mount -t tracefs tracefs /sys/kernel/tracing`, or \
         use a kernel with CONFIG_FTRACE"
    )]
    TracefsMissing,
    /// There is one, but not for us.
    #[error("cannot read {path}: run as root, or give this user read access to tracefs")]
    TracefsUnreadable {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel has no such event.
    #[error("tracepoint {event} does not exist: {remedy}")]
    EventMissing {
        /// System and name, as `kvm:kvm_exit`.
        event: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The event has not the fields that we need.
    #[error("tracepoint {event} has no usable field `{field}`")]
    FieldMissing {
        /// System and name.
        event: String,
        /// The field.
        field: String,
    },
    /// The text of a tracefs file made no sense.
    #[error("cannot understand {path}")]
    FormatUnknown {
        /// The file.
        path: PathBuf,
    },
    /// perf_event_open said no for lack of rights.
    #[error(
        "not allowed to trace {event} on all CPUs: run as root or with CAP_PERFMON, or set \
         kernel.perf_event_paranoid to -1 (is: {paranoid})"
    )]
    NotPermitted {
        /// System and name.
        event: String,
        /// `/proc/sys/kernel/perf_event_paranoid`.
        paranoid: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// perf_event_open failed otherwise.
    #[error("cannot open {event} on cpu {cpu}")]
    Open {
        /// System and name.
        event: String,
        /// The CPU.
        cpu: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel did not take a filter.
    #[error("cannot set the filter `{filter}` on {event}")]
    Filter {
        /// System and name.
        event: String,
        /// The filter.
        filter: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No memory for a ring, or not allowed to lock so much.
    #[error("cannot map a trace ring of {len_bytes} bytes for cpu {cpu}: try smaller rings")]
    Ring {
        /// The CPU.
        cpu: usize,
        /// The size.
        len_bytes: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Enabling or redirecting an event failed.
    #[error("cannot {action} {event} on cpu {cpu}")]
    Control {
        /// What was attempted.
        action: &'static str,
        /// System and name.
        event: String,
        /// The CPU.
        cpu: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The list of CPUs could not be read.
    #[error("cannot read the list of online cpus")]
    Cpus(#[source] io::Error),
    /// The drain thread could not start, or died.
    #[error("the thread that drains the trace rings {0}")]
    Thread(String),
}
