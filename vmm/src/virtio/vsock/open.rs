//! Opening a socket device, and what can be wrong with it.

use std::io;

use super::kernel::KernelServer;
use super::Vsock;
use crate::virtio::GuestRam;

const VHOST_PATH: &str = "/dev/vhost-vsock";

/// Why a socket device cannot be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum VsockError {
    #[error(
        "{VHOST_PATH} is not there; load the module (modprobe vhost_vsock) or do without it: \
         --vsock cid=N,socket=PATH"
    )]
    Missing,
    #[error(
        "no permission to open {VHOST_PATH}; run as root or as a member of its group, or do without \
         it: --vsock cid=N,socket=PATH"
    )]
    Permission,
    #[error(
        "{VHOST_PATH} cannot be used; load the module (modprobe vhost_vsock) or do without it: \
         --vsock cid=N,socket=PATH"
    )]
    Unusable(#[source] io::Error),
    #[error("CID {0} is in use by another virtual machine; give each its own: --vsock CID")]
    Busy(u32),
    #[error("the kernel refused CID {0}; give another: --vsock CID")]
    Refused(u32, #[source] io::Error),
}

impl Vsock {
    /// Opens the kernel's side and takes the CID, which is this machine's until the device goes.
    pub fn open(cid: u32, ram: &GuestRam) -> Result<Self, VsockError> {
        let server = KernelServer::open(ram).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => VsockError::Missing,
            Some(libc::EACCES | libc::EPERM) => VsockError::Permission,
            _ => VsockError::Unusable(error),
        })?;
        server
            .take_cid(cid)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EADDRINUSE) => VsockError::Busy(cid),
                _ => VsockError::Refused(cid, error),
            })?;
        Ok(Self::new(cid, Box::new(server)))
    }
}
