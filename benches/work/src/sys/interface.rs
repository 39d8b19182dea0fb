//! Giving a network interface its address, and bringing it up.
#![expect(unsafe_code)]
// UNSAFETY: the ioctls of interfaces have no safe wrapper.

use super::check;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

/// Gives the interface this address and brings it up.
pub(crate) fn bring_up(name: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    for (request, value) in [
        (libc::SIOCSIFADDR, address),
        (libc::SIOCSIFNETMASK, Ipv4Addr::from(mask)),
    ] {
        let mut ifreq = named(name);
        ifreq.ifr_ifru.ifru_addr = socket_address(value);
        call(&socket, request, &mut ifreq)?;
    }
    let mut ifreq = named(name);
    call(&socket, libc::SIOCGIFFLAGS, &mut ifreq)?;
    // SAFETY: the kernel has just written the flags.
    let flags = unsafe { ifreq.ifr_ifru.ifru_flags };
    let up = libc::c_short::try_from(libc::IFF_UP).map_err(io::Error::other)?;
    ifreq.ifr_ifru.ifru_flags = flags | up;
    call(&socket, libc::SIOCSIFFLAGS, &mut ifreq)
}

fn named(name: &str) -> libc::ifreq {
    // SAFETY: all zeros are a valid ifreq.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    let places = ifreq.ifr_name[..libc::IFNAMSIZ - 1].iter_mut();
    for (place, byte) in places.zip(name.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    ifreq
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    // As sockaddr_in has it: the port, then the address.
    let mut data = [0; 14];
    for (place, byte) in data[2..].iter_mut().zip(address.octets()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    libc::sockaddr {
        sa_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap_or(0),
        sa_data: data,
    }
}

fn call(socket: &UdpSocket, request: libc::c_ulong, ifreq: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: all these requests read or write one ifreq, which is exclusively borrowed.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), request, std::ptr::from_mut(ifreq)) })?;
    Ok(())
}
