//! The file of a UNIX socket: made for its owner alone, taken over from a dead VMM, removed at the end.
//!
//! For the control socket and for a socket device's.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Who may connect: the owner.
const MODE: u32 = 0o600;

/// Why a socket cannot have this path.
#[derive(Debug)]
pub(crate) enum PathTaken {
    /// Somebody listens there.
    InUse,
    /// There is a file that is no socket.
    NotASocket,
    /// It cannot be found out, or what is there cannot be removed.
    Io(io::Error),
}

/// The file that was made; dropping it removes it.
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

/// Removes what a VMM has left there that was killed, and nothing else.
pub(crate) fn make_way(path: &Path) -> Result<(), PathTaken> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(PathTaken::NotASocket);
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) => return Err(PathTaken::Io(error)),
        Ok(_) => return Err(PathTaken::InUse),
    }
    fs::remove_file(path).map_err(PathTaken::Io)?;
    complain!("coopvirt: {path:?} was left by a machine that is gone; it is replaced");
    Ok(())
}

/// Lets the owner alone connect to a socket that has no name yet: its file then never has more
/// permissions than these.
pub(crate) fn keep_private(socket: &impl AsFd) -> io::Result<()> {
    let descriptor = socket.as_fd().try_clone_to_owned()?;
    File::from(descriptor).set_permissions(Permissions::from_mode(MODE))
}

impl SocketFile {
    /// The file of a socket that was just bound to this path.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            inode: (metadata.dev(), metadata.ino()),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody else's by now, perhaps.
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode);
        if is_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}
