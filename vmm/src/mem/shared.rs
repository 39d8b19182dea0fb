//! Memory that another process can map: files without a name (memfd).
//!
//! A vhost-user back end gets such files over its socket. Their sizes are sealed: a back end that cut
//! one short would kill this process by SIGBUS. Its contents are the back end's to change at any
//! time, like those of guest memory are the guest's.

use std::fs::File;
use std::io;

use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MmapRegion,
};

/// Whether guest memory is this process's alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Anonymous memory, which gets huge pages most easily.
    Private,
    /// A file that back ends can map.
    Shared,
}

/// A file of zeros whose size nobody can change.
pub(super) fn file(len_bytes: u64) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create("coopvirt", flags)?;
    ftruncate(&file, len_bytes)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(File::from(file))
}

/// Memory of the VMM's own, for back ends to find at `start`.
pub fn map(start: GuestAddress, len_bytes: usize) -> io::Result<GuestMemoryMmap<()>> {
    let file = FileOffset::new(file(len_bytes as u64)?, 0);
    let mapping = MmapRegion::from_file(file, len_bytes).map_err(io::Error::other)?;
    let region = GuestRegionMmap::new(mapping, start);
    let region = region.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    GuestMemoryMmap::from_regions(vec![region]).map_err(io::Error::other)
}

/// The advice that gives pages of guest memory back to the host, to read as zero afterwards: for a
/// file MADV_DONTNEED would only take them out of this mapping (madvise(2)).
pub fn release_advice(ram: &GuestMemoryMmap<()>) -> libc::c_int {
    if ram.iter().any(|region| region.file_offset().is_some()) {
        libc::MADV_REMOVE
    } else {
        libc::MADV_DONTNEED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_can_cut_it_short() {
        let file = file(8192).unwrap();
        assert!(file.set_len(4096).is_err());
        assert!(file.set_len(16384).is_err());
        assert_eq!(file.metadata().unwrap().len(), 8192);
    }
}
