//! Creates a VM with what every machine here needs: interrupt chips, capabilities, MSR filter.

use std::sync::Arc;

use coopvirt_spec::mark::MARK_MSR;
use kvm_bindings::{
    kvm_enable_cap, kvm_pit_config, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_HALT_POLL,
    KVM_CAP_X86_DISABLE_EXITS, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER,
    KVM_PIT_SPEAKER_DUMMY, KVM_X86_DISABLE_EXITS_HLT,
};
use kvm_ioctls::{Cap, Kvm, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};

use super::tsc::MSR_TSC;
use crate::config::{MachineConfig, Mode};
use crate::mem::layout;

/// Why a VM could not be set up.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SetupError {
    #[error("KVM here lacks {0}, which every machine needs; a newer kernel has it")]
    Missing(&'static str),
    #[error("KVM here lacks {feature}, which {option} asks for; leave that option out")]
    Option {
        feature: &'static str,
        option: &'static str,
    },
    #[error("could not {what}")]
    Ioctl {
        what: &'static str,
        source: kvm_ioctls::Error,
    },
}

fn ioctl(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> SetupError {
    move |source| SetupError::Ioctl { what, source }
}

/// What the guest's time and marks depend on, found out while setting up.
#[derive(Clone, Copy, Debug)]
pub struct SetupFacts {
    /// Whether writes of the mark MSR reach userspace (`[MARK-2]`).
    pub mark_msr: bool,
}

/// Creates the VM.
pub fn create(kvm: &Kvm, config: &MachineConfig) -> Result<(Arc<VmFd>, SetupFacts), SetupError> {
    let needed = [
        (Cap::Irqchip, "the in-kernel interrupt chips"),
        (Cap::Pit2, "the in-kernel PIT"),
        (Cap::Irqfd, "irqfd"),
        (Cap::Ioeventfd, "ioeventfd"),
        (Cap::IrqRouting, "interrupt routing"),
        (Cap::UserMemory, "user memory"),
        (Cap::ImmediateExit, "immediate exit"),
    ];
    if let Some((_, name)) = needed.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        return Err(SetupError::Missing(name));
    }
    let vm = kvm.create_vm().map_err(ioctl("create a VM"))?;
    vm.set_identity_map_address(layout::IDENTITY_MAP)
        .map_err(ioctl("place the identity map"))?;
    vm.set_tss_address(layout::TSS)
        .map_err(ioctl("place the TSS"))?;
    vm.create_irq_chip()
        .map_err(ioctl("create the interrupt chips"))?;
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(pit).map_err(ioctl("create the PIT"))?;
    if config.disable_hlt_exits {
        disable_hlt_exits(&vm)?;
    }
    if let Some(ns) = config.halt_poll_ns {
        set_halt_poll(&vm, ns)?;
    }
    let is_coop = config.mode == Mode::Coop;
    let mark_msr = route_msrs(&vm, is_coop)?;
    if is_coop && !mark_msr {
        return Err(SetupError::Missing("MSRs served by userspace"));
    }
    Ok((Arc::new(vm), SetupFacts { mark_msr }))
}

/// Makes KVM refuse what CPUID does not show; without it a hidden feature still works and every
/// comparison against a baseline without it is wrong. A vCPU capability.
pub fn enforce_pv_features(vcpu: &kvm_ioctls::VcpuFd) -> Result<(), SetupError> {
    let cap = kvm_enable_cap {
        cap: KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
        args: [1, 0, 0, 0],
        ..Default::default()
    };
    vcpu.enable_cap(&cap)
        .map_err(ioctl("enforce the paravirtual features shown in CPUID"))
}

fn disable_hlt_exits(vm: &VmFd) -> Result<(), SetupError> {
    let can = vm.check_extension_raw(KVM_CAP_X86_DISABLE_EXITS.into());
    if can & i32::try_from(KVM_X86_DISABLE_EXITS_HLT).unwrap_or(0) == 0 {
        let (feature, option) = ("HLT without exit", "--disable-exits hlt");
        return Err(SetupError::Option { feature, option });
    }
    let cap = kvm_enable_cap {
        cap: KVM_CAP_X86_DISABLE_EXITS,
        args: [KVM_X86_DISABLE_EXITS_HLT.into(), 0, 0, 0],
        ..Default::default()
    };
    vm.enable_cap(&cap).map_err(ioctl("disable HLT exits"))
}

fn set_halt_poll(vm: &VmFd, ns: u32) -> Result<(), SetupError> {
    if vm.check_extension_raw(KVM_CAP_HALT_POLL.into()) <= 0 {
        let (feature, option) = ("per-VM halt polling", "--halt-poll");
        return Err(SetupError::Option { feature, option });
    }
    let cap = kvm_enable_cap {
        cap: KVM_CAP_HALT_POLL,
        args: [ns.into(), 0, 0, 0],
        ..Default::default()
    };
    vm.enable_cap(&cap).map_err(ioctl("set halt polling"))
}

/// Routes the mark MSR and those behind it to userspace, and with the cooperative interface also
/// writes of the TSC (`[LEASE-7]`); false where this KVM cannot.
fn route_msrs(vm: &VmFd, with_tsc: bool) -> Result<bool, SetupError> {
    if vm.check_extension_raw(KVM_CAP_X86_USER_SPACE_MSR.into()) <= 0
        || !vm.check_extension(Cap::X86MsrFilter)
    {
        return Ok(false);
    }
    let cap = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        args: [KVM_MSR_EXIT_REASON_FILTER.into(), 0, 0, 0],
        ..Default::default()
    };
    vm.enable_cap(&cap)
        .map_err(ioctl("send filtered MSRs to userspace"))?;
    let marks = MsrFilterRange {
        flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
        base: MARK_MSR,
        msr_count: 8,
        // A zero bit denies, which is what sends the access to userspace.
        bitmap: &[0],
    };
    let tsc_writes = MsrFilterRange {
        flags: MsrFilterRangeFlags::WRITE,
        base: MSR_TSC,
        msr_count: 8,
        // Bit 0, for the TSC itself, denies; the seven that follow are none of ours.
        bitmap: &[0xfe],
    };
    let ranges = [marks, tsc_writes];
    let ranges = if with_tsc { &ranges[..] } else { &ranges[..1] };
    vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, ranges)
        .map_err(ioctl("set the MSR filter"))?;
    Ok(true)
}
