//! The file of `--exits`: opened before there is a machine, changed when it is sure to run.
//!
//! What an earlier run has left there is worth more than nothing, so it stays if this one does not come to
//! be; and then there is no file either where there was none.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A report that is to be written.
pub(super) struct ReportFile {
    file: File,
    /// The file's path, if this made it and nobody needs it yet.
    new: Option<PathBuf>,
}

impl ReportFile {
    /// Opens the file, or makes it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        options.write(true);
        match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Self {
                // A link to a file that is not there exists too.
                file: options.create(true).truncate(false).open(path)?,
                new: None,
            }),
            made => Ok(Self {
                file: made?,
                new: Some(path.to_owned()),
            }),
        }
    }

    /// Takes out what is in it: from here on there is a new report to be had, and nobody must take the
    /// old one for it.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        self.new = None;
        // A pipe, say, has nothing in it.
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        Ok(())
    }

    /// Where to write it.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for ReportFile {
    fn drop(&mut self) {
        let Some(path) = &self.new else { return };
        // Somebody may have put another one there.
        let number = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let there = fs::symlink_metadata(path).map(number).ok();
        if there.is_some() && there == self.file.metadata().map(number).ok() {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    #[test]
    fn a_start_that_fails_leaves_the_folder_as_it_was() {
        let folder = TempDir::new().unwrap();
        let (old, new) = (folder.as_path().join("old"), folder.as_path().join("new"));
        fs::write(&old, "figures").unwrap();
        drop(ReportFile::open(&old).unwrap());
        assert_eq!(fs::read(&old).unwrap(), b"figures");
        drop(ReportFile::open(&new).unwrap());
        assert!(!new.exists());
    }

    #[test]
    fn a_machine_that_runs_has_an_empty_report_to_write() {
        let folder = TempDir::new().unwrap();
        let (old, new) = (folder.as_path().join("old"), folder.as_path().join("new"));
        fs::write(&old, "figures").unwrap();
        for path in [old, new] {
            ReportFile::open(&path).unwrap().begin().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"");
        }
    }
}
