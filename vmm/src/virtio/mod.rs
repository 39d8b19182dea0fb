//! Virtio 1.x devices over PCI: block, file system, network, sockets, console, entropy, balloon.
//!
//! - [`VirtioDevice`] is what a device implements: features, configuration, and what to do with the
//!   chains of a queue. [`Blk`], [`Net`], [`Vsock`], [`UnixVsock`], [`Console`], [`Rng`] and [`Balloon`] are the
//!   devices; [`VhostUserBlk`] and [`VhostUserFs`] pass theirs on to another process.
//! - [`attach`] puts one on a [`PciRoot`] and returns its [`QueueWorker`], which the machine builder
//!   registers with the I/O thread's event manager. All queue processing happens there, but for
//!   queues that the kernel serves (vhost), for those that a polling thread owns just then
//!   ([`PolledDevice`]), and for lone requests that the vCPU serves which notifies of them
//!   (`vcpu_notify.rs`; `receiver.rs` says when).
//! - The transport (`transport.rs`, `pci_function.rs`) answers the guest's register accesses on vCPU
//!   threads. It never processes a queue.
//!
//! Every value in a queue and every register write comes from a guest. A ring that cannot be right
//! breaks its queue: nothing of it is processed until the guest resets the device, which is told by
//! DEVICE_NEEDS_RESET; other queues and devices go on.
//!
//! Lock order, outermost first: the function (held by [`PciRoot`]), the backend (device and live
//! queues), then, as leaves that are never held together, MSI-X state and console buffers. A vCPU
//! thread takes the backend's lock for a change of status and for the device's own configuration, and
//! waits at most for one batch (one queue's size of requests) that the I/O thread is working on; a
//! reset also waits for requests that the kernel has in hand (`blk/ring.rs`). The I/O thread never
//! takes a function's lock, and the polling thread and vCPUs that notify only try the backend's. Where
//! notify addresses are bound (`bindings.rs`) comes behind the function, and no backend with it.
//!
//! # Wiring
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use coopvirt::irq::MsiRouter;
//! use coopvirt::notifies::Notifies;
//! use coopvirt::pci::{PciLayout, PciRoot};
//! use coopvirt::virtio::{attach, Blk, BlkAccess, Console, GuestRam, Host, KvmDoorbells, Rng};
//! use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
//! use kvm_ioctls::VmFd;
//!
//! fn devices(vm: Arc<VmFd>, ram: GuestRam) -> anyhow::Result<()> {
//!     let root = Arc::new(PciRoot::new(PciLayout {
//!         ecam_base: 0xe000_0000,
//!         ecam_len_bytes: 256 << 20,
//!         mmio_base: 0xc000_0000,
//!         mmio_len_bytes: 0x2000_0000,
//!     })?);
//!     let host = Host {
//!         ram,
//!         interrupts: Arc::new(MsiRouter::new(vm.clone())),
//!         doorbells: Arc::new(KvmDoorbells::new(vm)),
//!         notifies: Arc::new(Notifies::new()),
//!     };
//!
//!     let blk = Blk::open("disk.img".as_ref(), BlkAccess::ReadWrite, 2)?;
//!     let (console, input, output) = Console::new(Box::new(std::io::stdout()))?;
//!     let mut events = EventManager::<Box<dyn MutEventSubscriber + Send>>::new()?;
//!     for device in [Box::new(blk) as _, Box::new(console) as _, Box::new(Rng::new()) as _] {
//!         events.add_subscriber(Box::new(attach(&root, device, &host)?));
//!     }
//!     input.push(b"typed\n");
//!
//!     // On a bus: EcamWindow::new(root.clone()) and ConfigPorts::new(root.clone()). A vCPU thread
//!     // calls root.mmio_read and root.mmio_write for what no other device claims. The I/O thread
//!     // runs the event manager until the VM stops; then what the guest wrote last goes out.
//!     while events.run()? > 0 {}
//!     output.finish(std::time::Duration::from_secs(1));
//!     Ok(())
//! }
//! ```
//!
//! [`PciRoot`]: crate::pci::PciRoot

mod backend;
mod balloon;
mod bindings;
mod blk;
mod chain;
mod console;
mod counters;
mod device;
mod doorbell;
mod interrupt;
mod latency;
mod linger;
mod net;
mod ownership;
mod pci_function;
mod pci_layout;
mod poll;
mod queue;
mod receiver;
mod refusal;
mod rng;
mod sys;
mod transport;
mod vcpu_notify;
mod vhost_kernel;
mod vhost_user;
mod vsock;
mod worker;

use std::sync::Arc;

pub use balloon::{Balloon, BalloonControl, BalloonError, BalloonState, BalloonStatistics};
pub use blk::{Blk, BlkAccess, BlkError, InFlight};
pub use chain::{Chain, Segments};
pub use console::{Console, ConsoleInput};
pub use counters::{DeviceCounters, DeviceCounts};
pub use device::{
    HandedQueue, Polled, Progress, QueueError, VirtioDevice, Watched, QUEUE_SIZE_MAX,
};
pub use doorbell::{DoorbellSink, KvmDoorbells};
pub use latency::Latency;
pub(crate) use latency::{bound_us, NR_BOUNDS};
pub use linger::Lingerer;
pub use net::{Net, NetError};
pub use pci_function::{attach, AttachError, Host};
pub use poll::{Kicked, PolledDevice, Wanted};
pub use queue::DeviceQueue;
pub use receiver::NotifyPolicy;
pub use rng::Rng;
pub use vhost_user::{ConnectionError, RingError, VhostUserBlk, VhostUserError, VhostUserFs};
pub use vsock::{UnixVsock, UnixVsockError, Vsock, VsockCounts, VsockError, VsockGauges};
pub use worker::QueueWorker;

/// The guest's memory, as all devices share it.
pub type GuestRam = Arc<vm_memory::GuestMemoryMmap<()>>;

#[cfg(test)]
mod tests;
