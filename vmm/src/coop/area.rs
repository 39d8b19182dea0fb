//! One vCPU's shared area, over guest memory that was checked when it was registered.
#![expect(unsafe_code)]
// UNSAFETY: the guest writes this memory at any time, so it can only be touched by atomic accesses
// through a raw pointer.

use std::ptr::NonNull;
use std::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};

use coopvirt_spec::mem::{Load, SharedMem, Store};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::mem::GuestRam;

/// A piece of guest memory that both sides read and write.
///
/// # Invariants
/// 1. `start..start + len_bytes` lies in one mapping of `_ram`, which lives as long as this.
/// 2. `start` is a multiple of 4096, `len_bytes` a multiple of 8.
#[derive(Debug)]
pub struct Area {
    start: NonNull<u8>,
    len_bytes: usize,
    _ram: GuestRam,
}

// SAFETY: the memory is not tied to a thread, and all access to it is atomic.
unsafe impl Send for Area {}
// SAFETY: as for `Send`.
unsafe impl Sync for Area {}

impl Area {
    /// Takes the memory at `gpa`; `None` unless it is page-aligned and wholly in one piece of RAM.
    pub fn new(ram: &GuestRam, gpa: u64, len_bytes: usize) -> Option<Self> {
        if !gpa.is_multiple_of(4096) || !len_bytes.is_multiple_of(8) {
            return None;
        }
        let slice = ram.get_slice(GuestAddress(gpa), len_bytes).ok()?;
        let start = NonNull::new(slice.ptr_guard_mut().as_ptr())?;
        // Invariant 1 from `get_slice`; invariant 2 from the checks above and because mappings of
        // guest memory are page-aligned, of which we make sure.
        (start.as_ptr() as usize)
            .is_multiple_of(4096)
            .then(|| Self {
                start,
                len_bytes,
                _ram: GuestRam::clone(ram),
            })
    }

    /// The address of a word, if it lies inside and is aligned.
    fn word<T>(&self, offset: usize) -> Option<*mut T> {
        let end = offset.checked_add(size_of::<T>())?;
        if end > self.len_bytes || !offset.is_multiple_of(size_of::<T>()) {
            return None;
        }
        // SAFETY: 1. the offset is inside the mapping, by the check above and invariant 1.
        let at = unsafe { self.start.as_ptr().add(offset) };
        // Aligned by the check above and invariant 2.
        Some(at.cast())
    }

    fn u32_at(&self, offset: usize) -> Option<&AtomicU32> {
        let at = self.word(offset)?;
        // SAFETY: 1. aligned and 2. valid for as long as `self`, by `word`; 3. nobody in this
        // process makes a non-atomic access to guest memory that races with it in Rust: all go
        // through atomics or vm-memory's volatile copies, as they do for all guest memory.
        Some(unsafe { AtomicU32::from_ptr(at) })
    }

    fn u64_at(&self, offset: usize) -> Option<&AtomicU64> {
        let at = self.word(offset)?;
        // SAFETY: as in `u32_at`.
        Some(unsafe { AtomicU64::from_ptr(at) })
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coop::testing::ram;

    #[test]
    fn trust_1_only_whole_pages_of_ram_become_an_area() {
        let ram = ram();
        assert!(Area::new(&ram, 0x10_0000, 4096).is_some());
        assert!(Area::new(&ram, (4 << 20) - 4096, 4096).is_some());
        for gpa in [0x800, (4 << 20) - 2048, 4 << 20, 0xfee0_0000, !0xfff] {
            assert!(Area::new(&ram, gpa, 4096).is_none(), "{gpa:#x}");
        }
        assert!(Area::new(&ram, (4 << 20) - 4096, 8192).is_none());
    }

    #[test]
    fn words_outside_the_area_read_zero_and_swallow_writes() {
        let ram = ram();
        let area = Area::new(&ram, 0x10_0000, 4096).unwrap();
        let next = Area::new(&ram, 0x10_1000, 4096).unwrap();
        next.store_u64(0, 7, Store::Relaxed);
        for offset in [4096, 4092, 1, usize::MAX, usize::MAX - 7] {
            area.store_u64(offset, u64::MAX, Store::Release);
            assert_eq!(area.load_u64(offset, Load::Acquire), 0);
        }
        assert_eq!(next.load_u64(0, Load::Relaxed), 7);
        area.store_u32(4092, 5, Store::Relaxed);
        assert_eq!(area.load_u64(4088, Load::Relaxed), 5 << 32);
    }
}
