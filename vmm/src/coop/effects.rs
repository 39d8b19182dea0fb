//! What services do to the machine outside guest memory: interrupts, marks, log lines.

use std::sync::Arc;

use coopvirt_spec::mark::Mark;
use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;

use crate::mem::layout::LOCAL_APIC;
use crate::vcpu::VcpuEvent;

/// The ways out of a service. Tests record instead.
pub trait Effects: Send + Sync {
    /// Raises a fixed, edge-triggered interrupt at a vCPU that exists; false if KVM refuses.
    fn raise(&self, apic_id: u32, vector: u8) -> bool;
    /// A vCPU made a mark.
    fn mark(&self, vcpu: u8, mark: Mark);
    /// Puts a line into the host's log.
    fn log(&self, line: &str);
}

/// Effects on a KVM machine.
pub struct KvmEffects {
    /// The machine's VM.
    pub vm: Arc<VmFd>,
    /// Told of marks.
    pub observer: Arc<dyn VcpuEvent>,
}

impl Effects for KvmEffects {
    fn raise(&self, apic_id: u32, vector: u8) -> bool {
        // An MSI as the PC architecture writes it: physical destination, fixed, edge (AMD APM
        // volume 2, 16.5). Eight bits of destination, 0xff being all: `MAX_VCPUS` is far below.
        let Some(destination) = u8::try_from(apic_id).ok().filter(|id| *id != 0xff) else {
            return false;
        };
        let msi = kvm_msi {
            address_lo: LOCAL_APIC | u32::from(destination) << 12,
            data: vector.into(),
            ..Default::default()
        };
        // Zero: the guest has switched that APIC off, which is its own affair.
        self.vm.signal_msi(msi).is_ok()
    }

    fn mark(&self, vcpu: u8, mark: Mark) {
        self.observer.mark(vcpu, mark);
    }

    fn log(&self, line: &str) {
        complain!("coopvirt: {line}");
    }
}
