// SPDX-License-Identifier: GPL-2.0
//! Text for a debugfs file.
#![expect(unsafe_code)]
// UNSAFETY: writes through a pointer that a callback was given.

use core::fmt;
use core::ptr::NonNull;

use super::glue::{coopvirt_glue_show_bytes, SeqFile};

/// Where a debugfs file's text goes.
pub(crate) struct Show(NonNull<SeqFile>);

impl Show {
    /// # Safety
    /// `to` is what the kernel gave to a seq_file callback that has not returned yet.
    pub(crate) unsafe fn new(to: NonNull<SeqFile>) -> Self {
        Self(to)
    }
}

impl fmt::Write for Show {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: valid by the contract of `new`. What does not fit makes the kernel ask again.
        unsafe { coopvirt_glue_show_bytes(self.0.as_ptr(), text.as_ptr(), text.len()) };
        Ok(())
    }
}
