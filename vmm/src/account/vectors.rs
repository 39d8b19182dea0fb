//! Names of x86 interrupt vectors as Linux assigns them.
//!
//! Source: `arch/x86/include/asm/irq_vectors.h`. The upper vectors have kept their meaning for many
//! years; those below are given to devices one by one, differently in each boot, so that their
//! number would say less than the word. Both sides use this: for a guest that is no Linux, the
//! names are wrong, and the upper vectors' numbers are always printed with them.

/// The lowest vector that Linux keeps for itself (`FIRST_SYSTEM_VECTOR`).
const FIRST_SYSTEM_VECTOR: u8 = 0xec;

/// A vector as text: "0xec local timer", "of a device".
pub fn label(vector: u8) -> String {
    match name(vector) {
        Some(name) => format!("{vector:#x} {name}"),
        None if (0x20..FIRST_SYSTEM_VECTOR).contains(&vector) => "of a device".into(),
        None => format!("{vector:#x}"),
    }
}

const fn name(vector: u8) -> Option<&'static str> {
    Some(match vector {
        0xff => "spurious",
        0xfe => "apic error",
        0xfd => "reschedule",
        0xfc => "call function",
        0xfb => "call function single",
        0xfa => "thermal",
        0xf9 => "threshold",
        0xf8 => "reboot",
        0xf7 => "platform ipi",
        0xf6 => "irq work",
        0xf4 => "deferred error",
        0xf3 => "hypervisor callback",
        0xf2 => "posted interrupt",
        0xec => "local timer",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_vectors_have_names_and_devices_have_none() {
        assert_eq!(label(0xec), "0xec local timer");
        assert_eq!(label(0xfd), "0xfd reschedule");
        assert_eq!(label(0x24), "of a device");
        assert_eq!(label(0xed), "0xed");
        assert_eq!(label(0x0d), "0xd");
    }
}
