//! The time-out of everything that may block: an interval timer that interrupts system calls.
//!
//! A thread that watches would wake a CPU now and then and would be counted. A timer that lies far
//! ahead costs nothing until it fires. It then repeats every second, because one signal could fall
//! between two system calls. It cannot end a sleep that the kernel has made uninterruptible, such
//! as an `O_DIRECT` read whose interrupt got lost: for that the host needs a time-out of its own.
#![expect(unsafe_code)]
// UNSAFETY: sigaction and setitimer take pointers; the handler runs as a signal handler.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static EXPIRED: AtomicBool = AtomicBool::new(false);

/// While this lives, blocking system calls fail with `Interrupted` after the given time.
#[derive(Debug)]
pub(crate) struct Alarm(());

impl Alarm {
    /// Arms the one alarm of the process.
    pub(crate) fn arm(after: Duration) -> Alarm {
        EXPIRED.store(false, Ordering::Relaxed);
        // SAFETY: an all-zero sigaction is valid: no flags (so no restart), an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(libc::c_int) = on_alarm;
        action.sa_sigaction = handler as libc::sighandler_t;
        // SAFETY: `action` is valid, its handler only stores to an atomic, which is
        // async-signal-safe, and the old action is not asked for.
        unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) };
        set_timer(after, Duration::from_secs(1));
        Alarm(())
    }

    /// Says whether the time is over, for loops that do not block.
    pub(crate) fn has_expired() -> bool {
        EXPIRED.load(Ordering::Relaxed)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        set_timer(Duration::ZERO, Duration::ZERO);
    }
}

/// Makes a write to a closed pipe an error instead of the end of the process.
pub(crate) fn ignore_sigpipe() {
    // SAFETY: SIG_IGN is a valid disposition and needs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

extern "C" fn on_alarm(_signal: libc::c_int) {
    EXPIRED.store(true, Ordering::Relaxed);
}

fn set_timer(first: Duration, then: Duration) {
    let timer = libc::itimerval {
        it_value: as_timeval(first),
        it_interval: as_timeval(then),
    };
    // SAFETY: `timer` is valid and the old value is not asked for.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
}

fn as_timeval(duration: Duration) -> libc::timeval {
    libc::timeval {
        tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_usec: libc::suseconds_t::from(duration.subsec_micros()),
    }
}
