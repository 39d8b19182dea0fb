// SPDX-License-Identifier: GPL-2.0
//! The self-test: what this machine's host really does for this module, as KTAP.
//!
//! Run once at the end of loading if `selftest=1`; the results are in the kernel log and in debugfs.
//! Every test runs on every CPU that is online, on sessions that are in use.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

use coopvirt_spec::code::Status;
use coopvirt_spec::counter::GuestCounter;
use coopvirt_spec::entry::Submission;
use coopvirt_spec::op::{EchoArgs, NopArgs, Opcode};
use coopvirt_spec::page;
use coopvirt_spec::version::Features;
use guest_shim::batch::{BatchError, Flush};
use guest_shim::Cpu;

use crate::cpus::{self, ThisCpu};
use crate::features::{Hook, Outcome};
use crate::flavour::{pr_info, pr_warn};
use crate::platform::{self, RawParams, Show};

type Test = fn(&mut ThisCpu) -> bool;

/// Names and tests; each says whether this CPU passes.
const TESTS: [(&str, Test); 6] = [
    ("the area is registered and its header is right", has_area),
    ("an echo comes back", echoes),
    ("a batch takes one doorbell", batches),
    ("an unknown operation is refused and harms nothing", refuses),
    ("the session closes and opens again", reopens),
    ("the idle driver is ours, if it is wanted", has_idle_slot),
];

/// Bit n: test n has run, and test n has failed.
static HAS_RUN: AtomicU32 = AtomicU32::new(0);
static HAS_FAILED: AtomicU32 = AtomicU32::new(0);

/// Runs all tests on all CPUs, if they are wanted.
pub(crate) fn run(params: &RawParams) {
    if !params.selftest {
        return;
    }
    for (number, (_, test)) in TESTS.iter().enumerate() {
        let bit = 1 << number;
        let online = (0..platform::nr_cpus()).filter(|&cpu| platform::is_online(cpu));
        let failed = online
            .filter(|&cpu| platform::call_on(cpu, || cpus::with_this(test)).flatten() != Some(true))
            .inspect(|cpu| pr_warn!("test {} fails on CPU {}\n", number + 1, cpu))
            .count();
        HAS_RUN.fetch_or(bit, Ordering::Relaxed);
        if failed > 0 {
            HAS_FAILED.fetch_or(bit, Ordering::Relaxed);
        }
    }
    pr_info!("KTAP version 1\n");
    pr_info!("1..{}\n", TESTS.len());
    for number in 0..TESTS.len() {
        pr_info!("{}\n", Line(number));
    }
}

/// The results, for debugfs; nothing if the tests did not run.
pub(crate) fn write(to: &mut Show) -> fmt::Result {
    if HAS_RUN.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    writeln!(to, "KTAP version 1\n1..{}", TESTS.len())?;
    (0..TESTS.len()).try_for_each(|number| writeln!(to, "{}", Line(number)))
}

/// One test's line.
struct Line(usize);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_ok = HAS_FAILED.load(Ordering::Relaxed) & 1 << self.0 == 0;
        let name = TESTS.get(self.0).map_or("", |(name, _)| name);
        write!(
            f,
            "{} {} {}",
            if is_ok { "ok" } else { "not ok" },
            self.0 + 1,
            name
        )
    }
}

fn has_area(cpu: &mut ThisCpu) -> bool {
    cpu.session.features().contains(Features::RING)
        && page::read_header(cpu.session.cpu().area())
            .is_some_and(|header| header.features == cpu.session.features().0)
}

fn echoes(cpu: &mut ThisCpu) -> bool {
    let value = platform::read_tsc();
    let done = cpu.session.call(EchoArgs { value }.submission(0), |_| {});
    done.is_ok_and(|done| done.result == value)
}

fn batches(cpu: &mut ThisCpu) -> bool {
    const CALLS: u32 = 8;
    let bells = |cpu: &ThisCpu| cpu.session.counters().get(GuestCounter::SyncBell);
    let before = bells(cpu);
    if (0..CALLS).any(|_| cpu.session.stage(NopArgs {}.submission(0)).is_err()) {
        return false;
    }
    cpu.session.flush(Flush::Now);
    let done =
        core::iter::from_fn(|| cpu.session.take()).filter(|done| done.status() == Status::OK);
    done.count() == CALLS as usize && bells(cpu) == before + 1
}

fn refuses(cpu: &mut ThisCpu) -> bool {
    let call = Submission::new(Opcode(0xefff), 0, [0; 6]);
    let refused = match cpu.session.call(call, |_| {}) {
        Err(BatchError::Refused(done)) => done.status() == Status::UNKNOWN_OPCODE,
        _ => false,
    };
    refused && echoes(cpu)
}

fn reopens(cpu: &mut ThisCpu) -> bool {
    let before = cpu.session.features();
    cpu.session.close();
    let is_closed = cpu.session.features() == Features::NONE;
    let result = cpu.session.open();
    cpu.opened = Some(result);
    is_closed && result == Ok(before) && echoes(cpu)
}

fn has_idle_slot(_cpu: &mut ThisCpu) -> bool {
    let is_ours = platform::idle_owner() == Some("coopvirt");
    is_ours == matches!(Hook::Idle.outcome(), Outcome::On)
}
