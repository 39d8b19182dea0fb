//! While one vCPU does what it must not, in a loop, its neighbour's calls go on at their pace.
//!
//! CPU 1 makes no-ops by the synchronous doorbell all the time. CPU 0 is busy with itself for a few
//! of its batches, then with one kind of abuse for a few, in turn; so short that what else disturbs
//! the machine disturbs both alike, or falls on few batches of either. CPU 1 takes the time: what
//! CPU 0 does to its own clock is among the abuse.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use coopvirt_spec::code::Status;
use coopvirt_spec::entry::Submission;
use coopvirt_spec::mem::{SharedMem, Store};
use coopvirt_spec::op::{EchoArgs, IpiArgs, LogArgs, NopArgs, PopulateArgs};
use coopvirt_spec::page::at;
use coopvirt_spec::range::RangeList;
use coopvirt_spec::version::Features;
use guest_shim::batch::Flush;
use guest_shim::{Cpu, Session};

use crate::coop::{self, SetUp, Vcpu};
use crate::cpus;
use crate::memory;
use crate::report::value;
use crate::test::{guest_test, require, Ran};
use crate::x86::{msr, port, tsc};

const MSR_TSC: u32 = 0x10;
const BATCH: u64 = 8;
/// Batches of the neighbour in a row under the same conditions.
const STRETCH: usize = 3;
/// Batches under either condition between two looks at the figures.
const BLOCK: usize = 81;
/// With so much of its pace left the neighbour notices nothing.
const ENOUGH_PERMILLE: u64 = 900;
/// The most under either.
const MOST: usize = 6 * BLOCK;

/// How long the neighbour's batches took, in ticks: alone, and abused.
static TIMES: [[AtomicU64; MOST]; 2] = [const { [const { AtomicU64::new(0) }; MOST] }; 2];
static COUNTS: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
/// Under which condition batches are counted, by its lowest bit; 0: not at all.
static EPOCH: AtomicUsize = AtomicUsize::new(0);

/// One step of an abuse: well below a millisecond.
type Step = fn(&mut Abuser);

const ABUSES: &[(&str, Step)] = &[
    ("asynchronous_doorbells", asynchronous_doorbells),
    ("synchronous_doorbells", synchronous_doorbells),
    ("areas_come_and_go", areas_come_and_go),
    ("completions_never_taken", completions_never_taken),
    ("deadlines_rewritten", deadlines_rewritten),
    ("clock_rewritten", clock_rewritten),
    ("bad_interrupts", bad_interrupts),
    ("entries_rewritten", entries_rewritten),
    ("bad_lists", bad_lists),
    ("bad_tails", bad_tails),
    ("log_flood", log_flood),
];

/// CPU 0 and what it abuses.
struct Abuser {
    session: Session<Vcpu>,
    set_up: SetUp,
    text_gpa: u64,
    turn: u64,
    epoch: usize,
}

guest_test!(
    "coop_neighbour_notices_nothing",
    "[TRUST-4] [TRUST-6] [BELL-4] [RING-7] [LIFE-2]",
    notices_nothing
);
/// Says for each abuse how many permille of the neighbour's rate were left; the host judges.
fn notices_nothing() -> Ran {
    require(cpus::count() > 1, "one CPU")?;
    let offer = coop::offer()?;
    let is_over = AtomicBool::new(false);
    cpus::on_each(&|cpu| match cpu {
        0 => {
            let known = Features::KNOWN.without(Features::EXPERIMENTAL);
            let mut abuser = Abuser {
                session: coop::open(offer.features.intersection(known)),
                set_up: SetUp(offer),
                text_gpa: memory::pages(1).start(),
                turn: 0,
                epoch: 0,
            };
            for (name, step) in ABUSES {
                value(name, abuser.permille_left(*step));
            }
            is_over.store(true, Ordering::Release);
            abuser.session.close();
        }
        1 => {
            let mut session = coop::open(Features::RING);
            while !is_over.load(Ordering::Acquire) {
                let epoch = EPOCH.load(Ordering::Acquire);
                let ticks = honest_calls(&mut session);
                if epoch == EPOCH.load(Ordering::Acquire) && epoch != 0 {
                    note(epoch & 1, ticks);
                }
            }
            session.close();
        }
        _ => {}
    });
    Ok(())
}

/// Makes a batch of calls; how long it took.
fn honest_calls(session: &mut Session<Vcpu>) -> u64 {
    let start = tsc::now();
    for _ in 0..BATCH {
        let staged = session.stage(NopArgs {}.submission(0));
        assert!(staged.is_ok(), "{staged:?}");
    }
    session.flush(Flush::Now);
    for _ in 0..BATCH {
        let done = session.take().expect("an answer to a doorbell");
        assert_eq!(done.status(), Status::OK);
    }
    tsc::now() - start
}

/// Enters what a batch took under this condition.
fn note(condition: usize, ticks: u64) {
    let count = COUNTS[condition].load(Ordering::Relaxed);
    if let Some(place) = TIMES[condition].get(count) {
        place.store(ticks, Ordering::Relaxed);
        // Release: who sees the count sees the entry.
        COUNTS[condition].store(count + 1, Ordering::Release);
    }
}

/// The median of what was entered.
fn median(condition: usize) -> u64 {
    let count = COUNTS[condition].load(Ordering::Acquire);
    let mut times = [0; MOST];
    for (time, place) in times.iter_mut().zip(&TIMES[condition]) {
        *time = place.load(Ordering::Relaxed);
    }
    times[..count].sort_unstable();
    times[count / 2]
}

impl Abuser {
    /// The neighbour's rate while this is done, in permille of that while CPU 0 is busy alone. The
    /// more batches, the better it is known: so many as it takes to see that it is enough.
    fn permille_left(&mut self, step: Step) -> u64 {
        for count in &COUNTS {
            count.store(0, Ordering::Relaxed);
        }
        let mut permille = 0;
        for wanted in (STRETCH..=MOST).step_by(STRETCH) {
            self.until(0, wanted, |_| core::hint::spin_loop());
            self.until(1, wanted, step);
            EPOCH.store(0, Ordering::Release);
            self.tidy();
            if wanted % BLOCK == 0 {
                permille = median(0) * 1_000 / median(1).max(1);
                if permille >= ENOUGH_PERMILLE {
                    break;
                }
            }
        }
        permille
    }

    /// Does this until the neighbour has made so many batches meanwhile.
    fn until(&mut self, condition: usize, wanted: usize, step: impl Fn(&mut Self)) {
        let epoch = self.epoch + 2;
        self.epoch = epoch;
        EPOCH.store(epoch | condition, Ordering::Release);
        let end = tsc::now() + tsc::ticks(tsc::LIMIT_US);
        while COUNTS[condition].load(Ordering::Acquire) < wanted {
            step(self);
            self.turn += 1;
            assert!(tsc::now() < end, "the neighbour makes no calls");
        }
    }

    /// Begins anew with an area that is whole.
    fn tidy(&mut self) {
        self.set_up.write_area(0);
        self.session.close();
        assert!(self.session.open().is_ok());
        let done = coop::answer(&mut self.session, EchoArgs { value: 1 }.submission(0));
        assert_eq!(done.result, 1);
    }

    /// Publishes a call if there is room; without a doorbell.
    fn publish(&mut self, call: Submission) {
        while self.session.take().is_some() {}
        if self.session.stage(call).is_ok() {
            self.session.flush(Flush::Soon);
        }
    }
}

fn asynchronous_doorbells(abuser: &mut Abuser) {
    port::write_u32(abuser.set_up.0.async_port, 0);
}

fn synchronous_doorbells(abuser: &mut Abuser) {
    port::write_u32(abuser.set_up.0.sync_port, 0);
}

fn areas_come_and_go(abuser: &mut Abuser) {
    abuser.publish(NopArgs {}.submission(0));
    abuser.set_up.write_area(0);
    let mem = abuser.session.cpu().area();
    for offset in (0..4096).step_by(8) {
        mem.store_u64(offset, 0, Store::Relaxed);
    }
    abuser.set_up.register(abuser.session.cpu().area_gpa());
}

fn completions_never_taken(abuser: &mut Abuser) {
    if abuser.session.stage(NopArgs {}.submission(0)).is_ok() {
        abuser.session.flush(Flush::Soon);
    }
    port::write_u32(abuser.set_up.0.sync_port, 0);
}

fn deadlines_rewritten(abuser: &mut Abuser) {
    let mem = abuser.session.cpu().area();
    for turn in 0..64 {
        let deadline = match turn % 4 {
            0 => 0,
            1 => u64::MAX,
            2 => abuser.turn + turn,
            _ => tsc::now() + turn,
        };
        mem.store_u64(at::DEADLINE, deadline, Store::Release);
    }
}

fn clock_rewritten(_: &mut Abuser) {
    msr::write(MSR_TSC, tsc::now());
}

fn bad_interrupts(abuser: &mut Abuser) {
    let nowhere = IpiArgs {
        mask_low: u64::MAX,
        mask_high: u64::MAX,
        ..IpiArgs::one(0, 0x40)
    };
    let call = match abuser.turn % 3 {
        0 => IpiArgs::one(200, 0x40),
        1 => IpiArgs::one(0, 7),
        _ => nowhere,
    };
    abuser.publish(call.submission(0));
}

fn entries_rewritten(abuser: &mut Abuser) {
    abuser.publish(NopArgs {}.submission(0));
    let mem = abuser.session.cpu().area();
    for slot in (1024..1024 + 32 * 64).step_by(64) {
        // Not the quiet flag: who waits for an answer may wait.
        mem.store_u64(slot, abuser.turn & 0xfffe_ffff, Store::Relaxed);
    }
}

fn bad_lists(abuser: &mut Abuser) {
    let area = abuser.session.cpu().area_gpa();
    let (list_gpa, nr_items) = match abuser.turn % 3 {
        0 => (area + 1024, 512),
        1 => (u64::MAX - 7, 512),
        _ => (abuser.text_gpa, 512),
    };
    let list = RangeList {
        list_gpa,
        nr_items,
        first_item: 0,
        first_offset: 0,
    };
    abuser.publish(PopulateArgs::from(list).submission(0));
}

fn bad_tails(abuser: &mut Abuser) {
    let mem = abuser.session.cpu().area();
    mem.store_u32(at::SUBMISSION_TAIL, 1 << 20, Store::Release);
    port::write_u32(abuser.set_up.0.sync_port, 0);
    areas_come_and_go(abuser);
}

fn log_flood(abuser: &mut Abuser) {
    let args = LogArgs {
        text_gpa: abuser.text_gpa,
        len_bytes: 1024,
        level: 7,
    };
    abuser.publish(args.submission(0));
}
