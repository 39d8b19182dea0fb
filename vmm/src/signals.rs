//! Signals that ask this process to end, and one that must not.
//!
//! The former become events of the machine, so that it ends in order: the terminal as it was, the control
//! socket gone, the status of the signal. One that the parent has ignored stays ignored; that is what
//! `nohup` does, and a shell with the jobs that a script leaves in the background.
#![expect(unsafe_code)]
// UNSAFETY: what is done with a signal can only be asked for and set by sigaction.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::mpsc::Sender;
use std::thread::Builder;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::event::MachineEvent;

/// The last is a limit on CPU time, of which the process has a second left to end in.
const ENDING: [i32; 5] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, libc::SIGXCPU];

/// Turns signals that ask this process to end into events of the machine.
pub(crate) fn forward(events: Sender<MachineEvent>) -> io::Result<()> {
    let mut signals = Signals::new(asking_to_end())?;
    Builder::new()
        .name("signals".into())
        .stack_size(128 << 10)
        .spawn(move || {
            for signal in signals.forever() {
                if events.send(MachineEvent::Signal(signal)).is_err() {
                    return;
                }
            }
        })?;
    Ok(())
}

/// A write beyond the limit on a file's size fails as on a full disk, which the guest can be told of,
/// instead of killing this process.
pub(crate) fn survive_file_size_limit() {
    set(libc::SIGXFSZ, libc::SIG_IGN);
}

fn asking_to_end() -> impl Iterator<Item = i32> {
    ENDING.into_iter().filter(|signal| !is_ignored(*signal))
}

fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is set, and `action` has room for one sigaction, of which zeroes are a valid one.
    let action = unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

fn set(signal: i32, handler: libc::sighandler_t) {
    // SAFETY: the callers pass no function but SIG_IGN and SIG_DFL, which run no code of ours.
    unsafe { libc::signal(signal, handler) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_parent_ignored_stays_so() {
        assert!(asking_to_end().any(|signal| signal == SIGQUIT));
        set(SIGQUIT, libc::SIG_IGN);
        let asking: Vec<_> = asking_to_end().collect();
        set(SIGQUIT, libc::SIG_DFL);
        assert!(!asking.contains(&SIGQUIT), "{asking:?}");
        assert!(asking.contains(&SIGTERM), "{asking:?}");
    }

    #[test]
    fn a_limit_on_files_does_not_kill_and_one_on_time_asks_for_the_end() {
        survive_file_size_limit();
        signal_hook::low_level::raise(libc::SIGXFSZ).unwrap();
        assert!(asking_to_end().any(|signal| signal == libc::SIGXCPU));
    }
}
