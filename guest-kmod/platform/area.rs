// SPDX-License-Identifier: GPL-2.0
//! The memory that a CPU shares with the host, as the shim's `SharedMem`.
#![expect(unsafe_code)]
// UNSAFETY: owns pages that the host writes.

use core::ptr::NonNull;
use core::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};

use coopvirt_spec::mem::{Load, SharedMem, Store};

use super::glue::{coopvirt_glue_area_alloc, coopvirt_glue_area_free};
use super::idle_task::Watch;
use crate::flavour::{Result, ENOMEM};

/// The memory of one area: whole pages that the host may write at any time.
///
/// # Invariants
/// `base` is the start of `len_bytes` bytes of zero-initialized pages that nobody else owns, and of
/// which no reference but to single atomic words is ever made.
#[derive(Debug)]
pub(crate) struct Area {
    base: NonNull<u8>,
    len_bytes: usize,
    gpa: u64,
}

// SAFETY: the pages belong to no CPU or thread, and all accesses are atomic.
unsafe impl Send for Area {}

impl Area {
    /// Memory near a CPU.
    pub(crate) fn allocate(cpu: u32, len_bytes: usize) -> Result<Self> {
        let mut gpa = 0;
        let base = coopvirt_glue_area_alloc(cpu, len_bytes, &mut gpa);
        let base = NonNull::new(base.cast()).ok_or(ENOMEM)?;
        Ok(Self {
            base,
            len_bytes,
            gpa,
        })
    }

    /// Where it lies for the host.
    pub(super) fn gpa(&self) -> u64 {
        self.gpa
    }

    /// How long it is.
    pub(super) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// To be watched until its word at `offset` changes from what it is now, or until then. `None` outside the area.
    pub(crate) fn watch(&self, offset: usize, until_tsc: u64) -> Option<Watch> {
        Some(Watch {
            word: self.word(offset)?,
            seen: self.load_u64(offset, Load::Relaxed),
            until_tsc,
        })
    }

    fn word<T>(&self, offset: usize) -> Option<NonNull<T>> {
        let size = core::mem::size_of::<T>();
        let is_inside = self
            .len_bytes
            .checked_sub(size)
            .is_some_and(|last| offset <= last);
        if !is_inside || offset % core::mem::align_of::<T>() != 0 {
            return None;
        }
        // SAFETY: by the check above, the word lies in the memory that the invariant gives.
        Some(unsafe { self.base.add(offset) }.cast())
    }

    fn u32_at(&self, offset: usize) -> Option<&AtomicU32> {
        // SAFETY: inside and aligned; initialized by allocation; the host accesses it atomically, too.
        self.word::<AtomicU32>(offset)
            .map(|word| unsafe { word.as_ref() })
    }

    fn u64_at(&self, offset: usize) -> Option<&AtomicU64> {
        // SAFETY: as above.
        self.word::<AtomicU64>(offset)
            .map(|word| unsafe { word.as_ref() })
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: from coopvirt_glue_area_alloc() with the same length, freed once. Its session has
        // unregistered it: see `cpus`.
        unsafe { coopvirt_glue_area_free(self.base.as_ptr().cast(), self.len_bytes) };
    }
}

/// An offset outside the area reads zero and writes nothing.
impl SharedMem for Area {
    fn load_u32(&self, offset: usize, order: Load) -> u32 {
        self.u32_at(offset)
            .map_or(0, |word| word.load(order.ordering()))
    }
    fn store_u32(&self, offset: usize, value: u32, order: Store) {
        if let Some(word) = self.u32_at(offset) {
            word.store(value, order.ordering());
        }
    }
    fn load_u64(&self, offset: usize, order: Load) -> u64 {
        self.u64_at(offset)
            .map_or(0, |word| word.load(order.ordering()))
    }
    fn store_u64(&self, offset: usize, value: u64, order: Store) {
        if let Some(word) = self.u64_at(offset) {
            word.store(value, order.ordering());
        }
    }
    fn fence_full(&self) {
        fence(Ordering::SeqCst);
    }
}
