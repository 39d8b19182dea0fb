//! Transport and devices, driven through registers and rings as a guest's driver would.
#![expect(
    clippy::cast_possible_truncation,
    reason = "a driver cuts addresses into halves, and dice into anything"
)]

mod balloon;
mod blk;
mod console;
mod fake_host;
mod handed;
mod hostile;
mod net;
mod pci;
mod rig;
mod rng;
mod transport;
mod vsock;
