//! Files for guests, in a folder that goes away with its owner.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

const BLOCK_BYTES: usize = 4096;
const SECTOR_BYTES: usize = 512;

/// A folder of its own.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes a folder that nobody else uses.
    pub fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// The same where files are not in memory, even if temporary ones are.
    pub fn on_disk() -> Self {
        Self::below(Path::new("/var/tmp"))
    }

    fn below(parent: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("coopvirt-test-{}-{number}", std::process::id());
        let path = parent.join(name);
        fs::create_dir_all(&path).expect("the folder for temporary files can be written");
        Self(path)
    }

    /// The path of a file in it, which need not exist.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file with this content.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("the folder is there");
        path
    }

    /// A disk image that holds a file, filled up to whole sectors.
    pub fn disk_of(&self, name: &str, file: &Path) -> PathBuf {
        let mut bytes = fs::read(file).expect("a file that is there");
        bytes.resize(bytes.len().next_multiple_of(SECTOR_BYTES), 0);
        self.file(name, &bytes)
    }

    /// A disk image whose blocks begin with their numbers, as the reading works check them.
    pub fn disk(&self, name: &str, blocks: u64) -> PathBuf {
        let path = self.path(name);
        let mut file = File::create(&path).expect("the folder is there");
        let mut block = [0; BLOCK_BYTES];
        for number in 0..blocks {
            block[..8].copy_from_slice(&number.to_le_bytes());
            file.write_all(&block).expect("room for a small disk");
        }
        path
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Left-overs in a folder for temporary files are nobody's loss.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A block device whose blocks are an image. Needs root.
#[derive(Debug)]
pub struct LoopDevice(String);

impl LoopDevice {
    /// Makes one.
    pub fn over(image: &Path) -> Self {
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(image)
            .output()
            .expect("losetup can be run");
        assert!(output.status.success(), "losetup: {output:?}");
        Self(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Its path.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// Sets a file's permissions.
pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
}
