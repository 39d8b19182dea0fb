// SPDX-License-Identifier: GPL-2.0
//! Memory hooks: free blocks are given back in batches, and backed in batches, ahead of their use.
//!
//! The policy is `guest_shim::memory`; here the kernel's callbacks reach it, and lists reach the
//! host: piece by piece, each by the session of the CPU that it happens on, interrupts on between.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use coopvirt_spec::discover::Offer;
use coopvirt_spec::entry::Submission;
use coopvirt_spec::op::{PopulateArgs, ReleaseArgs};
use coopvirt_spec::range::RangeList;
use coopvirt_spec::version::Features;
use guest_shim::batch::Step;
use guest_shim::memory::{Free, Switches, Used};

use crate::blocks::{self, Hooks};
use crate::cpus;
use crate::features::{self, Hook};
use crate::flavour::{pr_warn, Result, EBUSY, EIO, ENODEV};
use crate::platform::RawParams;

/// Lists that went to the host, pieces that they took, and lists that the host refused.
pub(crate) struct Lists {
    pub(crate) lists: AtomicU64,
    pub(crate) pieces: AtomicU64,
    pub(crate) failed: AtomicU64,
}

impl Lists {
    const fn new() -> Self {
        let [lists, pieces, failed] = [const { AtomicU64::new(0) }; 3];
        Self {
            lists,
            pieces,
            failed,
        }
    }
}

pub(crate) static POPULATED: Lists = Lists::new();
pub(crate) static RELEASED: Lists = Lists::new();

/// The kernel offers a block; the answer as in glue/coopvirt.h.
pub(crate) fn block_free(block: u64) -> u32 {
    match blocks::with(|blocks| blocks.free(block)).unwrap_or(Free::Keep) {
        Free::Keep => 0,
        Free::Release => 1,
        Free::Populate => 2,
    }
}

/// The kernel takes a watched block into use; the answer as in glue/coopvirt.h.
pub(crate) fn block_used(block: u64) -> u32 {
    let Used { populate, ahead } = blocks::with(|blocks| blocks.used(block)).unwrap_or_default();
    u32::from(populate) | u32::from(ahead) << 1
}

/// The next block to back ahead of its use.
pub(crate) fn next_ahead() -> Option<u64> {
    blocks::with(|blocks| blocks.next_ahead()).flatten()
}

/// That block is backed.
pub(crate) fn block_backed(block: u64) {
    let _ = blocks::with(|blocks| blocks.backed(block));
}

/// That block's list was refused by the host.
pub(crate) fn block_refused(block: u64) {
    let _ = blocks::with(|blocks| blocks.refused(block));
}

/// Gives a list of ranges back.
pub(crate) fn release(list_gpa: u64, nr_items: u32) -> Result {
    run(list_gpa, nr_items, &RELEASED, |list| {
        ReleaseArgs::from(list).submission(0)
    })
}

/// Has a list of ranges backed.
pub(crate) fn populate(list_gpa: u64, nr_items: u32) -> Result {
    run(list_gpa, nr_items, &POPULATED, |list| {
        PopulateArgs::from(list).submission(0)
    })
}

fn run(
    list_gpa: u64,
    nr_items: u32,
    counts: &Lists,
    call: impl Fn(RangeList) -> Submission,
) -> Result {
    let mut list = RangeList {
        list_gpa,
        nr_items,
        first_item: 0,
        first_offset: 0,
    };
    counts.lists.fetch_add(1, Relaxed);
    loop {
        // Interrupts are off for one piece, an exit; in between we may go to another CPU.
        let step = cpus::with_this(|cpu| cpu.session.step_list(list, &call, |_| ()));
        counts.pieces.fetch_add(1, Relaxed);
        match step {
            Some(Ok(Step::Done(_))) => return Ok(()),
            Some(Ok(Step::More(rest))) => list = rest,
            Some(Err(_)) | None => {
                counts.failed.fetch_add(1, Relaxed);
                return Err(EIO);
            }
        }
    }
}

/// Puts the hooks in that are wanted and that the host has a use for.
pub(crate) fn install(params: &RawParams, offer: &Offer) -> Option<Hooks> {
    let has = |hook: Hook, feature| hook.is_wanted(params) && offer.features.contains(feature);
    let switches = Switches {
        populate: has(Hook::Populate, Features::POPULATE),
        release: has(Hook::Release, Features::RELEASE),
    };
    if !switches.populate && !switches.release {
        return None;
    }
    let result = Hooks::register(switches);
    match &result {
        Err(error) if *error == EBUSY => {
            pr_warn!("populate and release are off: somebody else has the free page reports\n");
        }
        Err(error) => pr_warn!("populate and release are off: {:?}\n", error),
        Ok(_) => {}
    }
    let outcome = |is_on: bool| match &result {
        Ok(_) if is_on => Ok(()),
        Ok(_) => Err(ENODEV),
        Err(error) => Err(*error),
    };
    features::install(Hook::Populate, params, || outcome(switches.populate));
    features::install(Hook::Release, params, || outcome(switches.release));
    result.ok()
}
