//! A host without KVM: interrupt lines and doorbells that tests look at.
//!
//! Both insist on being used properly: nothing is bound twice, and only what is bound is unbound.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

use vmm_sys_util::eventfd::EventFd;

use crate::irq::{InterruptSink, IrqError, MsiMessage};
use crate::virtio::DoorbellSink;

/// Lines that can be looked at, and that refuse what KVM refuses.
#[derive(Default)]
pub(super) struct FakeInterrupts {
    state: Mutex<FakeLines>,
}

#[derive(Default)]
struct FakeLines {
    nr: u32,
    messages: BTreeMap<u32, MsiMessage>,
    irqfds: BTreeMap<u32, EventFd>,
    nr_updates: u32,
}

impl FakeInterrupts {
    /// How often the line was raised since the last look.
    pub(super) fn take(&self, gsi: u32) -> u64 {
        let state = self.state.lock().unwrap();
        state
            .irqfds
            .get(&gsi)
            .and_then(|fd| fd.read().ok())
            .unwrap_or(0)
    }
    pub(super) fn message(&self, gsi: u32) -> Option<MsiMessage> {
        self.state.lock().unwrap().messages.get(&gsi).copied()
    }
    pub(super) fn nr_updates(&self) -> u32 {
        self.state.lock().unwrap().nr_updates
    }
    pub(super) fn nr_bound(&self) -> usize {
        self.state.lock().unwrap().irqfds.len()
    }
}

impl InterruptSink for FakeInterrupts {
    fn allocate(&self) -> Result<u32, IrqError> {
        let mut state = self.state.lock().unwrap();
        state.nr += 1;
        Ok(state.nr - 1)
    }
    fn set(&self, gsi: u32, message: MsiMessage) -> Result<(), IrqError> {
        let mut state = self.state.lock().unwrap();
        state.nr_updates += 1;
        // As KVM with 32-bit APIC IDs on.
        if message.address >> 32 & 0xff != 0 {
            let MsiMessage { address, data } = message;
            let source = io::Error::from_raw_os_error(libc::EINVAL);
            return Err(IrqError::Route {
                gsi,
                address,
                data,
                source,
            });
        }
        state.messages.insert(gsi, message);
        Ok(())
    }
    fn register_irqfd(&self, fd: &EventFd, gsi: u32) -> Result<(), IrqError> {
        let former = self
            .state
            .lock()
            .unwrap()
            .irqfds
            .insert(gsi, fd.try_clone().expect("dup works"));
        assert!(former.is_none(), "gsi {gsi} bound twice");
        Ok(())
    }
    fn unregister_irqfd(&self, _fd: &EventFd, gsi: u32) -> Result<(), IrqError> {
        assert!(self.state.lock().unwrap().irqfds.remove(&gsi).is_some());
        Ok(())
    }
}

/// Doorbells that a test rings.
#[derive(Default)]
pub(super) struct FakeDoorbells {
    bound: Mutex<BTreeMap<u64, EventFd>>,
    /// Plays a host that has no doorbell left.
    pub(super) refuse: AtomicBool,
}

impl FakeDoorbells {
    /// Plays KVM: returns whether a doorbell took the write.
    pub(super) fn ring(&self, gpa: u64) -> bool {
        let bound = self.bound.lock().unwrap();
        bound.get(&gpa).map(|fd| fd.write(1).unwrap()).is_some()
    }
    pub(super) fn addresses(&self) -> Vec<u64> {
        self.bound.lock().unwrap().keys().copied().collect()
    }
}

impl DoorbellSink for FakeDoorbells {
    fn register(&self, fd: &EventFd, gpa: u64) -> io::Result<()> {
        if self.refuse.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let former = self.bound.lock().unwrap().insert(gpa, fd.try_clone()?);
        assert!(former.is_none(), "{gpa:#x} bound twice");
        Ok(())
    }
    fn unregister(&self, _fd: &EventFd, gpa: u64) -> io::Result<()> {
        assert!(
            self.bound.lock().unwrap().remove(&gpa).is_some(),
            "{gpa:#x} was not bound"
        );
        Ok(())
    }
}
