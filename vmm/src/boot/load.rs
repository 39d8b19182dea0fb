//! Places kernel, initramfs, command line and tables in guest memory.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use linux_loader::cmdline::Cmdline;
use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{load_cmdline, KernelLoader, KernelLoaderResult};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, ReadVolatile};

use super::image::{self, Format, ImageError};
use super::{acpi, linux64, pvh};
use crate::config::{Kernel, MachineConfig};
use crate::mem::layout::{ABOVE_4G, ACPI, CMDLINE, CMDLINE_MAX_BYTES, HIGH_RAM};
use crate::mem::GuestRam;

/// What an x86 kernel keeps of its command line (COMMAND_LINE_SIZE without the final zero), for one that
/// does not say it.
const KEPT_CMDLINE_BYTES: usize = 2047;

/// What is in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// How it starts.
    pub entry: Entry,
    /// The longest command line that it takes.
    pub cmdline_max_bytes: usize,
}

/// How the first vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 32-bit protected mode without paging, EBX = start info (PVH).
    Pvh(u64),
    /// 64-bit mode with identity-mapped pages, RSI = zero page (Linux 64-bit boot protocol).
    Linux64(u64),
}

/// Why a machine cannot be booted from these files.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BootError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(
        "could not load kernel {path:?} ({cause}): it is cut off, no kernel, or too large for \
         {memory_mib} MiB of guest memory; give a whole vmlinux or bzImage, or more --memory"
    )]
    Kernel {
        path: PathBuf,
        memory_mib: u64,
        cause: String,
    },
    #[error("kernel {path:?} is an ELF file without a PVH entry note; build it with CONFIG_PVH, or give its \
         bzImage")]
    NoPvh { path: PathBuf },
    #[error(
        "kernel {path:?} starts at {entry:#x}, where it was not loaded: it is damaged, get it again"
    )]
    Entry { path: PathBuf, entry: u64 },
    #[error(
        "kernel {path:?} needs memory up to {end_mib} MiB to start; the guest has {memory_mib} MiB: \
         give it more (--memory)"
    )]
    KernelRoom {
        path: PathBuf,
        end_mib: u64,
        memory_mib: u64,
    },
    #[error("could not read initrd {path:?}; check the path given to --initrd")]
    Initrd { path: PathBuf, source: io::Error },
    #[error("initrd {path:?} is a folder or empty; give a cpio archive")]
    NoInitrd { path: PathBuf },
    #[error(
        "initrd {path:?} of {need_mib} MiB does not fit behind the kernel in {memory_mib} MiB of \
         guest memory; give the guest more (--memory)"
    )]
    InitrdRoom {
        path: PathBuf,
        need_mib: u64,
        memory_mib: u64,
    },
    #[error(
        "kernel command line of {bytes} bytes is too long: this kernel keeps {max} of them; give less \
         (--cmdline)"
    )]
    CmdlineLength { bytes: usize, max: usize },
    #[error("kernel command line has a character that is not printable ASCII; check --cmdline")]
    CmdlineText,
    #[error("could not write boot structures to guest memory")]
    Write(#[from] vm_memory::GuestMemoryError),
}

/// An initramfs in guest memory.
#[derive(Clone, Copy, Debug)]
pub struct Initrd {
    /// Guest-physical start.
    pub start: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// Loads kernel, initramfs and tables. The command line comes later ([`write_cmdline`]): part of it
/// is known only once there is a vCPU, and a wrong file is to be reported also where KVM is not.
pub fn load(ram: &GuestRam, config: &MachineConfig) -> Result<Loaded, BootError> {
    let path = match &config.kernel {
        Kernel::File(path) => path,
        Kernel::Code { pieces } => return load_code(ram, pieces),
    };
    let (mut file, format) = image::open(path)?;
    let memory_mib = config.memory_bytes >> 20;
    let failed = |error: linux_loader::loader::Error| {
        // The loader repeats its parents' words; the last part says what is wrong.
        let cause = error.to_string();
        let cause = cause.rsplit(": ").next().unwrap_or_default().to_owned();
        BootError::Kernel {
            path: path.clone(),
            memory_mib,
            cause,
        }
    };
    let check_room = |end| check_room(path, memory_mib, low_end(ram), end);
    acpi::write(ram, config.vcpus.get())?;
    // Written later, refused now.
    let parse_cmdline = |max| parse_cmdline(&config.cmdline, max);
    match format {
        Format::Elf => {
            let cmdline_max_bytes = KEPT_CMDLINE_BYTES;
            parse_cmdline(cmdline_max_bytes)?;
            let high = Some(GuestAddress(HIGH_RAM));
            let loaded = Elf::load(&**ram, None, &mut file, high).map_err(failed)?;
            let entry = pvh_entry(path, ram, &loaded)?;
            check_room(loaded.kernel_end)?;
            let initrd = load_initrd(ram, config, loaded.kernel_end, u64::MAX)?;
            pvh::write(ram, config.memory_bytes, initrd, ACPI)?;
            Ok(Loaded {
                entry: Entry::Pvh(entry),
                cmdline_max_bytes,
            })
        }
        Format::BzImage => {
            let high = Some(GuestAddress(HIGH_RAM));
            let loaded = BzImage::load(&**ram, None, &mut file, high).map_err(failed)?;
            let header = loaded.setup_header.unwrap_or_default();
            let cmdline_max_bytes = kept_cmdline_bytes(header.cmdline_size);
            parse_cmdline(cmdline_max_bytes)?;
            // The kernel unpacks itself: `init_size` bytes from where it starts must be RAM.
            let start = loaded.kernel_load.0.max(header.pref_address);
            let end = start
                .saturating_add(header.init_size.into())
                .max(loaded.kernel_end);
            check_room(end)?;
            let initrd = load_initrd(ram, config, end, header.initrd_addr_max.into())?;
            linux64::write(ram, config.memory_bytes, header, initrd, ACPI)?;
            Ok(Loaded {
                entry: Entry::Linux64(loaded.kernel_load.0 + linux64::ENTRY_OFFSET),
                cmdline_max_bytes,
            })
        }
    }
}

fn pvh_entry(path: &Path, ram: &GuestRam, loaded: &KernelLoaderResult) -> Result<u64, BootError> {
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(BootError::NoPvh { path: path.into() });
    };
    if !(HIGH_RAM..loaded.kernel_end).contains(&entry.0) || !ram.address_in_range(entry) {
        return Err(BootError::Entry {
            path: path.into(),
            entry: entry.0,
        });
    }
    Ok(entry.0)
}

/// End of the RAM below the PCI hole.
fn low_end(ram: &GuestRam) -> u64 {
    ram.iter()
        .map(|region| region.last_addr().0 + 1)
        .find(|&end| end < ABOVE_4G)
        .unwrap_or(0)
}

fn check_room(path: &Path, memory_mib: u64, low_end: u64, end: u64) -> Result<(), BootError> {
    if end <= low_end {
        return Ok(());
    }
    let end_mib = end.div_ceil(1 << 20);
    Err(BootError::KernelRoom {
        path: path.into(),
        end_mib,
        memory_mib,
    })
}

/// What a bzImage keeps, by its header's word for it.
fn kept_cmdline_bytes(cmdline_size: u32) -> usize {
    match usize::try_from(cmdline_size) {
        Ok(0) => KEPT_CMDLINE_BYTES,
        Ok(size) => size.min(CMDLINE_MAX_BYTES - 1),
        Err(_) => CMDLINE_MAX_BYTES - 1,
    }
}

fn load_code(ram: &GuestRam, pieces: &[(u64, Vec<u8>)]) -> Result<Loaded, BootError> {
    for (address, bytes) in pieces {
        ram.write_slice(bytes, GuestAddress(*address))?;
    }
    Ok(Loaded {
        entry: Entry::Linux64(pieces.first().map_or(0, |(address, _)| *address)),
        cmdline_max_bytes: CMDLINE_MAX_BYTES - 1,
    })
}

/// Writes the kernel command line, of at most `max` bytes.
pub fn write_cmdline(ram: &GuestRam, text: &str, max: usize) -> Result<(), BootError> {
    let cmdline = parse_cmdline(text, max)?;
    load_cmdline(&**ram, GuestAddress(CMDLINE), &cmdline).map_err(|_| BootError::CmdlineText)
}

fn parse_cmdline(text: &str, max: usize) -> Result<Cmdline, BootError> {
    let bytes = text.len();
    if bytes > max {
        return Err(BootError::CmdlineLength { bytes, max });
    }
    Cmdline::try_from(text, CMDLINE_MAX_BYTES).map_err(|_| BootError::CmdlineText)
}

/// Loads the initramfs as high as it fits below `address_max` and above the kernel.
fn load_initrd(
    ram: &GuestRam,
    config: &MachineConfig,
    kernel_end: u64,
    address_max: u64,
) -> Result<Option<Initrd>, BootError> {
    let Some(path) = &config.initrd else {
        return Ok(None);
    };
    let read = |source| BootError::Initrd {
        path: path.clone(),
        source,
    };
    let mut file = File::open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    let bytes = metadata.len();
    if metadata.is_dir() || bytes == 0 {
        return Err(BootError::NoInitrd { path: path.clone() });
    }
    let limit = low_end(ram).min(address_max.saturating_add(1));
    let start = limit.checked_sub(bytes).map(|start| start & !0xfff);
    let start =
        start
            .filter(|&start| start >= kernel_end)
            .ok_or_else(|| BootError::InitrdRoom {
                path: path.clone(),
                need_mib: bytes.div_ceil(1 << 20),
                memory_mib: config.memory_bytes >> 20,
            })?;
    let len = usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut slice = ram.get_slice(GuestAddress(start), len)?;
    file.read_exact_volatile(&mut slice).map_err(|error| {
        read(io::Error::other(format!(
            "the file changed while it was read: {error}"
        )))
    })?;
    Ok(Some(Initrd { start, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_says_how_much_it_keeps_and_is_not_believed_more_than_there_is_room() {
        assert_eq!(kept_cmdline_bytes(0), KEPT_CMDLINE_BYTES);
        assert_eq!(kept_cmdline_bytes(4095), 4095);
        assert_eq!(kept_cmdline_bytes(u32::MAX), CMDLINE_MAX_BYTES - 1);
    }

    #[test]
    fn what_a_kernel_would_cut_off_is_refused() {
        let line = "x".repeat(2048);
        assert!(parse_cmdline(&line[1..], 2047).is_ok());
        let error = parse_cmdline(&line, 2047).unwrap_err();
        assert!(error.to_string().contains("keeps 2047"), "{error}");
    }
}
