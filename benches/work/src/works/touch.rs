//! `touch`: first write to each 4 KiB page of new memory. Operation: one page.
//!
//! Costs a page fault inside the guest per page, and one of the second stage for each frame that
//! the host has not given to the guest yet. Frames are fresh only if nobody used them since the
//! machine was started: so the first `touch` of a boot is the one that counts, on a guest with
//! memory to spare, whose memory the host has not populated. Later ones resemble `refill`.

use super::bench::{Bench, Failure, Measured};
use crate::latency::Samples;
use crate::sys::alarm::Alarm;
use crate::sys::memory::Pages;
use coopvirt_spec::work::Work;
use std::sync::atomic::Ordering;

/// 96 MiB at scale 1: long enough that a few timer ticks more or less do not decide the figure.
pub(super) const PAGES: u64 = 24_576;
/// What page number `n` holds afterwards is `n` plus this.
const FIRST_VALUE: u64 = 0x746f_7563;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Measured, Failure> {
    let _pinned = bench.pin_first()?;
    let (pages, mut samples) = map_pages(bench.scaled(PAGES))?;
    let ((), span) = bench.phase(Work::Touch, || write_all(&pages, FIRST_VALUE, &mut samples))?;
    let check = check_all(&pages, FIRST_VALUE);
    Ok(Measured::with_samples(pages.nr_pages() as u64, span, samples).checked(check))
}

/// Maps the memory, untouched, and makes room for its samples.
pub(super) fn map_pages(nr_pages: u64) -> Result<(Pages, Samples), Failure> {
    let (need, free) = (nr_pages.saturating_mul(4), read_free_kib());
    if free.is_some_and(|free| need > free / 4 * 3) {
        let free = free.unwrap_or(0);
        return Err(Failure::Skip(format!(
            "needs {need} KiB, which is over 3/4 of {free} free"
        )));
    }
    let pages = usize::try_from(nr_pages)
        .map_err(|error| error.to_string())
        .and_then(|nr_pages| Pages::map(nr_pages).map_err(|error| error.to_string()))
        .map_err(|error| format!("cannot map {nr_pages} pages: {error}"))?;
    Ok((pages, Samples::with_room(nr_pages)))
}

/// Writes one word to each page, in order.
pub(super) fn write_all(pages: &Pages, first: u64, samples: &mut Samples) -> Result<(), String> {
    for (page, value) in (0..pages.nr_pages()).zip(first..) {
        samples.time(|| pages.word(page).store(value, Ordering::Relaxed));
        if Alarm::has_expired() {
            return Err(format!("touch: {page} pages when the phase timed out"));
        }
    }
    Ok(())
}

/// Checks that each page holds its word.
pub(super) fn check_all(pages: &Pages, first: u64) -> Result<(), String> {
    for (page, value) in (0..pages.nr_pages()).zip(first..) {
        let found = pages.word(page).load(Ordering::Relaxed);
        if found != value {
            return Err(format!(
                "page {page} holds {found:#x} instead of {value:#x}"
            ));
        }
    }
    Ok(())
}

fn read_free_kib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    parse_free_kib(&text)
}

fn parse_free_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_with_another_word_fails_the_check() {
        let pages = Pages::map(3).unwrap();
        let mut samples = Samples::with_room(3);
        write_all(&pages, 7, &mut samples).unwrap();
        assert_eq!(check_all(&pages, 7), Ok(()));
        pages.word(1).store(0, Ordering::Relaxed);
        assert_eq!(
            check_all(&pages, 7),
            Err("page 1 holds 0x0 instead of 0x8".to_string())
        );
    }

    #[test]
    fn free_memory_is_read_from_meminfo() {
        let text = "MemTotal:  500 kB\nMemAvailable:     123 kB\n";
        assert_eq!(parse_free_kib(text), Some(123));
        assert_eq!(parse_free_kib("MemTotal: 5 kB\n"), None);
    }
}
