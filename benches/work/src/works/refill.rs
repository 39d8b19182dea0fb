//! `refill`: memory that has been touched is given back and touched again. Operation: one page.
//!
//! Costs the same faults inside the guest as `touch`; of the second stage only if the host takes
//! back what the guest gives back. The difference to `touch` is what fresh frames cost.

use super::bench::{in_phase, Bench, Failure, Measured};
use super::touch::{check_all, map, write_all};
use crate::latency::Samples;
use coopvirt_spec::work::Work;

/// Other words than those of the first round, so that an old page does not pass.
const FIRST_VALUE: u64 = 0x7265_6669;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Measured, Failure> {
    let _pinned = bench.pin_first()?;
    let (pages, mut samples) = map(bench)?;
    write_all(&pages, 1, &mut Samples::with_room(0))?;
    let ((), span) = bench.phase(Work::Refill, || {
        pages
            .discard(0, pages.nr_pages())
            .map_err(in_phase("madvise"))?;
        write_all(&pages, FIRST_VALUE, &mut samples)
    })?;
    let check = check_all(&pages, FIRST_VALUE);
    Ok(Measured::with_samples(pages.nr_pages() as u64, span, samples).checked(check))
}
