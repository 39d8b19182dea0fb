//! Transport and devices, driven through registers and rings as a guest's driver would.
#![expect(
    clippy::cast_possible_truncation,
    reason = "a driver cuts addresses into halves, and dice into anything"
)]

mod balloon;
mod blk;
mod blk_flight;
mod blk_open;
mod blk_ranges;
mod blk_rig;
mod console;
mod counters;
mod fake_host;
mod fuzz;
mod handed;
mod hostile;
mod lingering;
mod long_chains;
mod machines;
mod net;
mod ownership;
mod pci;
mod polled;
mod polled_race;
mod rig;
mod rng;
mod transport;
mod vcpu_notify;
mod vsock;
mod vsock_unix;
