//! Ctrl-C: remembered, so that children are ended and results are printed in order.
//!
//! Set up by [`super::session`], asked by [`super::child`] and the session's loop.

use std::os::raw::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use vmm_sys_util::signal::register_signal_handler;

// Relaxed is enough: the flag guards no other data.
static IS_REQUESTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    IS_REQUESTED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP only set the flag.
pub fn catch_signals() -> Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        register_signal_handler(signal, on_signal)
            .with_context(|| format!("cannot catch signal {signal}"))?;
    }
    Ok(())
}

/// Whether the user wants to stop.
pub fn is_requested() -> bool {
    IS_REQUESTED.load(Ordering::Relaxed)
}
