//! CPUID: what the machine says of itself.

use core::arch::x86_64::{__cpuid_count, CpuidResult};

/// Signature of KVM's leaves.
pub const KVM_SIGNATURE: [u8; 12] = *b"KVMKVMKVM\0\0\0";
/// Where hypervisors have their leaves.
pub const HYPERVISOR_LEAF: u32 = 0x4000_0000;

const LEAF1_ECX_X2APIC: u32 = 1 << 21;
const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;

/// One leaf.
#[allow(unused_unsafe, unsafe_code, reason = "safe since Rust 1.94")]
pub fn leaf(function: u32, index: u32) -> CpuidResult {
    // SAFETY: every CPU with 64-bit mode has CPUID.
    unsafe { __cpuid_count(function, index) }
}

/// Whether the leaf says that there is a hypervisor.
pub fn has_hypervisor() -> bool {
    leaf(1, 0).ecx & LEAF1_ECX_HYPERVISOR != 0
}

/// Whether the local APIC can be used by MSRs.
pub fn has_x2apic() -> bool {
    leaf(1, 0).ecx & LEAF1_ECX_X2APIC != 0
}

/// Whether the local APIC's timer takes a TSC value.
pub fn has_tsc_deadline() -> bool {
    leaf(1, 0).ecx & LEAF1_ECX_TSC_DEADLINE != 0
}

/// The 12 bytes by which a hypervisor's block of leaves is known.
pub fn signature(function: u32) -> [u8; 12] {
    let found = leaf(function, 0);
    text([found.ebx, found.ecx, found.edx])
}

/// The vendor of the CPU.
pub fn vendor() -> [u8; 12] {
    let found = leaf(0, 0);
    text([found.ebx, found.edx, found.ecx])
}

fn text(words: [u32; 3]) -> [u8; 12] {
    let mut text = [0; 12];
    for (bytes, word) in text.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    text
}
