//! Finds the CPUs: the local APICs in ACPI's MADT.
//!
//! Source: ACPI specification 6.5, chapter 5.2.
#![expect(unsafe_code)]
// UNSAFETY: reads tables at the physical addresses that other tables name.

use crate::boot_info;
use crate::memory::at;

const HEADER_BYTES: usize = 36;
const XSDT_AT: u64 = 24;
const MADT_ENTRIES_AT: usize = 44;
const LOCAL_APIC: u8 = 0;
const ENABLED: u8 = 1;

/// Calls `found` with the APIC ID of each usable CPU, in the table's order.
pub fn each_cpu(mut found: impl FnMut(u32)) {
    // SAFETY: the loader says that the root pointer is there; the field is in its version 2.
    let xsdt = unsafe { at::<u64>(boot_info::rsdp() + XSDT_AT).read_unaligned() };
    for pointer in table(xsdt)[HEADER_BYTES..].chunks_exact(8) {
        let address = u64::from_le_bytes(pointer.try_into().expect("chunks of eight"));
        let table = table(address);
        if table.starts_with(b"APIC") {
            each_local_apic(&table[MADT_ENTRIES_AT..], &mut found);
        }
    }
}

fn each_local_apic(mut entries: &[u8], found: &mut impl FnMut(u32)) {
    while let [kind, len, ..] = *entries {
        let (entry, rest) = entries.split_at(usize::from(len).clamp(2, entries.len()));
        if let ([_, _, _, id, flags, ..], LOCAL_APIC) = (entry, kind) {
            if flags & ENABLED != 0 {
                found(u32::from(*id));
            }
        }
        entries = rest;
    }
}

/// A table with its header, whose sum must be zero.
fn table(address: u64) -> &'static [u8] {
    // SAFETY: another table says that there is one; its length is in its header.
    let len = unsafe { at::<u32>(address + 4).read_unaligned() } as usize;
    assert!(
        (HEADER_BYTES..1 << 20).contains(&len),
        "a table of {len} bytes"
    );
    // SAFETY: the table says so itself; nobody writes there.
    let table = unsafe { core::slice::from_raw_parts(at::<u8>(address), len) };
    let sum = table.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    assert_eq!(sum, 0, "the sum of the table at {address:#x}");
    table
}
