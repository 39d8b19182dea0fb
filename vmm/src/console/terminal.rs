//! The user's terminal in raw mode, and back whatever happens.
//!
//! "Whatever happens" is: the guard's drop, a panic (unwinding drops the guard), `exit` through
//! [`restore`], a fatal signal of our own (SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT: the handler
//! restores and lets the signal kill). Signals that ask us to end are
//! events of the machine, and so is a limit on CPU time; one on the size of files kills nobody (`signals`).
#![expect(unsafe_code)]
// UNSAFETY: termios calls, and signal handlers that may only do what is async-signal-safe.

use std::io;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

static SAVED: OnceLock<libc::termios> = OnceLock::new();

/// Restores the terminal when dropped.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Puts the terminal behind standard input into raw mode; `None` if it is no terminal.
    pub fn enter() -> io::Result<Option<Self>> {
        // SAFETY: isatty only looks at the descriptor.
        if unsafe { libc::isatty(libc::STDIN_FILENO) } == 0 {
            return Ok(None);
        }
        let mut mode = MaybeUninit::uninit();
        // SAFETY: `mode` has room for one termios.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, mode.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: tcgetattr succeeded and filled it.
        let mut mode = unsafe { mode.assume_init() };
        SAVED.get_or_init(|| mode);
        restore_on_fatal_signals();
        // SAFETY: `mode` is a valid termios.
        unsafe { libc::cfmakeraw(&mut mode) };
        // Output stays cooked, so that our own messages keep their line ends.
        mode.c_oflag |= libc::OPOST;
        // SAFETY: `mode` is a valid termios.
        if unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &mode) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal if it was changed. Async-signal-safe.
pub fn restore() {
    if let Some(saved) = SAVED.get() {
        // SAFETY: `saved` is what tcgetattr gave; POSIX lists tcsetattr as async-signal-safe.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, saved) };
    }
}

extern "C" fn on_fatal(signal: libc::c_int) {
    restore();
    // SA_RESETHAND has brought the default action back. Raised again, the signal is blocked until
    // the handler returns, and then kills, also if it was no fault but came from outside.
    // SAFETY: raise touches no memory of ours, and POSIX lists it as async-signal-safe.
    unsafe { libc::raise(signal) };
}

fn restore_on_fatal_signals() {
    for signal in [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGABRT,
    ] {
        // SAFETY: an all-zero sigaction is a valid one with an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_fatal as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESETHAND | libc::SA_ONSTACK;
        // SAFETY: the handler only calls an async-signal-safe function. Replacing the runtime's
        // stack overflow message by a restored terminal is meant.
        unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
    }
}
