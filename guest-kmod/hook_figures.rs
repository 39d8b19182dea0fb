// SPDX-License-Identifier: GPL-2.0
//! What the hooks have counted beyond the area's counters, as lines of the file `counters`.

use core::fmt::{self, Write};
use core::sync::atomic::Ordering::Relaxed;

use guest_shim::lateness::Lateness;

use crate::memory::{Lists, POPULATED, RELEASED};
use crate::{blocks, platform};

/// One CPU's: interrupts left out, timers lost, and how late the others were.
pub(crate) fn write_cpu(to: &mut impl Write, cpu: u32, lateness: &Lateness) -> fmt::Result {
    writeln!(to, "cpu{cpu} ipi_skipped {}", platform::ipis_skipped(cpu))?;
    writeln!(to, "cpu{cpu} timer_lost {}", lateness.lost())?;
    for (log2, &count) in lateness
        .bins()
        .iter()
        .enumerate()
        .filter(|(_, &count)| count > 0)
    {
        writeln!(to, "cpu{cpu} timer_late_below_{}_ns {count}", ns(log2))?;
    }
    Ok(())
}

/// 2^log2 steps of the time stamp counter, in nanoseconds.
fn ns(log2: usize) -> u64 {
    ((1_u64 << log2.min(40)) * 1_000)
        .checked_div(platform::tsc_steps_per_us())
        .unwrap_or(0)
}

/// The whole machine's memory, in blocks of 2 MiB.
pub(crate) fn write_memory(to: &mut impl Write) -> fmt::Result {
    let Some(figures) = blocks::with(|blocks| blocks.figures()) else {
        return Ok(());
    };
    for (name, value) in [
        ("reserve", figures.reserve),
        ("aim", figures.aim),
        ("hits", figures.hits),
        ("misses", figures.misses),
        ("ahead", figures.ahead),
        ("released", figures.released),
    ] {
        writeln!(to, "memory blocks_{name} {value}")?;
    }
    write_lists(to, "populate", &POPULATED)?;
    write_lists(to, "release", &RELEASED)
}

fn write_lists(to: &mut impl Write, name: &str, counts: &Lists) -> fmt::Result {
    for (what, value) in [
        ("lists", &counts.lists),
        ("pieces", &counts.pieces),
        ("failed", &counts.failed),
    ] {
        writeln!(to, "memory {name}_{what} {}", value.load(Relaxed))?;
    }
    Ok(())
}
