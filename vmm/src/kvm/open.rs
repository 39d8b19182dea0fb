//! Opens /dev/kvm, with an error that says what to do when that fails.

use kvm_ioctls::Kvm;

/// Why /dev/kvm cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum OpenError {
    #[error(
        "/dev/kvm does not exist; load kvm_amd or kvm_intel, switch virtualization on in the \
         firmware, or run in the lab: scripts/lab -- COMMAND"
    )]
    Missing,
    #[error(
        "no permission to open /dev/kvm; add yourself to group kvm: sudo usermod -aG kvm $USER"
    )]
    Permission,
    #[error("could not open /dev/kvm; `coopvirt doctor` says more")]
    Other(#[source] kvm_ioctls::Error),
    #[error("/dev/kvm speaks API version {0}, not 12")]
    Version(i32),
}

/// Opens /dev/kvm and checks its version.
pub fn open() -> Result<Kvm, OpenError> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => OpenError::Missing,
        libc::EACCES | libc::EPERM => OpenError::Permission,
        _ => OpenError::Other(error),
    })?;
    match kvm.get_api_version() {
        12 => Ok(kvm),
        version => Err(OpenError::Version(version)),
    }
}
