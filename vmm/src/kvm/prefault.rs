//! Second-stage mappings made ahead of the guest's first touch (`KVM_PRE_FAULT_MEMORY`).
#![expect(unsafe_code)]
// UNSAFETY: kvm-ioctls has no call for this ioctl.

use std::os::fd::AsRawFd;

use kvm_bindings::kvm_pre_fault_memory;
use kvm_ioctls::VcpuFd;

/// `_IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)`, Documentation/virt/kvm/api.rst 4.143; Linux 6.11.
const KVM_PRE_FAULT_MEMORY: libc::c_ulong = 0xc040_aed5;
/// Calls that may end early (a signal, a race with another fault) before this gives up.
const MAX_CALLS: u32 = 16;

/// Maps what it can of this memory and says how many bytes from its start: zero where KVM cannot.
///
/// On the vCPU's own thread, outside `KVM_RUN`.
pub fn prefault(vcpu: &VcpuFd, gpa: u64, len_bytes: u64) -> u64 {
    let mut range = kvm_pre_fault_memory {
        gpa,
        size: len_bytes,
        ..Default::default()
    };
    for _ in 0..MAX_CALLS {
        let before = range.size;
        // SAFETY: the ioctl reads and writes one kvm_pre_fault_memory, which lives until it returns.
        let result = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_PRE_FAULT_MEMORY, &raw mut range) };
        // KVM moves the start and shrinks the size by what it has done, also when it ends early.
        if range.size == 0 || (result != 0 && range.size == before) {
            break;
        }
    }
    len_bytes.saturating_sub(range.size)
}
