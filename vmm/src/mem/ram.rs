//! Guest RAM: anonymous or shareable memory around the PCI hole, aligned and advised for huge pages.
#![expect(unsafe_code)]
// UNSAFETY: mapping memory and giving it to KVM are raw operations; both stay in this file.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MmapRegion,
};

use super::layout::{ABOVE_4G, PCI_HOLE};
use super::shared::{self, Sharing};

/// Guest memory as every part of the VMM shares it.
pub type GuestRam = Arc<GuestMemoryMmap<()>>;

/// Smallest guest memory: room for the boot structures and a small kernel.
pub const MIN_BYTES: u64 = 4 << 20;

/// The most that KVM takes as one slot (`KVM_MEM_MAX_NR_PAGES`, include/linux/kvm_host.h).
const MAX_SLOT_BYTES: u64 = ((1 << 31) - 1) << 12;

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// How guest memory is backed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Advise the kernel to use transparent huge pages.
    pub huge_pages: bool,
    /// Populate all of it before the guest starts, so that its first touch costs no exit for lack
    /// of a host page (the second-stage mapping is still made on first touch).
    pub prefault: bool,
    /// Allow more than the host's RAM and swap.
    pub overcommit: bool,
}

/// Why there is no guest memory.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum RamError {
    #[error("guest memory of {0} bytes is too small; give at least {min} MiB", min = MIN_BYTES >> 20)]
    TooSmall(u64),
    #[error("guest memory of {0} bytes is not a multiple of 4096; give whole MiB, such as 512M")]
    Unaligned(u64),
    #[error(
        "guest memory of {wanted_mib} MiB is more than this host's RAM and swap ({host_mib} MiB); \
         ask for less or add --overcommit"
    )]
    MoreThanHost { wanted_mib: u64, host_mib: u64 },
    #[error(
        "guest memory of {wanted_mib} MiB is more than a guest can have on this host ({max_mib} MiB); ask \
         for less (--memory)"
    )]
    MoreThanGuest { wanted_mib: u64, max_mib: u64 },
    #[error("could not map {bytes} bytes of guest memory")]
    Map {
        bytes: u64,
        source: vm_memory::mmap::FromRangesError,
    },
    #[error("could not map {bytes} bytes of guest memory; ask for less (--memory)")]
    MapRegion { bytes: u64, source: io::Error },
    #[error("could not populate guest memory; the host may be short of memory")]
    Prefault(#[source] io::Error),
    #[error("could not give guest memory to KVM")]
    Register(#[source] kvm_ioctls::Error),
    #[error("could not read the host's memory size from /proc/meminfo")]
    HostSize(#[source] io::Error),
}

/// The RAM ranges, as (start, size), for a guest with `bytes` of memory.
pub fn ranges(bytes: u64) -> Vec<(u64, u64)> {
    let low = bytes.min(PCI_HOLE);
    let mut ranges = vec![(0, low)];
    if bytes > low {
        ranges.push((ABOVE_4G, bytes - low));
    }
    ranges
}

/// Refuses sizes that no guest can have.
pub fn check_size(bytes: u64) -> Result<(), RamError> {
    if bytes < MIN_BYTES {
        return Err(RamError::TooSmall(bytes));
    }
    if !bytes.is_multiple_of(4096) {
        return Err(RamError::Unaligned(bytes));
    }
    Ok(())
}

/// Refuses more than a guest whose physical addresses have so many bits can reach, or KVM takes.
pub fn check_reach(bytes: u64, address_bits: u32) -> Result<(), RamError> {
    let end = 1_u64.checked_shl(address_bits).unwrap_or(u64::MAX);
    let high = end.saturating_sub(ABOVE_4G).min(MAX_SLOT_BYTES);
    let max = PCI_HOLE + high;
    if bytes <= max {
        return Ok(());
    }
    Err(RamError::MoreThanGuest {
        wanted_mib: bytes >> 20,
        max_mib: max >> 20,
    })
}

/// Checks the size and allocates the guest's RAM.
pub fn allocate(bytes: u64, backing: Backing, sharing: Sharing) -> Result<GuestRam, RamError> {
    check_size(bytes)?;
    if !backing.overcommit {
        let meminfo = fs::read_to_string("/proc/meminfo").map_err(RamError::HostSize)?;
        let host = host_bytes(&meminfo);
        if bytes > host {
            return Err(RamError::MoreThanHost {
                wanted_mib: bytes >> 20,
                host_mib: host >> 20,
            });
        }
    }
    let mut regions = Vec::new();
    for (start, size) in ranges(bytes) {
        let region = map_aligned(size, backing, sharing)?;
        let region = GuestRegionMmap::new(region, GuestAddress(start)).ok_or_else(|| {
            RamError::MapRegion {
                bytes,
                source: io::Error::from(io::ErrorKind::InvalidInput),
            }
        })?;
        regions.push(region);
    }
    let memory = GuestMemoryMmap::from_regions(regions).map_err(|_| RamError::MapRegion {
        bytes,
        source: io::Error::from(io::ErrorKind::InvalidInput),
    })?;
    Ok(Arc::new(memory))
}

/// Tells KVM about the RAM, one slot per region.
pub fn register(vm: &VmFd, ram: &GuestRam) -> Result<(), RamError> {
    for (slot, region) in (0u32..).zip(ram.iter()) {
        let host = ram
            .get_host_address(region.start_addr())
            .map_err(|_| RamError::Register(kvm_ioctls::Error::new(libc::EFAULT)))?;
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: host as u64,
        };
        // SAFETY: the range is a live mapping of exactly this size; the caller's machine keeps the
        // `Arc` for longer than the VM's file descriptor, and no two slots overlap.
        unsafe { vm.set_user_memory_region(region) }.map_err(RamError::Register)?;
    }
    Ok(())
}

/// Maps `size` bytes whose host address is a multiple of 2 MiB, so that host huge pages and guest
/// huge pages coincide and one second-stage fault can map 2 MiB.
fn map_aligned(size: u64, backing: Backing, sharing: Sharing) -> Result<MmapRegion<()>, RamError> {
    let failed = |source| RamError::MapRegion {
        bytes: size,
        source,
    };
    let len =
        usize::try_from(size).map_err(|_| failed(io::Error::from_raw_os_error(libc::ENOMEM)))?;
    let padded = len
        .checked_add(HUGE_PAGE_BYTES)
        .ok_or_else(|| failed(io::Error::from_raw_os_error(libc::ENOMEM)))?;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing else.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), padded, prot, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(failed(io::Error::last_os_error()));
    }
    let offset = (base as usize).wrapping_neg() % HUGE_PAGE_BYTES;
    // SAFETY: `offset` is below HUGE_PAGE_BYTES, so the result lies in the mapping made above.
    let start = unsafe { base.cast::<u8>().add(offset) };
    let mut region = MmapRegionBuilder::new(len).with_mmap_prot(prot);
    if sharing == Sharing::Shared {
        let file = shared::file(size).map_err(failed)?;
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: it replaces a part of the mapping made above, which nobody knows of yet.
        let place = unsafe { libc::mmap(start.cast(), len, prot, flags, file.as_raw_fd(), 0) };
        if place == libc::MAP_FAILED {
            return Err(failed(io::Error::last_os_error()));
        }
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        region = region
            .with_mmap_flags(flags)
            .with_file_offset(FileOffset::new(file, 0));
    } else {
        region = region.with_mmap_flags(flags);
    }
    let advice = if backing.huge_pages {
        libc::MADV_HUGEPAGE
    } else {
        libc::MADV_NOHUGEPAGE
    };
    // SAFETY: `start..start + len` lies in the mapping made above; advice changes no contents. A
    // kernel without transparent huge pages refuses it, which is no error for us.
    let _ = unsafe { libc::madvise(start.cast(), len, advice) };
    if backing.prefault {
        // SAFETY: as above; populating writes no contents.
        let populated = unsafe { libc::madvise(start.cast(), len, libc::MADV_POPULATE_WRITE) };
        if populated != 0 {
            return Err(RamError::Prefault(io::Error::last_os_error()));
        }
    }
    // SAFETY: `start..start + len` is mapped with these rights and flags and is never unmapped:
    // guest memory lives as long as the process, and the alignment padding costs no memory.
    unsafe { region.with_raw_mmap_pointer(start) }
        .build()
        .map_err(|_| failed(io::Error::from(io::ErrorKind::InvalidInput)))
}

/// RAM plus swap in bytes, from the text of /proc/meminfo.
fn host_bytes(meminfo: &str) -> u64 {
    let kib = |name: &str| {
        meminfo
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix("kB"))
            .and_then(|number| number.trim().parse::<u64>().ok())
            .unwrap_or(0)
    };
    (kib("MemTotal:") + kib("SwapTotal:")) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Backing = Backing {
        huge_pages: true,
        prefault: false,
        overcommit: false,
    };

    #[test]
    fn ram_goes_around_the_pci_hole() {
        assert_eq!(ranges(512 << 20), [(0, 512 << 20)]);
        assert_eq!(ranges(3 << 30), [(0, 3 << 30)]);
        assert_eq!(ranges(4 << 30), [(0, 3 << 30), (4 << 30, 1 << 30)]);
        assert_eq!(ranges(6 << 30), [(0, 3 << 30), (4 << 30, 3 << 30)]);
    }

    #[test]
    fn sizes_nobody_can_mean_are_refused() {
        assert!(matches!(
            allocate(0, PLAIN, Sharing::Private),
            Err(RamError::TooSmall(0))
        ));
        assert!(matches!(
            allocate(1 << 20, PLAIN, Sharing::Private),
            Err(RamError::TooSmall(_))
        ));
        assert!(matches!(
            allocate((64 << 20) + 1, PLAIN, Sharing::Private),
            Err(RamError::Unaligned(_))
        ));
        let much = allocate(1 << 50, PLAIN, Sharing::Private).unwrap_err();
        assert!(matches!(much, RamError::MoreThanHost { .. }), "{much}");
        assert!(much.to_string().contains("--overcommit"));
    }

    #[test]
    fn memory_ends_where_the_guests_addresses_or_kvms_slots_do() {
        assert!(check_reach(63 << 30, 36).is_ok());
        let error = check_reach(64 << 30, 36).unwrap_err().to_string();
        assert!(error.contains("(64512 MiB); ask for less"), "{error}");
        assert!(check_reach(8 << 40, 48).is_ok());
        assert!(check_reach(9 << 40, 48).is_err());
        assert!(check_reach(9 << 40, 64).is_err());
    }

    #[test]
    fn host_memory_is_aligned_to_a_huge_page() {
        for sharing in [Sharing::Private, Sharing::Shared] {
            let ram = allocate(64 << 20, PLAIN, sharing).expect("64 MiB fit anywhere");
            let host = ram
                .get_host_address(GuestAddress(0))
                .expect("address zero is RAM");
            assert_eq!(host as usize % HUGE_PAGE_BYTES, 0);
            let is_file = ram.iter().all(|region| region.file_offset().is_some());
            assert_eq!(is_file, sharing == Sharing::Shared);
        }
    }

    #[test]
    fn meminfo_is_ram_plus_swap() {
        assert_eq!(
            host_bytes("MemTotal:  100 kB\nSwapTotal:   20 kB\n"),
            120 << 10
        );
        assert_eq!(host_bytes("nothing"), 0);
    }
}
