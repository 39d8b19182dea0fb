//! The host's TSC, and a vCPU's offset from it.
#![expect(unsafe_code)]
// UNSAFETY: RDTSC, and vCPU device attributes, for which kvm-ioctls has no call on x86.

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{kvm_device_attr, kvm_msr_entry, Msrs, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET};
use kvm_ioctls::VcpuFd;

/// `IA32_TSC`.
pub const MSR_TSC: u32 = 0x10;
/// `IA32_TSC_DEADLINE`.
const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// `_IOW(KVMIO, 0xe1, struct kvm_device_attr)`, Documentation/virt/kvm/api.rst 4.80.
const KVM_SET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee1;
/// `_IOW(KVMIO, 0xe2, struct kvm_device_attr)`.
const KVM_GET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee2;

/// The host's TSC now.
pub fn read() -> u64 {
    // SAFETY: every x86_64 CPU has RDTSC, and Linux lets user code execute it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// The guest's TSC as KVM reads it.
pub fn read_guest(vcpu: &VcpuFd) -> io::Result<u64> {
    let entry = kvm_msr_entry {
        index: MSR_TSC,
        ..Default::default()
    };
    let mut msrs =
        Msrs::from_entries(&[entry]).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let got = vcpu
        .get_msrs(&mut msrs)
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
    match msrs.as_slice().first() {
        Some(entry) if got == 1 => Ok(entry.data),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// Writes the vCPU's TSC-deadline MSR; KVM ignores that where its local APIC's timer is in another mode.
pub fn set_deadline(vcpu: &VcpuFd, deadline_tsc: u64) -> io::Result<()> {
    let entry = kvm_msr_entry {
        index: MSR_TSC_DEADLINE,
        data: deadline_tsc,
        ..Default::default()
    };
    let msrs =
        Msrs::from_entries(&[entry]).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    match vcpu.set_msrs(&msrs) {
        Ok(1) => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        Err(error) => Err(io::Error::from_raw_os_error(error.errno())),
    }
}

/// What is added to the host's TSC to give the guest's.
pub fn offset(vcpu: &VcpuFd) -> io::Result<u64> {
    let mut offset = 0_u64;
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: (&raw mut offset) as u64,
        flags: 0,
    };
    // SAFETY: the ioctl reads one kvm_device_attr and writes one u64 at its address; both live
    // until it returns.
    let result =
        unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_DEVICE_ATTR, &raw const attribute) };
    if result == 0 {
        Ok(offset)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets what is added to the host's TSC to give the guest's.
pub fn set_offset(vcpu: &VcpuFd, offset: u64) -> io::Result<()> {
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: (&raw const offset) as u64,
        flags: 0,
    };
    // SAFETY: the ioctl reads one kvm_device_attr and one u64 at its address; both live until it
    // returns.
    let result =
        unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_DEVICE_ATTR, &raw const attribute) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
