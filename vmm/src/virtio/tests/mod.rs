//! Transport and devices, driven through registers and rings as a guest's driver would.

mod blk;
mod console;
mod hostile;
mod pci;
mod rig;
mod rng;
mod transport;
