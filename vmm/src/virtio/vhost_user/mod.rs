//! Devices that another process serves, by the vhost-user protocol: [`VhostUserBlk`] (a disk, for
//! instance of `qemu-storage-daemon`) and [`VhostUserFs`] (a folder, of `virtiofsd`).
//!
//! - `connection` agrees with a back end and lets it serve rings; `keeper` sees its end, on a thread of
//!   its own, and looks for the next one.
//! - `ring` is a ring of ours that a back end serves; `request` is what goes through it.
//! - `relay` moves requests between the guest's queues and such rings, also past the end of a back end;
//!   `device` is what the transport sees of that; `blk` and `fs` are what is special about the two.
//!
//! Two parties are not trusted. The guest's chains are checked like those of any other device before a
//! back end hears of them, and its rings are never a back end's. A back end can read and write all of
//! the guest's memory, that is what it is for; but nothing that it says makes this process fail, stop,
//! or take more memory.
//!
//! Why not hand the guest's own rings over, as is done with the kernel (`vhost_kernel`)? A back end that
//! dies may have answered requests in another order than they came in. Which of them are open is then
//! known to nobody: the rings remember the last 256 only, and the protocol's own way to know it
//! (INFLIGHT_SHMFD) neither `qemu-storage-daemon` nor `virtiofsd` has. To go on from the used index
//! would repeat some requests that the guest has taken back, and forget others. The price is one more
//! thread between guest and back end, both ways; exits it costs none.

mod blk;
mod connection;
mod device;
mod fs;
mod keeper;
mod open;
mod relay;
mod request;
mod ring;

pub use blk::VhostUserBlk;
pub use connection::ConnectionError;
pub use fs::VhostUserFs;
pub use open::VhostUserError;
pub use ring::RingError;

#[cfg(test)]
pub(super) mod tests;
