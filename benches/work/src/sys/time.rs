//! The clock, the time stamp counter and sleeping.
//!
//! `CLOCK_MONOTONIC` may cost a system call or even an exit, depending on the clocksource that the
//! guest found; reading the time stamp counter costs neither. So phases are timed by the clock,
//! outside their marks, and single operations by the counter, whose rate the phase itself gives.
#![expect(unsafe_code)]
// UNSAFETY: clock_gettime and clock_nanosleep take pointers; RDTSC is an intrinsic.

use std::io;
use std::time::Duration;

/// Reads `CLOCK_MONOTONIC`.
pub(crate) fn read_clock_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid, exclusively borrowed timespec.
    let returned = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    assert_eq!(returned, 0, "CLOCK_MONOTONIC exists on every Linux");
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Reads this CPU's time stamp counter.
#[inline]
pub(crate) fn read_tsc() -> u64 {
    // SAFETY: every x86_64 CPU has RDTSC, and Linux allows it in user mode unless a process asks
    // for the opposite by prctl, which this one does not.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Sleeps once, relative to now; fails with `Interrupted` when an alarm fires.
pub(crate) fn sleep(duration: Duration) -> io::Result<()> {
    let request = libc::timespec {
        tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(duration.subsec_nanos()),
    };
    // SAFETY: `request` is a valid timespec, and a null remainder is allowed.
    let errno = unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            0,
            &raw const request,
            std::ptr::null_mut(),
        )
    };
    match errno {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
