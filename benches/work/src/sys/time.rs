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
    read_ns(libc::CLOCK_MONOTONIC)
}

/// Reads `CLOCK_REALTIME`.
pub(crate) fn read_wall_clock_ns() -> u64 {
    read_ns(libc::CLOCK_REALTIME)
}

fn read_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid, exclusively borrowed timespec.
    let returned = unsafe { libc::clock_gettime(clock, &raw mut now) };
    assert_eq!(returned, 0, "these clocks exist on every Linux");
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
    nanosleep(0, duration)
}

/// Sleeps until `CLOCK_MONOTONIC` has this value; fails with `Interrupted` when an alarm fires.
pub(crate) fn sleep_until(clock_ns: u64) -> io::Result<()> {
    nanosleep(libc::TIMER_ABSTIME, Duration::from_nanos(clock_ns))
}

fn nanosleep(flags: libc::c_int, time: Duration) -> io::Result<()> {
    let request = libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(time.subsec_nanos()),
    };
    // SAFETY: `request` is a valid timespec, and a null remainder is allowed.
    let errno = unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            flags,
            &raw const request,
            std::ptr::null_mut(),
        )
    };
    match errno {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
