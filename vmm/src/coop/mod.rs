//! The host half of the cooperative interface; `spec/SPEC.md` is what it implements.
//!
//! A guest finds the interface by CPUID ([`CoopOptions`] says what is offered), registers an area
//! for each vCPU by MSRs ([`Coop::write_register`]) and then makes calls through its rings. A vCPU's
//! area is served from its [`seat`]: by its own thread at a synchronous doorbell, by the polling
//! thread ([`sidecore`]) while that has work, by the worker when the polling thread is late or a
//! call may take long. [`serve`] carries out one call and knows none of these.
//!
//! Nothing here trusts the guest: its words are fetched once and checked by the spec's algorithms,
//! its addresses are checked against RAM and registered areas, and all work is bounded by a
//! [`budget`].
//!
//! Lock order: a device's backend (`virtio`), then `in_hand`, then set-up, then a seat, then [`areas`]
//! and [`postbox`].
//! The polling thread only tries, also for backends; under one a seat is only tried.

pub mod area;
pub mod areas;
pub mod backed;
pub mod budget;
pub mod clock;
pub mod counters;
pub mod effects;
mod experiments;
mod gauges;
mod host;
pub mod log;
mod options;
pub mod pages;
pub mod postbox;
mod predict;
pub mod ranges;
pub mod seat;
pub mod serve;
pub mod sidecore;
#[cfg(test)]
mod testing;

pub use gauges::{AreaCounts, CoopGauges, PollingState};
pub use host::{Coop, OwnVcpu};
pub use options::{
    default_features, features, sidecore as sidecore_option, CoopOptions, OptionError,
    SidecoreOptions, SidecorePolicy,
};
