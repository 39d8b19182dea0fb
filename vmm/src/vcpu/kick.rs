//! Gets a vCPU thread out of `KVM_RUN` from another thread, without a window in which the kick
//! could be lost.
//!
//! The signal's handler runs on the vCPU's own thread and sets `immediate_exit` in that thread's
//! `kvm_run`. A signal that arrives before `KVM_RUN` makes it return at once; one that arrives
//! during it interrupts it. Source: Documentation/virt/kvm/api.rst, "immediate_exit".
#![expect(unsafe_code)]
// UNSAFETY: a signal handler that writes through a thread-local raw pointer.

use std::cell::Cell;
use std::ptr;
use std::sync::OnceLock;

use kvm_bindings::kvm_run;
use vmm_sys_util::signal::{register_signal_handler, SIGRTMIN};

thread_local! {
    // Constant initialisation and no destructor: safe to touch from a signal handler.
    static RUN: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };
}

/// The real-time signal that kicks.
pub fn signal() -> i32 {
    SIGRTMIN()
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    RUN.with(|run| {
        let run = run.get();
        if !run.is_null() {
            // SAFETY: `attach` stored a pointer to this thread's live mapping, and `Attached`
            // clears it before the mapping can go away. The kernel only reads this byte.
            unsafe { ptr::addr_of_mut!((*run).immediate_exit).write_volatile(1) };
        }
    });
}

/// While it lives, kicks of this thread reach this `kvm_run`.
pub(super) struct Attached(());

impl Drop for Attached {
    fn drop(&mut self) {
        RUN.with(|run| run.set(ptr::null_mut()));
    }
}

/// Installs the signal's handler, once per process. Without it a kick would kill the process, so
/// it comes before the first vCPU thread.
pub(super) fn install() -> Result<(), vmm_sys_util::errno::Error> {
    static HANDLER: OnceLock<Result<(), vmm_sys_util::errno::Error>> = OnceLock::new();
    *HANDLER.get_or_init(|| register_signal_handler(signal(), on_kick))
}

/// Makes kicks of the calling thread set `run.immediate_exit`. The result must be dropped before
/// the vCPU that `run` belongs to.
pub(super) fn attach(run: &mut kvm_run) -> Attached {
    RUN.with(|cell| cell.set(run));
    Attached(())
}

/// Sends the kick to a thread that has not been joined yet.
pub(super) fn send(thread: libc::pthread_t) {
    // SAFETY: the caller holds the thread's join handle, so the thread's ID is valid even if the
    // thread has ended; an ended thread gives ESRCH, which is no error for a kick.
    unsafe { libc::pthread_kill(thread, signal()) };
}
