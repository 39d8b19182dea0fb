//! Anonymous memory in 4 KiB pages, seen as atomic words.
//!
//! Words are atomics because the kernel changes them behind the compiler's back: it drops pages,
//! and asynchronous reads write to them.
#![expect(unsafe_code)]
// UNSAFETY: maps, advises, unmaps and gives back memory, and makes references into it.

use super::check;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// The page size of every x86_64 Linux.
pub(crate) const PAGE_BYTES: usize = 4096;

/// A private mapping of whole, small pages.
///
/// # Invariants
/// `start` is the page-aligned start of a readable and writable mapping of `nr_pages` pages that
/// belongs to this object alone and lives as long as it.
#[derive(Debug)]
pub(crate) struct Pages {
    start: NonNull<u8>,
    nr_pages: usize,
}

// SAFETY: by the invariants the mapping belongs to this object alone, and no thread is special to
// it: whoever owns the object may use and unmap it.
unsafe impl Send for Pages {}

impl Pages {
    /// Maps fresh pages, without touching them and never as huge pages.
    pub(crate) fn map(nr_pages: usize) -> io::Result<Pages> {
        let len = nr_pages
            .checked_mul(PAGE_BYTES)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no other.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        let pages = Pages { start, nr_pages };
        // A kernel without huge pages does not know the advice, and needs none.
        let _ = pages.advise(0, nr_pages, libc::MADV_NOHUGEPAGE);
        Ok(pages)
    }

    /// Maps pages and writes to each, so that no later access faults.
    pub(crate) fn map_touched(nr_pages: usize) -> io::Result<Pages> {
        let pages = Pages::map(nr_pages)?;
        for page in 0..nr_pages {
            pages
                .word(page)
                .store(1, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(pages)
    }

    /// The number of pages.
    pub(crate) fn nr_pages(&self) -> usize {
        self.nr_pages
    }

    /// The first eight bytes of a page.
    #[inline]
    pub(crate) fn word(&self, page: usize) -> &AtomicU64 {
        assert!(page < self.nr_pages, "page {page} lies behind the mapping");
        // SAFETY: by the invariants and the assertion the word is mapped, aligned and lives as
        // long as `self`; all accesses to it while a shared borrow lasts are atomic or the
        // kernel's.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(page * PAGE_BYTES).cast()) }
    }

    /// The last eight bytes of a page.
    #[inline]
    pub(crate) fn last_word(&self, page: usize) -> &AtomicU64 {
        assert!(page < self.nr_pages, "page {page} lies behind the mapping");
        let at = (page + 1) * PAGE_BYTES - size_of::<AtomicU64>();
        // SAFETY: as in `word`.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(at).cast()) }
    }

    /// A page as bytes.
    pub(crate) fn bytes_mut(&mut self, page: usize) -> &mut [u8] {
        assert!(page < self.nr_pages, "page {page} lies behind the mapping");
        // SAFETY: by the invariants and the assertion the page is mapped and ours; the exclusive
        // borrow keeps every other reference away.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.as_ptr().add(page * PAGE_BYTES), PAGE_BYTES)
        }
    }

    /// The first pages as bytes.
    pub(crate) fn first_bytes_mut(&mut self, count: usize) -> &mut [u8] {
        assert!(count <= self.nr_pages, "pages lie behind the mapping");
        // SAFETY: as in `bytes_mut`, for pages that follow each other.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), count * PAGE_BYTES) }
    }

    /// The address of a page, for requests to the kernel.
    pub(super) fn address(&self, page: usize) -> u64 {
        assert!(page < self.nr_pages, "page {page} lies behind the mapping");
        (self.start.as_ptr() as u64) + (page * PAGE_BYTES) as u64
    }

    /// Gives pages back to the kernel; they read as zero afterwards (`MADV_DONTNEED`).
    #[inline]
    pub(crate) fn discard(&self, first: usize, count: usize) -> io::Result<()> {
        self.advise(first, count, libc::MADV_DONTNEED)
    }

    fn advise(&self, first: usize, count: usize, advice: libc::c_int) -> io::Result<()> {
        let end = first.checked_add(count);
        assert!(
            end.is_some_and(|end| end <= self.nr_pages),
            "pages lie behind the mapping"
        );
        // SAFETY: the range lies in our own mapping; the two advices in use change its contents
        // to zero at most, which is valid for words and bytes.
        check(unsafe {
            libc::madvise(
                self.start.as_ptr().add(first * PAGE_BYTES).cast(),
                count * PAGE_BYTES,
                advice,
            )
        })?;
        Ok(())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: by the invariants the mapping is ours alone, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.nr_pages * PAGE_BYTES) };
    }
}

/// Brings the program and its stack into memory, so that no phase faults on them; best effort.
///
/// What was needed only until now goes back first. A child costs more the more memory its parent has, and a guest that
/// has loaded a module and read the kernel's log for it has had more than one that has not.
pub(crate) fn lock_present() {
    #[cfg(target_env = "gnu")]
    // SAFETY: gives back memory that nobody has allocated.
    unsafe {
        libc::malloc_trim(0)
    };
    // SAFETY: changes no memory that Rust can see.
    unsafe { libc::mlockall(libc::MCL_CURRENT) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn discarded_pages_read_as_zero_and_others_keep_their_words() {
        let pages = Pages::map_touched(3).unwrap();
        pages.discard(1, 1).unwrap();
        let words: Vec<u64> = (0..3)
            .map(|page| pages.word(page).load(Ordering::Relaxed))
            .collect();
        assert_eq!(words, [1, 0, 1]);
    }

    #[test]
    fn the_last_word_of_a_page_is_another_than_its_first_and_the_next_ones() {
        let pages = Pages::map_touched(2).unwrap();
        pages.last_word(0).store(7, Ordering::Relaxed);
        pages.last_word(1).store(8, Ordering::Relaxed);
        let words = |page: usize| {
            [pages.word(page), pages.last_word(page)].map(|word| word.load(Ordering::Relaxed))
        };
        assert_eq!((words(0), words(1)), ([1, 7], [1, 8]));
    }

    #[test]
    #[should_panic(expected = "behind the mapping")]
    fn a_page_behind_the_mapping_is_refused() {
        Pages::map(1).unwrap().word(1);
    }
}
