//! Clocks: the host's monotonic clock, and the CPU time of a whole process.
//!
//! The process clock is exact to the nanosecond, counts guest time and also threads that have
//! ended, which a sum over `/proc/PID/task/*/schedstat` would lose. What another process's threads that
//! run now have taken since they came to their CPUs is in it only after `Threads::settle`.
#![expect(unsafe_code)]
// UNSAFETY: clock_gettime and clock_getcpuclockid are foreign functions with an out parameter.

/// The monotonic clock, in nanoseconds: the clock of the traced events.
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC).unwrap_or(0)
}

/// CPU time of the calling thread.
pub fn this_thread_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or(0)
}

/// CPU time of all threads of a process, also of those that have ended; `None` if it is gone.
pub fn process_ns(pid: u32) -> Option<u64> {
    let pid = libc::pid_t::try_from(pid).ok()?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is a valid place for the result and outlives the call.
    let result = unsafe { libc::clock_getcpuclockid(pid, &mut clock) };
    if result != 0 {
        return None;
    }
    clock_ns(clock)
}

fn clock_ns(clock: libc::clockid_t) -> Option<u64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the result and outlives the call.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    if result != 0 {
        return None;
    }
    let seconds = u64::try_from(time.tv_sec).ok()?;
    let nanoseconds = u64::try_from(time.tv_nsec).ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_clock_counts_an_ended_thread() {
        let pid = std::process::id();
        let before = process_ns(pid).unwrap();
        let spin = || {
            let start = this_thread_ns();
            while this_thread_ns() - start < 5_000_000 {}
        };
        std::thread::spawn(spin).join().unwrap();
        assert!(process_ns(pid).unwrap() - before >= 5_000_000);
        assert_eq!(process_ns(u32::MAX), None);
    }
}
