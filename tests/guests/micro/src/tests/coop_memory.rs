//! Memory that the host backs before it is touched, and takes back when it is not needed.
//!
//! The host's test looks for the phases in the exit report, and at the VMM's memory between them.

use core::sync::atomic::Ordering::Relaxed;

use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::entry::Submission;
use coopvirt_spec::op::{PopulateArgs, ReleaseArgs};
use coopvirt_spec::range::RangeList;
use coopvirt_spec::version::Features;
use guest_shim::{Marker, Session};

use super::marks::Bare;
use crate::coop::{self, Vcpu};
use crate::memory::{self, Pages, PAGE_BYTES};
use crate::params;
use crate::report::value;
use crate::test::{guest_test, Ran};
use crate::x86::tsc;

/// Works of this guest's own choice: touches without and with a batch before, and the batch.
const WORK_PLAIN: u8 = 0xe5;
const WORK_BATCH: u8 = 0xe6;
const WORK_TOUCH: u8 = 0xe7;
/// So long the guest leaves the host time to look at the VMM's memory.
const PAUSE_US: u64 = 1_500_000;
/// Ranges in a list: several, so that lists are walked, and none a power of two of pages.
const RANGES: u64 = 7;

/// Parameter `batch_mib`: how much memory, in MiB.
fn wanted_pages() -> u64 {
    params::number("batch_mib").unwrap_or(8) << 20 >> 12
}

fn touch(pages: &Pages) {
    for (number, page) in (1..).zip(pages.words().chunks_exact(512)) {
        page[511].store(number, Relaxed);
    }
}

/// Works through the pages as a list of ranges, whatever number of calls that takes.
#[track_caller]
fn run(session: &mut Session<Vcpu>, pages: &Pages, call: fn(RangeList) -> Submission) {
    let list = memory::pages(1);
    let nr_pages = pages.words().len() as u64 / 512;
    let mut next = 0;
    for (range, words) in (0..RANGES).zip(list.words().chunks_exact(2)) {
        let end = match range + 1 {
            RANGES => nr_pages,
            part => nr_pages * part / RANGES,
        };
        words[0].store(pages.start() + next * PAGE_BYTES, Relaxed);
        words[1].store((end - next) * PAGE_BYTES, Relaxed);
        next = end;
    }
    let list = RangeList {
        list_gpa: list.start(),
        nr_items: u32::try_from(RANGES).expect("few"),
        first_item: 0,
        first_offset: 0,
    };
    let done = session.run_list(list, call, |other| panic!("{other:?}"));
    assert_eq!(done, Ok(list.nr_items));
}

guest_test!(
    "coop_populate_spares_first_touches",
    "[MMU-1] [MMU-3] [MMU-4] [BELL-3]",
    populate
);
fn populate() -> Ran {
    let wanted = Features::RING | Features::POPULATE;
    coop::require_offer(wanted)?;
    let mut session = coop::open(wanted);
    let plain = memory::untouched_large(wanted_pages());
    let batched = memory::untouched_large(wanted_pages());
    let mut marker = Marker::new(Bare);
    marker.phase(WORK_PLAIN, || touch(&plain));
    marker.phase(WORK_BATCH, || {
        run(&mut session, &batched, |list| {
            PopulateArgs::from(list).submission(0)
        });
    });
    marker.phase(WORK_TOUCH, || touch(&batched));
    // Populating what is in use changes nothing in it.
    run(&mut session, &batched, |list| {
        PopulateArgs::from(list).submission(0)
    });
    for (number, page) in (1..).zip(batched.words().chunks_exact(512)) {
        assert_eq!(
            (page[0].load(Relaxed), page[511].load(Relaxed)),
            (0, number)
        );
    }
    value("pages", wanted_pages());
    value("bells", session.counters().get(GuestCounter::SyncBell));
    session.close();
    Ok(())
}

guest_test!(
    "coop_release_gives_memory_back",
    "[MMU-1] [MMU-3] [MMU-4] [BELL-3]",
    release
);
fn release() -> Ran {
    let wanted = Features::RING | Features::RELEASE;
    coop::require_offer(wanted)?;
    let mut session = coop::open(wanted);
    let pages = memory::untouched_large(wanted_pages());
    let before = memory::pages(1);
    before.words()[511].store(77, Relaxed);
    touch(&pages);
    let after = memory::pages(1);
    after.words()[0].store(78, Relaxed);
    value("in_use", wanted_pages());
    tsc::wait_us(PAUSE_US);
    run(&mut session, &pages, |list| {
        ReleaseArgs::from(list).submission(0)
    });
    value("released", wanted_pages());
    tsc::wait_us(PAUSE_US);
    // What is given back reads as zero here, and can be written again; its neighbours are whole.
    for page in pages.words().chunks_exact(512) {
        assert_eq!((page[0].load(Relaxed), page[511].load(Relaxed)), (0, 0));
    }
    touch(&pages);
    for (number, page) in (1..).zip(pages.words().chunks_exact(512)) {
        assert_eq!(page[511].load(Relaxed), number);
    }
    assert_eq!(before.words()[511].load(Relaxed), 77);
    assert_eq!(after.words()[0].load(Relaxed), 78);
    session.close();
    Ok(())
}
