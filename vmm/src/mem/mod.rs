//! Guest memory: where it lies, who owns it, how it is backed.
//!
//! [`layout`] has every guest-physical address that the VMM itself chooses; [`ram`] allocates the
//! RAM around the PCI hole; [`shared`] is memory that other processes can map. Nothing here trusts a guest-physical address: all access goes through
//! `vm-memory`, which checks it.

pub mod layout;
pub mod ram;
pub mod shared;

pub use ram::{check_size, Backing, GuestRam, RamError};
pub use shared::{release_advice, Sharing};
