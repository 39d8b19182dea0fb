//! Pins the calling thread to host CPUs, and tells which ones there are to pin to.
#![expect(unsafe_code)]
// UNSAFETY: `sched_setaffinity` and `sched_getaffinity` take a raw CPU set.

use std::io;
use std::thread;

/// Lets the calling thread run on these host CPUs only.
pub fn pin_current_thread(cpus: &[usize]) -> io::Result<()> {
    // SAFETY: an all-zero `cpu_set_t` is a valid empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as usize) {
        // SAFETY: `set` is valid and `cpu` lies in it, as filtered above.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: `set` is valid for the size given; thread 0 is the caller.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The host CPUs that a thread of this process can be pinned to: those of its cpuset that are online.
/// What the process itself was pinned to when it started is no limit, as it can pin itself elsewhere.
pub fn usable_cpus() -> io::Result<Vec<usize>> {
    let all: Vec<usize> = (0..libc::CPU_SETSIZE as usize).collect();
    // A thread of its own: who asks keeps its CPUs.
    let asked = thread::scope(|scope| {
        let ask = || pin_current_thread(&all).and_then(|()| current_cpus());
        thread::Builder::new()
            .spawn_scoped(scope, ask)
            .map(|thread| thread.join().expect("two system calls cannot panic"))
    });
    asked?
}

fn current_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: an all-zero `cpu_set_t` is a valid empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid for the size given; thread 0 is the caller.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `set` is valid, and each `cpu` lies in it.
    let has = |&cpu: &usize| unsafe { libc::CPU_ISSET(cpu, &set) };
    Ok((0..libc::CPU_SETSIZE as usize).filter(has).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn being_pinned_limits_nobody_who_asks_and_asking_pins_nobody() {
        let usable = usable_cpus().unwrap();
        let last = *usable.last().expect("this thread runs somewhere");
        pin_current_thread(&[last]).unwrap();
        assert_eq!(usable_cpus().unwrap(), usable);
        assert_eq!(current_cpus().unwrap(), [last]);
    }
}
