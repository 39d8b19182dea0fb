//! What a guest says about its memory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::chain::Segments;

/// A tag and a value (virtio 1.3, 5.5.6.3), packed.
const ENTRY_BYTES: usize = 10;
/// More than there are tags.
const MAX_ENTRIES: usize = 64;

/// Tags in their order, as Linux means them (`update_balloon_vm_stats`,
/// drivers/virtio/virtio_balloon.c).
const NAMES: [&str; 16] = [
    "swapped_in_bytes",
    "swapped_out_bytes",
    "major_faults",
    "minor_faults",
    "free_bytes",
    "total_bytes",
    "available_bytes",
    "disk_caches_bytes",
    "hugetlb_allocations",
    "hugetlb_failures",
    "oom_kills",
    "allocation_stalls",
    "async_scanned_bytes",
    "direct_scanned_bytes",
    "async_reclaimed_bytes",
    "direct_reclaimed_bytes",
];

/// What the guest said last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonStatistics {
    /// How long ago that was, in milliseconds.
    pub age_ms: u64,
    /// Its values by name. A guest says what it likes: nothing here is checked against anything.
    pub values: BTreeMap<String, u64>,
}

/// Reads statistics. Tags that are not known are left out; of one that comes twice the last counts.
pub(super) fn read(list: &mut Segments<'_>) -> BTreeMap<String, u64> {
    let mut bytes = [0; ENTRY_BYTES * MAX_ENTRIES];
    let len = list.read(&mut bytes);
    let (bytes, _) = bytes.split_at(len);
    let entry = |entry: &[u8]| {
        let [t0, t1, value @ ..] = entry else {
            return None;
        };
        let name = NAMES.get(usize::from(u16::from_le_bytes([*t0, *t1])))?;
        let value = u64::from_le_bytes(value.try_into().ok()?);
        Some(((*name).to_owned(), value))
    };
    bytes.chunks_exact(ENTRY_BYTES).filter_map(entry).collect()
}
