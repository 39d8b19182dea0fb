//! What the tests of this crate share: memory, golden files, seeded random numbers.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use coopvirt_spec::page::AreaLayout;

/// Zeroed words for an area of this layout.
pub(crate) fn area(layout: AreaLayout) -> Vec<AtomicU64> {
    words(layout.area_bytes() / 8)
}

/// Zeroed words.
pub(crate) fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// Little-endian bytes of words.
pub(crate) fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Words of little-endian bytes.
pub(crate) fn words_of(bytes: &[u8]) -> Vec<u64> {
    let word = |chunk: &[u8]| u64::from_le_bytes(chunk.try_into().expect("chunks of 8"));
    bytes.chunks_exact(8).map(word).collect()
}

/// A path inside this crate.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Whether generated files are to be written instead of compared.
pub(crate) fn is_blessing() -> bool {
    std::env::var_os("COOPVIRT_BLESS").is_some()
}

/// The released bytes of this name. A file that is missing is written if asked for; one that
/// exists never is.
pub(crate) fn golden(name: &str, fresh: &[u8]) -> Vec<u8> {
    let path = path("tests/golden").join(name);
    if !path.exists() && is_blessing() && !fresh.is_empty() {
        std::fs::write(&path, fresh).expect("cannot write a golden file");
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// A small generator of numbers that a seed decides (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number.
    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not zero.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }
}
