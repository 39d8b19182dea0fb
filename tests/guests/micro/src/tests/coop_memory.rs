//! Memory that the host backs before it is touched, and takes back when it is not needed.
//!
//! The host's test looks for the phases in the exit report, and at the VMM's memory between them.

use core::cell::Cell;
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

/// What the calls that worked through a list came to.
#[derive(Default)]
struct Calls {
    /// How many there were.
    count: Cell<u64>,
    /// Most bytes that one of them did.
    largest_bytes: Cell<u64>,
    /// Longest time from one to the next, in ticks: its exit, and little else.
    longest_ticks: Cell<u64>,
    /// Time and place of the last one.
    last: Cell<Option<(u64, u64)>>,
}

impl Calls {
    /// A call begins, or the list has ended, with so many bytes of it done.
    fn step(&self, done_bytes: u64) {
        let now = tsc::now();
        if let Some((then, before)) = self.last.replace(Some((now, done_bytes))) {
            let largest = self.largest_bytes.get().max(done_bytes - before);
            let longest = self.longest_ticks.get().max(now - then);
            self.count.set(self.count.get() + 1);
            self.largest_bytes.set(largest);
            self.longest_ticks.set(longest);
        }
    }

    fn report(&self) {
        value("calls", self.count.get());
        value("largest_call_bytes", self.largest_bytes.get());
        let ns = u128::from(self.longest_ticks.get()) * 1_000_000_000 / u128::from(tsc::hz());
        value("longest_call_ns", u64::try_from(ns).unwrap_or(u64::MAX));
    }
}

/// Works through the pages as a list of ranges, whatever number of calls that takes.
#[track_caller]
fn run(session: &mut Session<Vcpu>, pages: &Pages, call: fn(RangeList) -> Submission) -> Calls {
    let list = memory::pages(1);
    let nr_pages = pages.words().len() as u64 / 512;
    let start_of = |range| nr_pages * range / RANGES * PAGE_BYTES;
    for (range, words) in (0..RANGES).zip(list.words().chunks_exact(2)) {
        let (start, end) = (start_of(range), start_of(range + 1));
        words[0].store(pages.start() + start, Relaxed);
        words[1].store(end - start, Relaxed);
    }
    let list = RangeList {
        list_gpa: list.start(),
        nr_items: u32::try_from(RANGES).expect("few"),
        first_item: 0,
        first_offset: 0,
    };
    let calls = Calls::default();
    let step = |list: RangeList| {
        calls.step(start_of(list.first_item.into()) + list.first_offset);
        call(list)
    };
    let done = session.run_list(list, step, |other| panic!("{other:?}"));
    calls.step(nr_pages * PAGE_BYTES);
    assert_eq!(done, Ok(list.nr_items));
    calls
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
    let mut calls = Calls::default();
    marker.phase(WORK_PLAIN, || touch(&plain));
    marker.phase(WORK_BATCH, || {
        calls = run(&mut session, &batched, |list| {
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
    calls.report();
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
    let calls = run(&mut session, &pages, |list| {
        ReleaseArgs::from(list).submission(0)
    });
    value("released", wanted_pages());
    calls.report();
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
