//! KVM's own hypercalls: the stock path of an interrupt for many, as Linux takes it.
#![expect(unsafe_code)]
// UNSAFETY: VMMCALL and VMCALL are instructions; what they do is the hypervisor's.

use core::arch::asm;

use super::cpuid;

/// KVM's block of leaves stays at the beginning of the range.
const LEAF_SIGNATURE: u32 = 0x4000_0000;
const LEAF_FEATURES: u32 = 0x4000_0001;
const FEATURE_SEND_IPI: u32 = 1 << 11;
/// Linux, Documentation/virt/kvm/x86/hypercalls.rst.
const SEND_IPI: u64 = 10;

/// KVM's way to send one interrupt to many CPUs.
#[derive(Clone, Copy, Debug)]
pub struct SendIpi {
    is_amd: bool,
}

impl SendIpi {
    /// If KVM offers it. Asking costs exits, sending asks no more.
    pub fn find() -> Option<Self> {
        let is_there = cpuid::has_hypervisor()
            && cpuid::signature(LEAF_SIGNATURE) == *b"KVMKVMKVM\0\0\0"
            && cpuid::leaf(LEAF_FEATURES, 0).eax & FEATURE_SEND_IPI != 0;
        let is_amd = [*b"AuthenticAMD", *b"HygonGenuine"].contains(&cpuid::vendor());
        is_there.then_some(Self { is_amd })
    }

    /// Sends a fixed interrupt to the CPUs of a mask, counted from an APIC ID; how many got it.
    pub fn send(self, mask: [u64; 2], first_apic_id: u32, vector: u8) -> i64 {
        let [low, high] = mask;
        let result: i64;
        macro_rules! call {
            ($instruction:literal) => {
                // SAFETY: KVM changes RAX only. RBX is the compiler's own, so it is exchanged for
                // the argument and back.
                unsafe {
                    asm!("xchg rbx, {low}", $instruction, "xchg rbx, {low}",
                        low = inout(reg) low => _, inout("rax") SEND_IPI => result,
                        in("rcx") high, in("rdx") u64::from(first_apic_id),
                        in("rsi") u64::from(vector), options(nostack));
                }
            };
        }
        if self.is_amd {
            call!("vmmcall");
        } else {
            call!("vmcall");
        }
        result
    }
}
