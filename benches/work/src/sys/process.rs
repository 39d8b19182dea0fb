//! Making a child that does nothing, ending a group of them, and waiting for them.
#![expect(unsafe_code)]
// UNSAFETY: fork, killpg, and waitpid and getrusage with pointers.

use super::check;
use std::io;

/// Forks a child that exits at once with `code`; returns its process id.
pub(crate) fn fork_exiting(code: u8) -> io::Result<i32> {
    // SAFETY: the child calls nothing but _exit, which is async-signal-safe, so it does not
    // matter which locks other threads held.
    let pid = check(unsafe { libc::fork() })?;
    if pid == 0 {
        // SAFETY: ends the child without running anything of ours.
        unsafe { libc::_exit(libc::c_int::from(code)) };
    }
    Ok(pid)
}

/// Waits for a child to end; returns its exit code, or `None` if it did not exit by itself.
pub(crate) fn wait_for(pid: i32) -> io::Result<Option<i32>> {
    let mut status = 0;
    // SAFETY: `status` is a valid, exclusively borrowed integer.
    check(unsafe { libc::waitpid(pid, &raw mut status, 0) })?;
    Ok(libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)))
}

/// Kills a child that leads a process group, and all of its group, and waits for those of them
/// that are or become children of this process: all, where this process is init.
pub(crate) fn kill_group(leader: i32) {
    // SAFETY: a call by value. It fails only if nobody of the group is left.
    unsafe { libc::killpg(leader, libc::SIGKILL) };
    let mut status = 0;
    // The leader first: whom it leaves behind becomes init's child when it goes.
    let _ = wait_for(leader);
    // SAFETY: `status` is a valid, exclusively borrowed integer. Ends when no child of the group is left.
    while unsafe { libc::waitpid(-leader, &raw mut status, 0) } > 0 {}
}

/// Page faults that needed no disk: of this process, and of those children of it that have been waited for.
pub(crate) fn page_faults() -> io::Result<[u64; 2]> {
    let of = |who| -> io::Result<u64> {
        // SAFETY: all zero is a valid value of this structure of integers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: `usage` is a valid, exclusively borrowed structure.
        check(unsafe { libc::getrusage(who, &raw mut usage) })?;
        Ok(u64::try_from(usage.ru_minflt).unwrap_or(0))
    };
    Ok([of(libc::RUSAGE_SELF)?, of(libc::RUSAGE_CHILDREN)?])
}
