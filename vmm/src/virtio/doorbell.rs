//! Doorbells: a guest's write to a notify address, turned into an eventfd without leaving the kernel.

use std::io;
use std::sync::Arc;

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

/// Binds eventfds to guest-physical addresses (ioeventfd).
///
/// Where a binding fails, the guest's write exits to the VMM instead and has the same effect.
pub trait DoorbellSink: Send + Sync {
    /// Signals `fd` at each write to `gpa`, whatever its width and value.
    fn register(&self, fd: &EventFd, gpa: u64) -> io::Result<()>;
    /// Undoes [`DoorbellSink::register`].
    fn unregister(&self, fd: &EventFd, gpa: u64) -> io::Result<()>;
}

/// The doorbells of a KVM VM.
pub struct KvmDoorbells {
    vm: Arc<VmFd>,
}

impl KvmDoorbells {
    /// Creates the doorbells of a VM.
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self { vm }
    }
}

impl DoorbellSink for KvmDoorbells {
    fn register(&self, fd: &EventFd, gpa: u64) -> io::Result<()> {
        self.vm
            .register_ioevent(fd, &IoEventAddress::Mmio(gpa), NoDatamatch)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }

    fn unregister(&self, fd: &EventFd, gpa: u64) -> io::Result<()> {
        self.vm
            .unregister_ioevent(fd, &IoEventAddress::Mmio(gpa), NoDatamatch)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }
}
