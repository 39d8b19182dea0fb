//! What CPUID says, in each mode and on each CPU.

use crate::cpus;
use crate::report::value;
use crate::test::{guest_test, Ran};
use crate::x86::cpuid::{self, HYPERVISOR_LEAF, KVM_SIGNATURE};

guest_test!("machine_cpuid_vendor", "", vendor);
fn vendor() -> Ran {
    let vendor = cpuid::vendor();
    assert!(
        vendor == *b"AuthenticAMD" || vendor == *b"GenuineIntel",
        "{vendor:x?}"
    );
    assert!(
        cpuid::leaf(0, 0).eax >= 0x15,
        "leaf 0x15 has the TSC's frequency"
    );
    assert!(cpuid::has_hypervisor());
    Ok(())
}

guest_test!("machine_cpuid_numbers_cpus", "", numbers_cpus);
fn numbers_cpus() -> Ran {
    let count = cpus::count();
    cpus::on_each(&|cpu| {
        let id = cpus::apic_id(cpu);
        assert_eq!(cpuid::leaf(1, 0).ebx >> 24, id, "leaf 1 on CPU {cpu}");
        assert_eq!(cpuid::leaf(0xb, 0).edx, id, "leaf 0xb on CPU {cpu}");
        assert_eq!(
            cpuid::leaf(0xb, 1).ebx as usize,
            count,
            "leaf 0xb on CPU {cpu}"
        );
        for other in (0..count).filter(|&other| other != cpu) {
            assert_ne!(cpus::apic_id(other), id, "CPUs {cpu} and {other}");
        }
    });
    Ok(())
}

guest_test!("kvm_cpuid_shows_kvm", "", shows_kvm);
fn shows_kvm() -> Ran {
    assert_eq!(cpuid::signature(HYPERVISOR_LEAF), KVM_SIGNATURE);
    assert!(cpuid::leaf(HYPERVISOR_LEAF, 0).eax > HYPERVISOR_LEAF);
    let features = cpuid::leaf(HYPERVISOR_LEAF + 1, 0).eax;
    assert_ne!(features, 0);
    assert!(cpuid::has_x2apic() && cpuid::has_tsc_deadline());
    value("kvm_features", features.into());
    Ok(())
}

guest_test!("hvm_cpuid_hides_the_hypervisor", "", hides_the_hypervisor);
fn hides_the_hypervisor() -> Ran {
    // The steps in which guests look for hypervisors.
    for leaf in (HYPERVISOR_LEAF..HYPERVISOR_LEAF + 0x1_0000).step_by(0x100) {
        let found = cpuid::signature(leaf);
        assert_ne!(found, KVM_SIGNATURE, "leaf {leaf:#x}");
    }
    assert!(!cpuid::has_x2apic());
    Ok(())
}
