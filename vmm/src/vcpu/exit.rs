//! What KVM returned from a run, parsed once into our own enum.
#![expect(unsafe_code)]
// UNSAFETY: `kvm_run` is a union followed by the port data page; kvm-ioctls hides the width of
// string I/O, so the port case is read from the raw structure.

use kvm_bindings::{
    kvm_run, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_IO, KVM_EXIT_IO_IN,
    KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_EXIT_X86_RDMSR,
    KVM_EXIT_X86_WRMSR, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
};

/// One exit to userspace. The guest chose every value in it.
#[derive(Debug)]
pub enum Exit<'a> {
    /// `data` holds one or more (`REP`) items of `width` bytes to write to `port`.
    PortOut {
        /// I/O port.
        port: u16,
        /// Bytes per item: 1, 2 or 4.
        width: usize,
        /// All items.
        data: &'a [u8],
    },
    /// Items of `width` bytes to be read from `port` into `data`.
    PortIn {
        /// I/O port.
        port: u16,
        /// Bytes per item: 1, 2 or 4.
        width: usize,
        /// Room for all items.
        data: &'a mut [u8],
    },
    /// A write of up to 8 bytes to an address without RAM.
    MmioWrite {
        /// Guest-physical address.
        gpa: u64,
        /// The bytes.
        data: &'a [u8],
    },
    /// A read of up to 8 bytes from an address without RAM.
    MmioRead {
        /// Guest-physical address.
        gpa: u64,
        /// Where the answer goes.
        data: &'a mut [u8],
    },
    /// A read of an MSR that the filter sends here.
    MsrRead {
        /// MSR number.
        index: u32,
        /// Where the value goes.
        value: &'a mut u64,
        /// Set to 1 to answer with #GP.
        fault: &'a mut u8,
    },
    /// A write of an MSR that the filter sends here.
    MsrWrite {
        /// MSR number.
        index: u32,
        /// The value.
        value: u64,
        /// Set to 1 to answer with #GP.
        fault: &'a mut u8,
    },
    /// A triple fault.
    Shutdown,
    /// KVM's own word that the guest wants to stop.
    SystemReset,
    /// KVM's own word that the guest has crashed.
    SystemCrash,
    /// Anything that the vCPU cannot go on from, with what KVM said.
    Failure(String),
}

/// Parses the exit that the last successful `KVM_RUN` left in `run`.
pub fn parse(run: &mut kvm_run) -> Exit<'_> {
    let base: *mut u8 = std::ptr::from_mut(run).cast();
    match run.exit_reason {
        KVM_EXIT_IO => {
            // SAFETY: the exit reason says that this member of the union is the live one.
            let io = unsafe { run.__bindgen_anon_1.io };
            let width = usize::from(io.size);
            let len = width.saturating_mul(usize::try_from(io.count).unwrap_or(0));
            let offset = usize::try_from(io.data_offset).unwrap_or(0);
            // SAFETY: KVM promises `count` items of `size` bytes at `data_offset` in the mapping
            // that starts at `run` (Documentation/virt/kvm/api.rst, KVM_EXIT_IO). Both lengths come
            // from the kernel. The borrow of `run` lasts as long as the slice, and nothing in it
            // overlaps the fields read above, which are copies.
            let data = unsafe { std::slice::from_raw_parts_mut(base.add(offset), len) };
            let port = io.port;
            if u32::from(io.direction) == KVM_EXIT_IO_IN {
                Exit::PortIn { port, width, data }
            } else {
                Exit::PortOut { port, width, data }
            }
        }
        KVM_EXIT_MMIO => {
            // SAFETY: the exit reason says that this member of the union is the live one.
            let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
            let len = usize::try_from(mmio.len).unwrap_or(0).min(mmio.data.len());
            let gpa = mmio.phys_addr;
            if mmio.is_write == 0 {
                Exit::MmioRead {
                    gpa,
                    data: &mut mmio.data[..len],
                }
            } else {
                Exit::MmioWrite {
                    gpa,
                    data: &mmio.data[..len],
                }
            }
        }
        KVM_EXIT_X86_RDMSR => {
            // SAFETY: the exit reason says that this member of the union is the live one.
            let msr = unsafe { &mut run.__bindgen_anon_1.msr };
            Exit::MsrRead {
                index: msr.index,
                value: &mut msr.data,
                fault: &mut msr.error,
            }
        }
        KVM_EXIT_X86_WRMSR => {
            // SAFETY: the exit reason says that this member of the union is the live one.
            let msr = unsafe { &mut run.__bindgen_anon_1.msr };
            Exit::MsrWrite {
                index: msr.index,
                value: msr.data,
                fault: &mut msr.error,
            }
        }
        KVM_EXIT_SHUTDOWN => Exit::Shutdown,
        KVM_EXIT_SYSTEM_EVENT => {
            // SAFETY: the exit reason says that this member of the union is the live one.
            match unsafe { run.__bindgen_anon_1.system_event.type_ } {
                KVM_SYSTEM_EVENT_RESET | KVM_SYSTEM_EVENT_SHUTDOWN => Exit::SystemReset,
                KVM_SYSTEM_EVENT_CRASH => Exit::SystemCrash,
                other => Exit::Failure(format!("system event {other}")),
            }
        }
        KVM_EXIT_FAIL_ENTRY => {
            // SAFETY: the exit reason says that this member of the union is the live one.
            let reason = unsafe {
                run.__bindgen_anon_1
                    .fail_entry
                    .hardware_entry_failure_reason
            };
            Exit::Failure(format!("entry refused by the hardware, reason {reason:#x}"))
        }
        KVM_EXIT_INTERNAL_ERROR => {
            // SAFETY: the exit reason says that this member of the union is the live one.
            let suberror = unsafe { run.__bindgen_anon_1.internal.suberror };
            let what = match suberror {
                1 => " (an instruction that KVM cannot emulate)",
                3 => " (a fault while delivering an event)",
                _ => "",
            };
            Exit::Failure(format!("internal error {suberror}{what}"))
        }
        other => Exit::Failure(format!("unexpected exit reason {other}")),
    }
}
