//! KVM's binary statistics of a vCPU or a VM (`KVM_GET_STATS_FD`).
//!
//! The kernel counts exits itself, whatever traces them; these are the figures that the
//! tracepoints are compared with. The descriptor table is parsed once, a snapshot is one read.
//! Only cumulative scalars are kept: histograms and momentary values say nothing about exits.
#![expect(unsafe_code)]
// UNSAFETY: kvm-ioctls has no call for this ioctl, and its result is a file descriptor to own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

/// `_IO(KVMIO, 0xce)`.
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
const HEADER_BYTES: usize = 24;
const DESC_BYTES: usize = 16;
/// `KVM_STATS_TYPE_MASK`; type 0 is cumulative.
const TYPE_MASK: u32 = 0xf;
/// More than any kernel has; bounds what a broken header could make us allocate.
const MAX_DESCS: u32 = 4096;
const MAX_NAME_BYTES: u32 = 256;

/// Why statistics could not be had.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// The kernel does not know the ioctl.
    #[error("this kernel has no kvm statistics (needs linux 5.14)")]
    Missing,
    /// The ioctl failed otherwise.
    #[error("cannot get kvm statistics")]
    Ioctl(#[source] io::Error),
    /// A read failed.
    #[error("cannot read kvm statistics")]
    Read(#[source] io::Error),
    /// The header or a descriptor made no sense.
    #[error("kvm statistics have a layout that is not understood: {0}")]
    Layout(&'static str),
}

/// The statistics of one vCPU or VM.
#[derive(Debug)]
pub struct StatsFd {
    file: File,
    data_offset: u64,
    data_bytes: usize,
    /// Name, and where its value lies in the data block.
    values: Vec<(String, usize)>,
}

/// Values at one moment, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Snapshot {
    /// Cumulative values, such as `exits`, `halt_exits`, `irq_exits`.
    pub values: BTreeMap<String, u64>,
}

/// The header's fields that are needed.
struct Header {
    name_bytes: usize,
    nr_descs: usize,
    desc_offset: u64,
    data_offset: u64,
}

impl StatsFd {
    /// Opens the statistics of a vCPU (or VM) given by its file.
    pub fn new(vcpu: &impl AsRawFd) -> Result<StatsFd, StatsError> {
        // SAFETY: the request has no argument and touches no memory of ours.
        let fd = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_STATS_FD, 0) };
        if fd < 0 {
            return Err(refused(io::Error::last_os_error()));
        }
        // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
        let file = unsafe { File::from_raw_fd(fd) };
        StatsFd::parse(file)
    }

    fn parse(file: File) -> Result<StatsFd, StatsError> {
        let mut head = [0; HEADER_BYTES];
        file.read_exact_at(&mut head, 0).map_err(StatsError::Read)?;
        let header = parse_header(&head)?;
        let mut table = vec![0; (DESC_BYTES + header.name_bytes) * header.nr_descs];
        file.read_exact_at(&mut table, header.desc_offset)
            .map_err(StatsError::Read)?;
        let (values, data_bytes) = parse_descs(&table, header.name_bytes)?;
        Ok(StatsFd {
            file,
            data_offset: header.data_offset,
            data_bytes,
            values,
        })
    }

    /// Reads all values.
    pub fn read(&self) -> Result<Snapshot, StatsError> {
        let mut data = vec![0; self.data_bytes];
        self.file
            .read_exact_at(&mut data, self.data_offset)
            .map_err(StatsError::Read)?;
        let value =
            |(name, offset): &(String, usize)| Some((name.clone(), u64_at(&data, *offset)?));
        Ok(Snapshot {
            values: self.values.iter().filter_map(value).collect(),
        })
    }
}

impl Snapshot {
    /// All exits.
    pub fn exits(&self) -> Option<u64> {
        self.values.get("exits").copied()
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        let before = |name: &String| earlier.values.get(name).copied().unwrap_or(0);
        let more =
            |(name, value): (&String, &u64)| (name.clone(), value.saturating_sub(before(name)));
        Snapshot {
            values: self.values.iter().map(more).collect(),
        }
    }
}

fn refused(error: io::Error) -> StatsError {
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOTTY) => StatsError::Missing,
        _ => StatsError::Ioctl(error),
    }
}

fn parse_header(head: &[u8]) -> Result<Header, StatsError> {
    // flags, name_size, num_desc, id_offset, desc_offset, data_offset.
    let field = |index: usize| u32_at(head, index * 4).ok_or(StatsError::Layout("short header"));
    let (name_bytes, nr_descs) = (field(1)?, field(2)?);
    if name_bytes > MAX_NAME_BYTES || nr_descs > MAX_DESCS {
        return Err(StatsError::Layout("too many descriptors"));
    }
    let to_usize = |value| usize::try_from(value).map_err(|_| StatsError::Layout("size"));
    Ok(Header {
        name_bytes: to_usize(name_bytes)?,
        nr_descs: to_usize(nr_descs)?,
        desc_offset: u64::from(field(4)?),
        data_offset: u64::from(field(5)?),
    })
}

/// Names with offsets of the cumulative scalars, and how much of the data block they need.
fn parse_descs(
    table: &[u8],
    name_bytes: usize,
) -> Result<(Vec<(String, usize)>, usize), StatsError> {
    let mut values = Vec::new();
    let mut data_bytes = 0;
    for desc in table.chunks_exact(DESC_BYTES + name_bytes) {
        // flags u32, exponent i16, size u16, offset u32, bucket_size u32, name.
        let fields = || {
            let nr_items = u16::from_le_bytes(desc.get(6..8)?.try_into().ok()?);
            Some((
                u32_at(desc, 0)?,
                nr_items,
                usize::try_from(u32_at(desc, 8)?).ok()?,
            ))
        };
        let (flags, nr_items, offset) = fields().ok_or(StatsError::Layout("descriptor"))?;
        if flags & TYPE_MASK != 0 || nr_items != 1 {
            continue;
        }
        let name = desc[DESC_BYTES..]
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        // A data block is a few KiB; an offset beyond 1 MiB is a broken descriptor.
        if offset > 1 << 20 {
            return Err(StatsError::Layout("value far away"));
        }
        data_bytes = data_bytes.max(offset + 8);
        values.push((name, offset));
    }
    Ok((values, data_bytes))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let end = offset.checked_add(4)?;
    Some(u32::from_le_bytes(bytes.get(offset..end)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let end = offset.checked_add(8)?;
    Some(u64::from_le_bytes(bytes.get(offset..end)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME_BYTES: usize = 48;

    fn desc(flags: u32, nr_items: u16, offset: u32, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(flags.to_le_bytes());
        bytes.extend([0, 0]);
        bytes.extend(nr_items.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(name.as_bytes());
        bytes.resize(DESC_BYTES + NAME_BYTES, 0);
        bytes
    }

    /// A file laid out as the kernel's.
    fn stats_file(descs: &[Vec<u8>], data: &[u64]) -> File {
        let table = descs.concat();
        let data_offset = 64 + table.len();
        let header = [0, NAME_BYTES, descs.len(), 24, 64, data_offset];
        let mut bytes: Vec<u8> = header
            .iter()
            .flat_map(|field| u32::try_from(*field).unwrap().to_le_bytes())
            .collect();
        bytes.resize(64, 0);
        bytes.extend(table);
        bytes.extend(data.iter().flat_map(|value| value.to_le_bytes()));
        let file = vmm_sys_util::tempfile::TempFile::new().unwrap().into_file();
        file.write_all_at(&bytes, 0).unwrap();
        file
    }

    #[test]
    fn scalars_are_read_by_name_and_histograms_left_out() {
        let descs = [
            desc(0, 1, 8, "exits"),
            desc(0x14, 2, 16, "halt_poll_success_hist"),
            desc(1, 1, 0, "guest_mode"),
            desc(0, 1, 32, "halt_exits"),
        ];
        let stats = StatsFd::parse(stats_file(&descs, &[1, 42, 7, 7, 9])).unwrap();
        let snapshot = stats.read().unwrap();
        assert_eq!(snapshot.exits(), Some(42));
        assert_eq!(snapshot.values["halt_exits"], 9);
        assert_eq!(snapshot.values.len(), 2);
    }

    #[test]
    fn only_a_kernel_that_does_not_know_them_is_called_too_old() {
        let old = refused(io::Error::from_raw_os_error(libc::EINVAL));
        assert!(matches!(old, StatsError::Missing), "{old}");
        let full = refused(io::Error::from_raw_os_error(libc::EMFILE));
        assert!(!full.to_string().contains("5.14"), "{full}");
    }

    #[test]
    fn a_difference_keeps_every_name() {
        let snapshot = |exits: u64| Snapshot {
            values: [("exits".into(), exits)].into(),
        };
        assert_eq!(snapshot(10).since(&snapshot(4)).exits(), Some(6));
        assert_eq!(snapshot(10).since(&Snapshot::default()).exits(), Some(10));
    }

    #[test]
    fn a_broken_layout_is_an_error() {
        let mut head = vec![0xff; HEADER_BYTES];
        assert!(matches!(parse_header(&head), Err(StatsError::Layout(_))));
        head.truncate(8);
        assert!(parse_header(&head).is_err());
        let far = desc(0, 1, u32::MAX, "exits");
        assert!(parse_descs(&far, NAME_BYTES).is_err());
    }
}
