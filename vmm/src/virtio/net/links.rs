//! News of the host's interfaces, so that a tap that is removed is noticed without traffic.
#![expect(unsafe_code)]
// UNSAFETY: netlink sockets have no safe wrapper.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;

/// Becomes readable when an interface comes, goes or changes. What exactly, the tap is asked.
pub(super) struct LinkNews(pub(super) Arc<File>);

impl LinkNews {
    pub(super) fn open() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: a call by value.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let file = unsafe { File::from_raw_fd(fd) };
        // SAFETY: all zeros are a valid address; the fields that matter are set below.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family =
            libc::sa_family_t::try_from(libc::AF_NETLINK).map_err(io::Error::other)?;
        address.nl_groups = u32::try_from(libc::RTMGRP_LINK).map_err(io::Error::other)?;
        let len = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
        // SAFETY: the address is valid for its length.
        let result = unsafe { libc::bind(file.as_raw_fd(), (&raw const address).cast(), len) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(Arc::new(file)))
    }

    /// Throws away what there is to read, so that the next news is an edge.
    pub(super) fn drain(&self) {
        let mut buffer = [0; 4096];
        // Bounded: who makes news faster than this is read again at the next edge. Too many of them
        // at once (ENOBUFS) are news like others.
        for _ in 0..1024 {
            match (&*self.0).read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => {}
            }
        }
    }
}
