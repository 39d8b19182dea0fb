//! One malloc arena for the whole process, so that the VMM stays small beside its guest.
//!
//! glibc gives every thread an arena of its own, each with pages that are never given back. The
//! VMM's threads allocate while they start and hardly ever afterwards: sharing one costs nothing.

#![expect(unsafe_code)]
// UNSAFETY: the allocator is set by a call of the C library.

/// Makes all threads share one arena; to be called before the second thread starts.
pub(super) fn share() {
    // SAFETY: mallopt takes two numbers and is called while the process has one thread.
    // It cannot fail for this parameter, and then only memory would be lost.
    #[cfg(target_env = "gnu")]
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
