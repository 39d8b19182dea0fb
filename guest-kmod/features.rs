// SPDX-License-Identifier: GPL-2.0
//! Which features this module wants, by its parameters, and what became of each hook.

use core::fmt;
use core::sync::atomic::{AtomicI32, Ordering};

use coopvirt_spec::version::Features;
use guest_shim::Options;

use crate::flavour::Result;
use crate::ipi;
use crate::platform::RawParams;

/// The level from which on a polling host thread is made use of.
const LEVEL_SIDECORE: u32 = 2;
/// The vector of the local APIC's timer, on every kernel of this series.
const LOCAL_TIMER_VECTOR: u8 = 0xec;

/// What can be switched: a parameter and a hook each.
#[derive(Clone, Copy)]
pub(crate) enum Hook {
    Idle = 0,
    Timer = 1,
    Ipi = 2,
    Populate = 3,
    Release = 4,
}

impl Hook {
    /// All hooks with the names of their parameters.
    pub(crate) const ALL: [(Hook, &'static str); 5] = [
        (Hook::Idle, "idle"),
        (Hook::Timer, "timer"),
        (Hook::Ipi, "ipi"),
        (Hook::Populate, "populate"),
        (Hook::Release, "release"),
    ];

    /// Whether the parameters want it. At level 0 none is.
    pub(crate) fn is_wanted(self, params: &RawParams) -> bool {
        params.level > 0
            && match self {
                Hook::Idle => params.idle,
                Hook::Timer => params.timer,
                Hook::Ipi => params.ipi,
                Hook::Populate => params.populate,
                Hook::Release => params.release,
            }
    }
}

/// What each CPU negotiates.
pub(crate) fn options(params: &RawParams) -> Options {
    let mut wanted = Features::RING | Features::HINTS;
    for (hook, feature) in [
        (Hook::Idle, Features::IDLE),
        (Hook::Timer, Features::TIMER),
        (Hook::Ipi, Features::IPI),
        (Hook::Populate, Features::POPULATE),
        (Hook::Release, Features::RELEASE),
    ] {
        if hook.is_wanted(params) {
            wanted = wanted | feature;
        }
    }
    if params.post && Hook::Idle.is_wanted(params) {
        wanted = wanted | Features::POLL_DELIVERY;
    }
    if params.halt && Hook::Idle.is_wanted(params) && Hook::Timer.is_wanted(params) {
        wanted = wanted | Features::HALT;
    }
    if params.level >= LEVEL_SIDECORE {
        wanted = wanted | Features::SIDECORE;
    }
    Options {
        wanted,
        timer_vector: LOCAL_TIMER_VECTOR,
        elidable: ipi::ELIDABLE,
    }
}

/// What became of a hook.
#[derive(Clone, Copy)]
pub(crate) enum Outcome {
    /// Its parameter or the level says no, or the host does not offer what it needs.
    Off,
    /// Installed.
    On,
    /// Wanted, but the kernel did not take it.
    Refused(i32),
}

const OFF: i32 = 0;
const ON: i32 = 1;

/// By [`Hook`]: [`OFF`], [`ON`] or a negative error number.
static OUTCOMES: [AtomicI32; Hook::ALL.len()] = [const { AtomicI32::new(OFF) }; Hook::ALL.len()];

/// Puts a hook in if it is wanted. One that cannot be had leaves the others alone.
pub(crate) fn install<T>(
    hook: Hook,
    params: &RawParams,
    install: impl FnOnce() -> Result<T>,
) -> Option<T> {
    let result = hook.is_wanted(params).then(install)?;
    let code = result
        .as_ref()
        .map_or_else(|error| error.to_errno(), |_| ON);
    OUTCOMES[hook as usize].store(code, Ordering::Relaxed);
    result.ok()
}

impl Hook {
    /// What became of it at load.
    pub(crate) fn outcome(self) -> Outcome {
        match OUTCOMES[self as usize].load(Ordering::Relaxed) {
            OFF => Outcome::Off,
            ON => Outcome::On,
            errno => Outcome::Refused(errno),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Off => f.write_str("off"),
            Outcome::On => f.write_str("on"),
            Outcome::Refused(errno) => write!(f, "refused {errno}"),
        }
    }
}

/// All hooks and their outcomes in one line, for the log.
pub(crate) struct Summary;

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (hook, name)) in Hook::ALL.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{name} {}", hook.outcome())?;
        }
        Ok(())
    }
}
