//! Temporary files of a comparison: a folder that goes away, and the generated disk image.
//!
//! Used by [`super::session`].

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// Size of the generated image.
const DISK_BYTES: u64 = 16 << 20;
const BLOCK_BYTES: usize = 4096;

/// A folder that is removed with this value.
#[derive(Debug)]
pub struct TempFolder(PathBuf);

impl TempFolder {
    /// Makes a new one.
    pub fn new() -> Result<TempFolder> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("coopvirt-compare.{}.{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match fs::create_dir(&path) {
                Ok(()) => return Ok(TempFolder(path)),
                // Left behind by a process that had our number and was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot create the folder {}", path.display()))
                }
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        // Nothing depends on its going away.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes an image whose 4 KiB block `k` starts with `k` as a little-endian u64, so that a guest
/// can check what it reads.
pub fn write_patterned(path: &Path) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        let mut block = [0u8; BLOCK_BYTES];
        for number in 0..DISK_BYTES / BLOCK_BYTES as u64 {
            block[..8].copy_from_slice(&number.to_le_bytes());
            file.write_all(&block)?;
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write the disk image {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_numbered_and_the_folder_goes_away() {
        let folder = TempFolder::new().unwrap();
        let path = folder.path().join("disk");
        write_patterned(&path).unwrap();
        let image = fs::read(&path).unwrap();
        assert_eq!(image.len(), 16 << 20);
        assert_eq!(image[4096 * 4095..][..8], 4095u64.to_le_bytes());
        assert_eq!(image[4096 * 4095 + 8..], [0; 4088]);
        let kept = folder.path().to_path_buf();
        drop(folder);
        assert!(!kept.exists());
    }
}
