//! The mark port: permission to write to it, and the write (`[MARK-1]`).
#![expect(unsafe_code)]
// UNSAFETY: ioperm opens I/O ports to the thread, and OUT writes to one.

use super::check;
use coopvirt_spec::mark::MARK_PORT;
use std::io;
use std::marker::PhantomData;

/// The right of this thread to write 32 bits to the mark port.
///
/// # Invariants
/// Exists only on the thread that opened it: the right is a thread's, so this is not `Send`.
#[derive(Debug)]
pub(crate) struct MarkPort(PhantomData<*const ()>);

impl MarkPort {
    /// Asks the kernel for the right; needs CAP_SYS_RAWIO.
    pub(crate) fn open() -> io::Result<MarkPort> {
        // SAFETY: opens four ports that no device claims to this thread; touches no memory.
        check(unsafe { libc::ioperm(libc::c_ulong::from(MARK_PORT), 4, 1) })?;
        Ok(MarkPort(PhantomData))
    }

    /// Writes one value: one OUT, one exit.
    #[inline]
    pub(crate) fn write(&mut self, value: u32) {
        // SAFETY: by the invariant the thread may write to the port; the write has no effect on
        // this machine (`[MARK-1]`). Memory is not marked as untouched, so that the compiler
        // keeps the work's accesses between its two marks.
        unsafe {
            core::arch::asm!(
                "out dx, eax",
                in("dx") MARK_PORT,
                in("eax") value,
                options(nostack, preserves_flags)
            );
        }
    }
}
