//! One queue of the host's tap interface: opening it and its ioctls.
//!
//! Packets are read and written by `pair.rs` and by vhost-net; here is only what is no packet.
#![expect(unsafe_code)]
// UNSAFETY: the ioctls of /dev/net/tun have no safe wrapper.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use super::HEADER_BYTES;

pub(super) const TUN_PATH: &str = "/dev/net/tun";

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUNSETQUEUE: libc::c_ulong = 0x4004_54d9;

const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_ATTACH_QUEUE: u16 = 0x0200;
const IFF_DETACH_QUEUE: u16 = 0x0400;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

pub(super) const OFFLOAD_CSUM: u32 = 1;
pub(super) const OFFLOAD_TSO4: u32 = 2;
pub(super) const OFFLOAD_TSO6: u32 = 4;
pub(super) const OFFLOAD_ECN: u32 = 8;

/// The kernel's `struct ifreq` with flags.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    rest: [u8; 22],
}

impl InterfaceRequest {
    fn new(name: &str, flags: u16) -> Self {
        let mut request = Self {
            name: [0; libc::IFNAMSIZ],
            flags,
            rest: [0; 22],
        };
        // The configuration allows at most 15 bytes; the last one stays zero.
        let places = request.name[..libc::IFNAMSIZ - 1].iter_mut();
        places.zip(name.bytes()).for_each(|(to, from)| *to = from);
        request
    }
}

/// One queue of a tap. Closing its file gives it back; the interface stays.
pub(super) struct Tap {
    pub(super) file: Arc<File>,
    // A socket plays the tap.
    #[cfg(test)]
    is_stand_in: bool,
}

impl Tap {
    /// Attaches to the interface, which has to be there: where this process may, the kernel would
    /// make one.
    pub(super) fn attach(name: &str, is_multi_queue: bool) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(TUN_PATH)?;
        let multi = if is_multi_queue { IFF_MULTI_QUEUE } else { 0 };
        let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | multi;
        let mut request = InterfaceRequest::new(name, flags);
        ioctl(&file, TUNSETIFF, &mut request)?;
        let mut header_bytes = libc::c_int::try_from(HEADER_BYTES).map_err(io::Error::other)?;
        ioctl(&file, TUNSETVNETHDRSZ, &mut header_bytes)?;
        Ok(Self {
            file: Arc::new(file),
            #[cfg(test)]
            is_stand_in: false,
        })
    }

    #[cfg(test)]
    pub(super) fn stand_in(file: File) -> Self {
        Self {
            file: Arc::new(file),
            is_stand_in: true,
        }
    }

    /// Says which unfinished packets the guest takes (bits `OFFLOAD_*`).
    pub(super) fn set_offloads(&self, offloads: u32) -> io::Result<()> {
        #[cfg(test)]
        if self.is_stand_in {
            return Ok(());
        }
        // SAFETY: TUNSETOFFLOAD takes its argument by value; the file is open.
        let result = unsafe {
            libc::ioctl(
                self.file.as_raw_fd(),
                TUNSETOFFLOAD,
                libc::c_ulong::from(offloads),
            )
        };
        check(result)
    }

    /// Lets the interface use this queue, or not.
    pub(super) fn enable(&self, is_enabled: bool) -> io::Result<()> {
        #[cfg(test)]
        if self.is_stand_in {
            return Ok(());
        }
        let flags = if is_enabled {
            IFF_ATTACH_QUEUE
        } else {
            IFF_DETACH_QUEUE
        };
        ioctl(
            &self.file,
            TUNSETQUEUE,
            &mut InterfaceRequest::new("", flags),
        )
    }

    /// Whether the interface is still there. Only an enabled queue knows.
    pub(super) fn is_there(&self) -> bool {
        #[cfg(test)]
        if self.is_stand_in {
            return true;
        }
        let mut request = InterfaceRequest::new("", 0);
        ioctl(&self.file, TUNGETIFF, &mut request).is_ok()
    }
}

/// Calls an ioctl that reads or writes a `T`.
fn ioctl<T>(file: &File, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
    // SAFETY: each caller passes the type that its request reads or writes (an `ifreq`, which
    // `InterfaceRequest` has the size of, or an int), valid and exclusively borrowed.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    check(result)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());
