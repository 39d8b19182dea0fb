//! What all devices that the kernel serves (vhost) have in common: guest memory and rings handed over.
//!
//! Called by `net::kernel` and `vsock::kernel`. Addresses that a guest chose are checked against its
//! memory before the kernel gets them: it would take any address of this process.
#![expect(unsafe_code)]
// UNSAFETY: one ioctl of vhost has no wrapper in its crate.

use std::io;
use std::os::fd::AsRawFd;

use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::device::{HandedQueue, QueueError};
use super::GuestRam;

/// Of `linux/vhost.h`.
const VHOST_SET_VRING_BUSYLOOP_TIMEOUT: libc::c_ulong = 0x4008_af23;

/// The kernel's `struct vhost_vring_state`.
#[repr(C)]
struct VringState {
    index: libc::c_uint,
    num: libc::c_uint,
}

/// Has the kernel poll queue `index` of the handle for so long, once it is empty, before it asks the
/// guest to notify. Only vhost-net does so: others take the number and ignore it. The kernel stops
/// earlier where its CPU is wanted.
pub(super) fn set_busy_poll(handle: &impl AsRawFd, index: usize, time_us: u32) -> io::Result<()> {
    let index = libc::c_uint::try_from(index).map_err(io::Error::other)?;
    let state = VringState {
        index,
        num: time_us,
    };
    // SAFETY: the descriptor is open, and the request reads a `vhost_vring_state`, which lives on.
    let result = unsafe {
        libc::ioctl(
            handle.as_raw_fd(),
            VHOST_SET_VRING_BUSYLOOP_TIMEOUT,
            &raw const state,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Takes a new handle for this process and tells it where guest memory is. Returns the virtio features
/// that the kernel has to know of.
pub(super) fn own(handle: &impl VhostBackend, ram: &GuestRam) -> io::Result<u64> {
    let regions: Vec<VhostUserMemoryRegionInfo> = ram
        .iter()
        .map(|region| VhostUserMemoryRegionInfo {
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
            ..Default::default()
        })
        .collect();
    handle.set_owner().map_err(io_error)?;
    handle.set_mem_table(&regions).map_err(io_error)?;
    handle.get_features().map_err(io_error)
}

/// Hands a ring over, as queue `index` of the handle; the kernel signals `errors` if it is corrupt.
pub(super) fn hand_over(
    handle: &impl VhostBackend,
    index: usize,
    queue: &HandedQueue<'_>,
    ram: &GuestRam,
    errors: &EventFd,
) -> Result<(), QueueError> {
    check(queue, ram)?;
    handle.set_vring_num(index, queue.size).map_err(refused)?;
    handle.set_vring_base(index, 0).map_err(refused)?;
    let addresses = VringConfigData {
        queue_max_size: queue.size,
        queue_size: queue.size,
        flags: 0,
        desc_table_addr: queue.descriptors,
        used_ring_addr: queue.used,
        avail_ring_addr: queue.avail,
        log_addr: None,
    };
    handle.set_vring_addr(index, &addresses).map_err(refused)?;
    handle.set_vring_call(index, &queue.call).map_err(refused)?;
    handle.set_vring_kick(index, queue.kick).map_err(refused)?;
    handle.set_vring_err(index, errors).map_err(refused)
}

/// Each part of the ring lies in one piece of guest memory, so that its first address stands for all of
/// it. Lengths (virtio 1.2, 2.7) include the event indices.
fn check(queue: &HandedQueue<'_>, ram: &GuestRam) -> Result<(), QueueError> {
    let size = u64::from(queue.size);
    let parts = [
        (queue.descriptors, 16 * size),
        (queue.avail, 6 + 2 * size),
        (queue.used, 6 + 8 * size),
    ];
    let is_inside = |&(address, len_bytes): &(u64, u64)| {
        let address = GuestAddress(address);
        ram.find_region(address).is_some_and(|region| {
            let offset = address.unchecked_offset_from(region.start_addr());
            offset
                .checked_add(len_bytes)
                .is_some_and(|end| end <= region.len())
        })
    };
    if parts.iter().all(is_inside) {
        Ok(())
    } else {
        Err(QueueError::Setup)
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "used as a function for map_err"
)]
pub(super) fn refused(error: vhost::Error) -> QueueError {
    QueueError::Backend(error.to_string())
}

pub(super) fn io_error(error: vhost::Error) -> io::Error {
    match error {
        vhost::Error::VhostOpen(error) | vhost::Error::IoctlError(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vm_memory::GuestMemoryMmap;

    use super::*;

    const REGION_BYTES: u64 = 0x1_0000;

    #[test]
    fn a_ring_part_lies_in_one_region_to_its_last_byte() {
        // Adjoining for the guest, but not in this process.
        let regions = [0, REGION_BYTES].map(|start| (GuestAddress(start), 0x1_0000));
        let ram: GuestRam = Arc::new(GuestMemoryMmap::from_ranges(&regions).unwrap());
        let kick = EventFd::new(0).unwrap();
        let is_taken = |descriptors, avail, used| {
            let queue = HandedQueue {
                index: 0,
                size: 16,
                descriptors,
                avail,
                used,
                kick: &kick,
                call: EventFd::new(0).unwrap(),
            };
            check(&queue, &ram).is_ok()
        };
        let lengths = [256, 38, 134];
        assert!(is_taken(0, 0x1000, 0x2000));
        for (part, length) in lengths.into_iter().enumerate() {
            for end in [REGION_BYTES, 2 * REGION_BYTES] {
                let mut at = [0, 0x1000, 0x2000];
                at[part] = end - length;
                assert!(is_taken(at[0], at[1], at[2]), "{at:x?}");
                at[part] += 1;
                assert!(!is_taken(at[0], at[1], at[2]), "{at:x?}");
            }
        }
        assert!(!is_taken(u64::MAX - 15, 0x1000, 0x2000));
    }
}
