//! PCI: a root complex with one bus, its configuration mechanisms, and MSI-X.
//!
//! - [`PciRoot`] holds up to 32 functions (the host bridge is the first), answers configuration
//!   accesses and dispatches MMIO to their BARs. The machine builder creates and fills it.
//! - [`EcamWindow`], [`ConfigPorts`] and [`BarWindow`] put one root on the MMIO and port buses.
//! - [`PciFunction`] is what a device implements; [`ConfigSpace`] does most of it.
//! - [`Msix`] is the MSI-X capability's table and pending bits, bound to KVM by irqfds.
//!
//! All addresses and values come from a guest: any access at any width is answered, and none
//! panics. Lock order, outermost first: a [`BusDevice`](crate::bus::BusDevice) window, the root's
//! topology, the root's decode table, one function, then that function's own locks
//! ([`crate::virtio`]). MMIO dispatch drops the decode table's lock before it takes the function's.

mod config;
mod function;
mod host_bridge;
mod msix;
mod root;
mod windows;

pub use config::{Bar, ConfigHeader, ConfigSpace, BAR_COUNT};
pub use function::{BarBase, PciFunction};
pub use msix::{Msix, MSIX_ENTRY_BYTES};
pub use root::{PciError, PciLayout, PciRoot, NR_SLOTS};
pub use windows::{BarWindow, ConfigPorts, EcamWindow, CONFIG_PORTS_BASE, CONFIG_PORTS_LEN};
