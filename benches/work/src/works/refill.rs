//! `refill`: memory that has been touched is given back and touched again. Operation: one page.
//!
//! Costs the same faults inside the guest as `touch`; of the second stage only if the host takes
//! back what the guest gives back. The difference to `touch` is what fresh frames cost.
//!
//! With `return_wait_s` the work has 256 MiB and waits, before its begin mark, until the guest's
//! kernel has reported its free memory to the host ([`crate::reported`]). Where nobody reports, it
//! skips itself: it would measure memory that the host has kept.

use super::bench::{in_phase, Bench, Failure, Measured};
use super::touch::{check_all, map_pages, write_all, PAGES};
use crate::latency::Samples;
use crate::reported;
use coopvirt_spec::work::Work;

/// 256 MiB: the most, whatever the scale.
const RETURNED_PAGES: u64 = 65_536;
/// Other words than those of the first round, so that an old page does not pass.
const FIRST_VALUE: u64 = 0x7265_6669;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Measured, Failure> {
    let _pinned = bench.pin_first()?;
    let wait = bench.return_wait();
    let nr_pages = match wait {
        Some(_) => bench.scaled(RETURNED_PAGES).min(RETURNED_PAGES),
        None => bench.scaled(PAGES),
    };
    let (pages, mut samples) = map_pages(nr_pages)?;
    write_all(&pages, 1, &mut Samples::with_room(0))?;
    let mut note = None;
    if let Some(wait) = wait {
        pages
            .discard(0, pages.nr_pages())
            .map_err(|error| format!("cannot give the memory back: {error}"))?;
        note = Some(reported::wait_for_all(wait)?);
    }
    let ((), span) = bench.phase(Work::Refill, || {
        if wait.is_none() {
            pages
                .discard(0, pages.nr_pages())
                .map_err(in_phase("madvise"))?;
        }
        write_all(&pages, FIRST_VALUE, &mut samples)
    })?;
    let check = check_all(&pages, FIRST_VALUE);
    Ok(Measured {
        note,
        ..Measured::with_samples(pages.nr_pages() as u64, span, samples).checked(check)
    })
}
