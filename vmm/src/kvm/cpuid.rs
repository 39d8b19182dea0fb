//! The CPUID that each vCPU sees: KVM's supported set, edited for mode and topology.
//!
//! Sources: AMD APM volume 3 appendix E, Intel SDM volume 2 (CPUID), Linux
//! `Documentation/virt/kvm/x86/cpuid.rst`. The functions are pure: tests run without KVM.

use kvm_bindings::{kvm_cpuid_entry2, CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX};

use coopvirt_spec::discover::Offer;

use crate::config::Mode;

/// KVM's signature and feature leaves.
const KVM_LEAF: u32 = 0x4000_0000;
const KVM_FEATURES: u32 = 0x4000_0001;
/// Hypervisor leaves end here.
const HYPERVISOR_END: u32 = 0x4fff_ffff;

const LEAF1_ECX_X2APIC: u32 = 1 << 21;
const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
const LEAF1_EDX_HTT: u32 = 1 << 28;
const LEAF7_EBX_TSC_ADJUST: u32 = 1 << 1;

/// What decides a machine's CPUID.
#[derive(Clone, Copy, Debug)]
pub struct CpuidConfig {
    /// What the guest may know of the hypervisor.
    pub mode: Mode,
    /// Whether x2APIC is shown.
    pub x2apic: bool,
    /// Paravirtual features to show, before KVM's own limits.
    pub kvm_features: u32,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// TSC frequency for leaf 0x15, kHz.
    pub tsc_khz: u32,
    /// What of the cooperative interface is announced, if any.
    pub offer: Option<Offer>,
}

impl CpuidConfig {
    /// Whether the guest sees KVM's leaves. A guest Linux accepts x2APIC without interrupt
    /// remapping only from a hypervisor that it knows, so `hvm` with x2APIC shows KVM's signature
    /// with no feature bit at all.
    fn shows_kvm(&self) -> bool {
        self.mode != Mode::Hvm || self.x2apic
    }
}

/// Bits of a guest's physical addresses: what its CPUID says, and no more than KVM can map where it says
/// that too (`GuestPhysAddrSize`, AMD APM volume 3, E.4.7).
pub fn address_bits(supported: &CpuId) -> u32 {
    let mut entries = supported.as_slice().iter();
    let sizes = entries.find(|entry| entry.function == 0x8000_0008);
    let Some(eax) = sizes.map(|entry| entry.eax) else {
        return 36;
    };
    match (eax & 0xff, eax >> 16 & 0xff) {
        (bits, 0) => bits,
        (bits, mapped) => bits.min(mapped),
    }
}

/// The CPUID entries for the vCPU with APIC ID `apic_id`.
pub fn for_vcpu(supported: &CpuId, config: &CpuidConfig, apic_id: u8) -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<_> = supported
        .as_slice()
        .iter()
        .filter(|entry| {
            config.shows_kvm() || !(KVM_LEAF..=HYPERVISOR_END).contains(&entry.function)
        })
        // These describe the host's topology; they are made anew below or left out.
        .filter(|entry| !matches!(entry.function, 0xb | 0x1f | 0x15 | 0x8000_0026))
        .copied()
        .collect();
    for entry in &mut entries {
        edit(entry, config, apic_id);
    }
    entries.extend(extended_topology(config.vcpus, apic_id));
    if config.tsc_khz != 0 {
        // Crystal clock of 1 MHz: Linux multiplies it by EBX / EAX.
        entries.push(kvm_cpuid_entry2 {
            function: 0x15,
            eax: 1000,
            ebx: config.tsc_khz,
            ecx: 1_000_000,
            ..Default::default()
        });
    }
    if let Some(offer) = config.offer {
        entries.retain(|entry| entry.function & !0xff != offer.base);
        let leaves = offer
            .leaves()
            .map(|(function, registers)| kvm_cpuid_entry2 {
                function,
                eax: registers.eax,
                ebx: registers.ebx,
                ecx: registers.ecx,
                edx: registers.edx,
                ..Default::default()
            });
        entries.extend(leaves);
    }
    entries
}

fn edit(entry: &mut kvm_cpuid_entry2, config: &CpuidConfig, apic_id: u8) {
    match entry.function {
        0x0 => entry.eax = entry.eax.max(0x15),
        0x1 => {
            entry.ebx = (entry.ebx & 0xffff)
                | u32::from(config.vcpus.next_power_of_two()) << 16
                | u32::from(apic_id) << 24;
            entry.ecx |= LEAF1_ECX_TSC_DEADLINE | LEAF1_ECX_HYPERVISOR | LEAF1_ECX_X2APIC;
            if !config.x2apic {
                entry.ecx &= !LEAF1_ECX_X2APIC;
            }
            entry.edx &= !LEAF1_EDX_HTT;
            if config.vcpus > 1 {
                entry.edx |= LEAF1_EDX_HTT;
            }
        }
        // Cache topology: every cache belongs to one core, one package has all cores.
        0x4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
            let cores = u32::from(config.vcpus) - 1;
            entry.eax &= 0x3fff;
            if entry.function == 0x4 {
                entry.eax |= cores.min(63) << 26;
            }
            if entry.eax >> 5 & 7 == 3 {
                entry.eax |= cores << 14;
            }
        }
        // A guest that sees TSC_ADJUST reads it at each idle entry: an exit that tells it nothing.
        0x7 if entry.index == 0 => entry.ebx &= !LEAF7_EBX_TSC_ADJUST,
        KVM_LEAF => entry.eax = KVM_FEATURES,
        KVM_FEATURES => {
            entry.eax &= if config.mode != Mode::Hvm {
                config.kvm_features
            } else {
                0
            };
            entry.edx = 0;
        }
        0x8000_0008 => {
            let bits = apic_id_bits(config.vcpus);
            entry.ecx = (entry.ecx & !0xf0ff) | bits << 12 | (u32::from(config.vcpus) - 1);
        }
        0x8000_001e => {
            entry.eax = u32::from(apic_id);
            entry.ebx = u32::from(apic_id);
            entry.ecx = 0;
        }
        _ => {}
    }
}

/// Bits that hold an APIC ID within the package.
fn apic_id_bits(vcpus: u8) -> u32 {
    u32::from(vcpus).next_power_of_two().trailing_zeros()
}

/// Leaf 0xb: one thread per core, all cores in one package.
fn extended_topology(vcpus: u8, apic_id: u8) -> [kvm_cpuid_entry2; 2] {
    const LEVEL_THREAD: u32 = 1;
    const LEVEL_CORE: u32 = 2;
    let level = |index: u32, kind: u32, shift: u32, count: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: kind << 8 | index,
        edx: u32::from(apic_id),
        ..Default::default()
    };
    [
        level(0, LEVEL_THREAD, 0, 1),
        level(1, LEVEL_CORE, apic_id_bits(vcpus), u32::from(vcpus)),
    ]
}

#[cfg(test)]
mod tests {
    use coopvirt_spec::discover::Registers;
    use coopvirt_spec::version::Features;

    use super::*;

    fn entry(function: u32) -> kvm_cpuid_entry2 {
        let ones = u32::MAX;
        kvm_cpuid_entry2 {
            function,
            eax: ones,
            ebx: ones,
            ecx: ones,
            edx: ones,
            ..Default::default()
        }
    }

    fn made(mode: Mode, x2apic: bool, kvm_features: u32) -> Vec<kvm_cpuid_entry2> {
        let supported =
            CpuId::from_entries(&[0, 1, 7, KVM_LEAF, KVM_FEATURES, 0x8000_0008].map(entry))
                .expect("six entries fit");
        let config = CpuidConfig {
            mode,
            x2apic,
            kvm_features,
            vcpus: 4,
            tsc_khz: 2_000_000,
            offer: (mode == Mode::Coop).then(|| Offer::new(Features::RING | Features::IPI)),
        };
        for_vcpu(&supported, &config, 3)
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32) -> Option<kvm_cpuid_entry2> {
        entries
            .iter()
            .find(|entry| entry.function == function)
            .copied()
    }

    #[test]
    fn a_guest_has_no_more_addresses_than_kvm_can_map() {
        let bits = |eax| {
            let sizes = kvm_cpuid_entry2 {
                function: 0x8000_0008,
                eax,
                ..Default::default()
            };
            address_bits(&CpuId::from_entries(&[sizes]).expect("one entry fits"))
        };
        assert_eq!((bits(0x3034), bits(0x30_3034)), (52, 48));
        assert_eq!(address_bits(&CpuId::from_entries(&[]).unwrap()), 36);
    }

    #[test]
    fn plain_hvm_shows_no_hypervisor_leaf_and_no_x2apic() {
        let entries = made(Mode::Hvm, false, u32::MAX);
        assert!(find(&entries, KVM_LEAF).is_none() && find(&entries, KVM_FEATURES).is_none());
        assert_eq!(find(&entries, 1).unwrap().ecx & LEAF1_ECX_X2APIC, 0);
    }

    #[test]
    fn hvm_with_x2apic_shows_the_signature_but_no_feature() {
        let entries = made(Mode::Hvm, true, u32::MAX);
        assert!(find(&entries, KVM_LEAF).is_some());
        assert_eq!(find(&entries, KVM_FEATURES).unwrap().eax, 0);
    }

    #[test]
    fn a_hidden_feature_is_hidden() {
        let entries = made(Mode::Kvm, true, !(1 << 6));
        assert_eq!(find(&entries, KVM_FEATURES).unwrap().eax, !(1 << 6));
    }

    #[test]
    fn disc_3_coop_mode_announces_the_interface_beside_kvm() {
        let found = |mode| {
            let entries = made(mode, true, u32::MAX);
            assert_eq!(find(&entries, KVM_FEATURES).map(|e| e.eax != 0), Some(true));
            Offer::find(|leaf| {
                find(&entries, leaf).map_or(Registers::default(), |e| Registers {
                    eax: e.eax,
                    ebx: e.ebx,
                    ecx: e.ecx,
                    edx: e.edx,
                })
            })
        };
        let offer = found(Mode::Coop).expect("it is announced");
        assert_eq!(offer.features, Features::RING | Features::IPI);
        assert_eq!(found(Mode::Kvm), None);
    }

    #[test]
    fn each_vcpu_has_its_own_apic_id_in_every_leaf() {
        let entries = made(Mode::Kvm, true, 0);
        assert_eq!(find(&entries, 1).unwrap().ebx >> 24, 3);
        assert_eq!(find(&entries, 0xb).unwrap().edx, 3);
        assert_eq!(find(&entries, 0x8000_0008).unwrap().ecx & 0xff, 3);
    }
}
