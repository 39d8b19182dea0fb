//! What the state of KVM's interrupt chips says about the guest.
#![expect(unsafe_code)]
// UNSAFETY: a chip's state is a union.

use kvm_bindings::{
    kvm_irqchip, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
};
use kvm_ioctls::{Error, VmFd};

/// Whether no line of the I/O APIC or of a PIC can interrupt.
pub fn are_masked(vm: &VmFd) -> Result<bool, Error> {
    for chip_id in [
        KVM_IRQCHIP_IOAPIC,
        KVM_IRQCHIP_PIC_MASTER,
        KVM_IRQCHIP_PIC_SLAVE,
    ] {
        let mut chip = kvm_irqchip {
            chip_id,
            ..Default::default()
        };
        vm.get_irqchip(&mut chip)?;
        if !is_masked(&chip) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_masked(chip: &kvm_irqchip) -> bool {
    const MASKED: u64 = 1 << 16;
    // SAFETY: `chip_id` says which member is the live one; every bit pattern is a valid value of each.
    unsafe {
        match chip.chip_id {
            KVM_IRQCHIP_IOAPIC => {
                let entries = chip.chip.ioapic.redirtbl;
                entries.iter().all(|entry| entry.bits & MASKED != 0)
            }
            // After a reset a PIC masks nothing, and cannot interrupt before it is given its vectors.
            _ => chip.chip.pic.imr == 0xff || chip.chip.pic.irq_base == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pic(imr: u8, irq_base: u8) -> kvm_irqchip {
        let mut chip = kvm_irqchip {
            chip_id: KVM_IRQCHIP_PIC_MASTER,
            ..Default::default()
        };
        chip.chip.pic.imr = imr;
        chip.chip.pic.irq_base = irq_base;
        chip
    }

    #[test]
    fn one_open_line_is_enough() {
        assert!(is_masked(&pic(0xff, 0x30)));
        assert!(!is_masked(&pic(0xfb, 0x30)));
        let mut chip = kvm_irqchip {
            chip_id: KVM_IRQCHIP_IOAPIC,
            ..Default::default()
        };
        let masked = kvm_bindings::kvm_ioapic_state__bindgen_ty_1 { bits: 1 << 16 };
        let mut lines = [masked; 24];
        chip.chip.ioapic.redirtbl = lines;
        assert!(is_masked(&chip));
        lines[9].bits = 0x39;
        chip.chip.ioapic.redirtbl = lines;
        assert!(!is_masked(&chip));
    }

    #[test]
    fn a_pic_that_nobody_has_set_up_says_nothing() {
        assert!(is_masked(&pic(0, 0)));
    }
}
