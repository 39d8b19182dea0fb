//! The first vCPU's registers at entry: flat 32-bit mode for PVH, 64-bit mode for bzImage.
//!
//! Sources: PVH specification (start_info.h), Linux `boot.rst` ("64-bit BOOT PROTOCOL"), AMD APM
//! volume 2 chapters 4 and 5.

use kvm_bindings::{kvm_msr_entry, kvm_regs, kvm_segment, Msrs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::Entry;
use crate::mem::layout::{GDT, PAGE_TABLES, PVH_INFO, ZERO_PAGE};
use crate::mem::GuestRam;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const PAGE_PRESENT_WRITABLE: u64 = 3;
const PAGE_LARGE: u64 = 1 << 7;
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;

/// Why the first vCPU could not be set up.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum RegistersError {
    #[error("could not read or set the first vCPU's registers")]
    Kvm(#[from] kvm_ioctls::Error),
    #[error("could not write page tables to guest memory")]
    Memory(#[from] vm_memory::GuestMemoryError),
    #[error("could not make the list of MSRs")]
    Msrs,
}

/// Sets the MSR that firmware sets on every CPU: fast strings.
///
/// The MTRRs stay disabled, as under other VMMs without firmware: KVM does not need them for RAM,
/// and a guest that finds them enabled reads and rewrites all of them on every CPU (some 100 exits).
pub fn set_msrs(vcpu: &VcpuFd) -> Result<(), RegistersError> {
    let fast_strings = kvm_msr_entry {
        index: MSR_MISC_ENABLE,
        data: MISC_ENABLE_FAST_STRING,
        ..Default::default()
    };
    let msrs = Msrs::from_entries(&[fast_strings]).map_err(|_| RegistersError::Msrs)?;
    vcpu.set_msrs(&msrs)?;
    Ok(())
}

/// Sets the first vCPU to start at `entry`.
pub fn set_entry(vcpu: &VcpuFd, ram: &GuestRam, entry: Entry) -> Result<(), RegistersError> {
    let mut sregs = vcpu.get_sregs()?;
    let long = matches!(entry, Entry::Linux64(_));
    // Boot protocols of Linux: code at selector 0x10, data at 0x18.
    let gdt = [
        0,
        0,
        descriptor(0xa09b, long),
        descriptor(0xc093, false),
        descriptor(0x808b, false),
    ];
    for (index, value) in (0u64..).zip(gdt) {
        ram.write_obj(value, GuestAddress(GDT + index * 8))?;
    }
    sregs.gdt.base = GDT;
    sregs.gdt.limit = 5 * 8 - 1;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cs = kvm_segment {
        selector: 0x10,
        type_: 0xb,
        l: long.into(),
        db: (!long).into(),
        ..flat()
    };
    let data = kvm_segment {
        selector: 0x18,
        type_: 0x3,
        db: 1,
        ..flat()
    };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        selector: 0x20,
        type_: 0xb,
        s: 0,
        g: 0,
        limit: 0x67,
        ..flat()
    };
    sregs.cr0 = CR0_PE | CR0_ET;
    let mut regs = kvm_regs {
        rflags: 2,
        ..Default::default()
    };
    match entry {
        Entry::Pvh(address) => {
            regs.rip = address;
            regs.rbx = PVH_INFO;
        }
        Entry::Linux64(address) => {
            write_page_tables(ram)?;
            sregs.cr3 = PAGE_TABLES;
            sregs.cr4 |= CR4_PAE;
            sregs.cr0 |= CR0_PG;
            sregs.efer |= EFER_LME | EFER_LMA;
            regs.rip = address;
            regs.rsi = ZERO_PAGE;
        }
    }
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&regs)?;
    Ok(())
}

/// A flat 4 GiB segment, present, ring 0.
fn flat() -> kvm_segment {
    kvm_segment {
        limit: 0xffff_ffff,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

/// The GDT entry that matches [`flat`] with these attributes (bits 40-55 of a descriptor).
fn descriptor(attributes: u64, long: bool) -> u64 {
    // A 32-bit code segment has D set and L clear, a 64-bit one the reverse.
    let attributes = if attributes == 0xa09b && !long {
        0xc09b
    } else {
        attributes
    };
    0x000f_0000_0000_ffff | attributes << 40
}

/// Maps the first 4 GiB one to one with 2 MiB pages.
fn write_page_tables(ram: &GuestRam) -> Result<(), vm_memory::GuestMemoryError> {
    let pdpt = PAGE_TABLES + 0x1000;
    ram.write_obj(pdpt | PAGE_PRESENT_WRITABLE, GuestAddress(PAGE_TABLES))?;
    for gib in 0..4 {
        let directory = PAGE_TABLES + 0x2000 + gib * 0x1000;
        ram.write_obj(
            directory | PAGE_PRESENT_WRITABLE,
            GuestAddress(pdpt + gib * 8),
        )?;
        for slot in 0..512 {
            let page = (gib << 30 | slot << 21) | PAGE_PRESENT_WRITABLE | PAGE_LARGE;
            ram.write_obj(page, GuestAddress(directory + slot * 8))?;
        }
    }
    Ok(())
}
