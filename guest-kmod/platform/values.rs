// SPDX-License-Identifier: GPL-2.0
//! Values on the kernel's heap.
#![expect(unsafe_code)]
// UNSAFETY: owns memory that C allocates.

use core::mem::{align_of, size_of, ManuallyDrop};
use core::ptr::NonNull;

use super::glue::{coopvirt_glue_words_alloc, coopvirt_glue_words_free};
use crate::flavour::{Result, ENOMEM};

/// Values of one type, one behind the other, that do not move.
///
/// # Invariants
/// `start` is what coopvirt_glue_words_alloc() returned, and its first `len` values are initialized
/// and nobody else's.
pub(crate) struct Values<T> {
    start: NonNull<T>,
    len: usize,
}

impl<T> Values<T> {
    /// As many as are asked for, `make` being called with the number of each. May sleep.
    pub(crate) fn make(len: usize, mut make: impl FnMut(usize) -> Result<T>) -> Result<Self> {
        const WORD: usize = size_of::<u64>();
        // The allocation is aligned to words. A value without a size would have no place of its own.
        const { assert!(align_of::<T>() <= align_of::<u64>() && size_of::<T>() > 0) };
        let len_bytes = size_of::<T>().checked_mul(len).ok_or(ENOMEM)?;
        let start = coopvirt_glue_words_alloc(len_bytes.div_ceil(WORD));
        let mut values = Self {
            start: NonNull::new(start).ok_or(ENOMEM)?.cast(),
            len: 0,
        };
        for at in 0..len {
            let value = make(at)?;
            // SAFETY: the `at`-th of `len` places that were allocated, and free yet.
            unsafe { values.start.add(at).write(value) };
            values.len += 1;
        }
        Ok(values)
    }

    /// Where they are.
    pub(crate) fn as_ptr(&self) -> NonNull<[T]> {
        NonNull::slice_from_raw_parts(self.start, self.len)
    }

    /// Where they are, for [`Values::from_raw`] to drop.
    pub(crate) fn into_raw(self) -> NonNull<[T]> {
        ManuallyDrop::new(self).as_ptr()
    }

    /// Takes them back.
    ///
    /// # Safety
    /// From [`Values::into_raw`], once, and nobody has a reference to one of them any more.
    pub(crate) unsafe fn from_raw(values: NonNull<[T]>) -> Self {
        Self {
            start: values.cast(),
            len: values.len(),
        }
    }
}

impl<T> Drop for Values<T> {
    fn drop(&mut self) {
        for at in 0..self.len {
            // SAFETY: one of `len` values, by the invariant, and dropped once.
            unsafe { self.start.add(at).drop_in_place() };
        }
        // SAFETY: from coopvirt_glue_words_alloc(), by the invariant; freed once.
        unsafe { coopvirt_glue_words_free(self.start.as_ptr().cast()) };
    }
}
