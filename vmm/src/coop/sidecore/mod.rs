//! The polling thread, and the worker that does what it must not wait for.
//!
//! While there is work the thread looks at every area again and again, each under a lease that ends
//! soon ([`thread`]), and at the virtqueues that have work ([`queues`]). [`window`] decides how long it
//! polls without work and how long it sleeps, [`share`] whether it has the CPU for it. The [`worker`]
//! carries out calls that may take long, and takes over if the polling thread is late ([`watch`]). While the
//! thread sleeps, its [`alarm`] follows what vCPUs that halt have seen to themselves.

mod alarm;
mod fault;
mod hints;
mod pass;
mod queues;
mod share;
mod sleeper;
#[cfg(test)]
mod tests;
mod thread;
mod threads;
mod watch;
mod window;
mod worker;

pub(super) use alarm::{Alarm, Promise};
pub(super) use hints::own_task;
pub(super) use queues::Queues;
pub use threads::Sidecore;
pub(super) use worker::Message;

use std::time::Duration;

/// How long a lease lasts beyond the look that renews it. A preempted thread leaves what was
/// published unseen for at most this long, and then until the worker's next look.
pub(super) const LEASE: Duration = Duration::from_millis(3);
