//! Opening a disk image, and what can be wrong with it.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::allocate;
use super::disk::Disk;
use super::faults::Faults;
use super::lock::{lock, Locked};
use super::{Blk, SECTOR_BYTES};

/// Larger blocks than these would make a guest waste space.
const MAX_PHYSICAL_BLOCK_BYTES: u32 = 64 << 10;

/// What a guest may do with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlkAccess {
    /// Read only.
    ReadOnly,
    /// Read and write.
    ReadWrite,
}

/// Why a disk image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BlkError {
    /// There is no such file.
    #[error("disk image {0} does not exist; check the path given to --disk")]
    Missing(PathBuf),
    /// It is a folder.
    #[error("disk image {0} is a folder; name the image file in it")]
    IsFolder(PathBuf),
    /// It is neither a file nor a block device.
    #[error("disk image {0} is neither a file nor a block device; give a raw image")]
    NotStorage(PathBuf),
    /// It may not be read.
    #[error("disk image {0} is not readable by this user; check its permissions")]
    NotReadable(PathBuf),
    /// It may be read but not written.
    #[error("disk image {0} is not writable by this user; add \",ro\" to use it read-only")]
    NotWritable(PathBuf),
    /// It has no sectors.
    #[error("disk image {0} is empty; give it a size, such as: truncate -s 1G FILE")]
    Empty(PathBuf),
    /// Its end is in the middle of a sector.
    #[error(
        "disk image {path} has {len_bytes} bytes, which is not a multiple of 512; if it is a raw image, \
         round it up: truncate -s %512 FILE"
    )]
    PartialSector {
        /// The file.
        path: PathBuf,
        /// Its size.
        len_bytes: u64,
    },
    /// It begins as a qcow2 image does.
    #[error(
        "disk image {0} is in qcow2 format, and --disk reads raw images; serve it with qemu-storage-daemon to \
         --vhost-user-blk (coopvirt run --help shows how), or convert it: qemu-img convert -O raw"
    )]
    Qcow2(PathBuf),
    /// Somebody else has it open.
    #[error(
        "disk image {0} is in use by another machine or disk; stop that one, or attach the image \
         read-only everywhere (\",ro\")"
    )]
    InUse(PathBuf),
    /// io_uring was asked for and is not there.
    #[error("disk image {path} cannot use io_uring here; leave io=uring out, or say io=sync")]
    NoUring {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The serial number is too long or has strange characters.
    #[error("serial number {0:?} is not 1 to 20 printable ASCII characters")]
    Serial(String),
    /// Something else went wrong.
    #[error("could not open disk image {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl Blk {
    /// Opens and locks a raw image as a disk with `nr_queues` queues (one per vCPU is best), whose
    /// requests are served one at a time until [`Blk::use_uring`].
    pub fn open(path: &Path, access: BlkAccess, nr_queues: u16) -> Result<Self, BlkError> {
        let io_error = |source| BlkError::Io {
            path: path.into(),
            source,
        };
        let kind = match std::fs::metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) => return Err(open_error(path, error, BlkAccess::ReadOnly)),
        };
        if kind.is_dir() {
            return Err(BlkError::IsFolder(path.into()));
        }
        // Checked before opening: opening a FIFO would wait for its other end.
        let is_device = kind.is_block_device();
        if !kind.is_file() && !is_device {
            return Err(BlkError::NotStorage(path.into()));
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(access == BlkAccess::ReadWrite)
            .open(path)
            .map_err(|error| open_error(path, error, access))?;
        // A block device has no length in its metadata, but an end that can be sought.
        let len_bytes = file.seek(SeekFrom::End(0)).map_err(io_error)?;
        if len_bytes == 0 {
            return Err(BlkError::Empty(path.into()));
        }
        if is_qcow2(&file) {
            return Err(BlkError::Qcow2(path.into()));
        }
        if !len_bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(BlkError::PartialSector {
                path: path.into(),
                len_bytes,
            });
        }
        match lock(&file, access).map_err(io_error)? {
            Locked::Yes => {}
            Locked::InUse => return Err(BlkError::InUse(path.into())),
            Locked::Unsupported => complain!(
                "coopvirt: disk image {} cannot be locked on this file system; see to it that nobody \
                 else writes to it",
                path.display()
            ),
        }
        let is_writable = access == BlkAccess::ReadWrite;
        let disk = Disk {
            access,
            nr_sectors: len_bytes / SECTOR_BYTES,
            is_device,
            is_in_memory: allocate::is_in_memory(&file),
            can_discard: is_writable && (is_device || allocate::can_punch(&file, len_bytes)),
            physical_sectors: physical_block_bytes(&file, is_device) / 512,
            file: Arc::new(file),
            faults: Arc::new(Faults::new(path.into())),
        };
        Ok(Self::new(disk, nr_queues.max(1)))
    }
}

/// Whether a file has the first bytes of a qcow2 image. Read as a raw one it would be a disk of some
/// kilobytes full of nonsense, and written it would be lost.
fn is_qcow2(file: &File) -> bool {
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0).is_ok() && magic == *b"QFI\xfb"
}

/// What the host reads and writes at once: a power of two.
fn physical_block_bytes(file: &File, is_device: bool) -> u32 {
    let bytes = if is_device {
        allocate::device_block_bytes(file)
    } else {
        file.metadata()
            .map(|metadata| u32::try_from(metadata.blksize()).unwrap_or(0))
    };
    let sector_bytes = 512;
    bytes
        .ok()
        .filter(|bytes| bytes.is_power_of_two())
        .map_or(sector_bytes, |bytes| {
            bytes.clamp(sector_bytes, MAX_PHYSICAL_BLOCK_BYTES)
        })
}

fn open_error(path: &Path, error: io::Error, access: BlkAccess) -> BlkError {
    let is_readable = || std::fs::File::open(path).is_ok();
    match error.kind() {
        io::ErrorKind::NotFound => BlkError::Missing(path.into()),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            if access == BlkAccess::ReadWrite && is_readable() =>
        {
            BlkError::NotWritable(path.into())
        }
        io::ErrorKind::PermissionDenied => BlkError::NotReadable(path.into()),
        _ => BlkError::Io {
            path: path.into(),
            source: error,
        },
    }
}
