//! Machine-check banks: how many a vCPU shows its guest.
#![expect(unsafe_code)]
// UNSAFETY: kvm-ioctls has no call for this ioctl.

use std::io;
use std::os::fd::AsRawFd;

use kvm_ioctls::VcpuFd;

/// `_IOW(KVMIO, 0x9c, __u64)`, Documentation/virt/kvm/api.rst 4.105.
const KVM_X86_SETUP_MCE: libc::c_ulong = 0x4008_ae9c;
/// KVM's default is 32. A guest reads and writes each bank's registers at boot, about ten exits a
/// bank, and no machine check is ever injected here: one is the least that KVM accepts.
const BANKS: u64 = 1;

/// Shows the guest as few banks as possible.
pub fn set_banks(vcpu: &VcpuFd) -> io::Result<()> {
    let capabilities = BANKS;
    // SAFETY: the ioctl reads one u64 through the pointer, which is valid for the call.
    let result =
        unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_X86_SETUP_MCE, &raw const capabilities) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
