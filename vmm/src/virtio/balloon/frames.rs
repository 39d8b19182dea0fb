//! Page frames that a guest puts into the balloon: read once, checked, merged, given back.
//!
//! Called for each chain of the queue for inflating, on the I/O thread. A frame may be anywhere, come
//! twice or not exist; its number is all that a guest can say, so it cannot be unaligned.

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::super::chain::Segments;
use super::super::sys;

/// Frames taken from one chain, and the most before another queue has its turn. Linux sends up to 256
/// in a chain, Windows 1024. What is more in one chain stays the guest's memory.
pub(super) const MAX_FRAMES: usize = 4096;

const NUMBER_BYTES: usize = 4;
/// Whatever the guest's own page size (virtio 1.3, 5.5.6).
const FRAME_SHIFT: u32 = 12;
const FRAME_BYTES: usize = 1 << FRAME_SHIFT;

/// What became of some frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Released {
    pub(super) bytes: u64,
    /// Frames that are no memory, or that the kernel did not take.
    pub(super) refused: u64,
}

/// Reads frame numbers. Bytes behind the last whole one mean nothing.
pub(super) fn read(list: &mut Segments<'_>) -> Vec<u32> {
    let most = (MAX_FRAMES * NUMBER_BYTES) as u64;
    let len = usize::try_from(list.len_bytes().min(most)).unwrap_or(0);
    let mut bytes = vec![0; len];
    let len = list.read(&mut bytes);
    let (numbers, _) = bytes.split_at(len);
    let number = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes);
    numbers
        .chunks_exact(NUMBER_BYTES)
        .filter_map(|bytes| number(bytes).ok())
        .collect()
}

/// Gives these frames back to the host's kernel, neighbours together.
pub(super) fn release(mut frames: Vec<u32>, ram: &GuestMemoryMmap<()>) -> Released {
    frames.sort_unstable();
    frames.dedup();
    let nr_frames = frames.len() as u64;
    frames.retain(|frame| ram.get_slice(address(*frame), FRAME_BYTES).is_ok());
    let runs = frames.chunk_by(|one, next| one.checked_add(1) == Some(*next));
    let bytes = runs.map(|run| release_run(run, ram)).sum::<u64>();
    Released {
        bytes,
        refused: nr_frames - (bytes >> FRAME_SHIFT).min(nr_frames),
    }
}

/// Each frame of the run is memory; RAM has a hole, which no run of such frames can cross.
fn release_run(run: &[u32], ram: &GuestMemoryMmap<()>) -> u64 {
    let Some(first) = run.first() else {
        return 0;
    };
    ram.get_slice(address(*first), run.len() * FRAME_BYTES)
        // What the kernel does not take stays as it is, and is counted.
        .map_or(0, |slice| sys::discard(&slice.into(), ram).unwrap_or(0))
}

fn address(frame: u32) -> GuestAddress {
    GuestAddress(u64::from(frame) << FRAME_SHIFT)
}
