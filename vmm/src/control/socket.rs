//! The socket's file: made for its owner alone, taken over from a dead VMM, removed at the end.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixSocket};
use tokio::runtime::{Builder, Runtime};

/// Who may connect: the owner.
const MODE: u32 = 0o600;
/// Clients that wait to be accepted.
const BACKLOG: u32 = 16;
/// Requests that are being answered at the same time: one may wait for vCPUs.
const MAX_BLOCKING_THREADS: usize = 4;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SocketError {
    #[error("{path:?} is in use by a running machine; give another path to --control")]
    InUse { path: PathBuf },
    #[error("{path:?} exists and is no socket; give another path to --control")]
    NotASocket { path: PathBuf },
    #[error("could not make the control socket {path:?}; check the path given to --control")]
    Make { path: PathBuf, source: io::Error },
    #[error("could not start the control socket's thread")]
    Thread(#[source] io::Error),
}

/// A socket that listens; dropping it removes its file.
pub struct ControlSocket {
    pub(super) runtime: Runtime,
    pub(super) listener: UnixListener,
    pub(super) file: SocketFile,
}

/// The file that was made.
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl ControlSocket {
    /// Makes the socket. Clients can connect from now on, and are answered once there is a server.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        make_way(path)?;
        let failed = |source| SocketError::Make {
            path: path.to_owned(),
            source,
        };
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(MAX_BLOCKING_THREADS)
            .thread_name("control-work")
            .build()
            .map_err(SocketError::Thread)?;
        let socket = UnixSocket::new_stream().map_err(failed)?;
        // Before it has a name: the file then never has more permissions than these.
        let descriptor = socket.as_fd().try_clone_to_owned().map_err(failed)?;
        File::from(descriptor)
            .set_permissions(Permissions::from_mode(MODE))
            .map_err(failed)?;
        socket.bind(path).map_err(failed)?;
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        let file = SocketFile {
            path: path.to_owned(),
            inode: (metadata.dev(), metadata.ino()),
        };
        let listener = {
            let _inside = runtime.enter();
            socket.listen(BACKLOG).map_err(failed)?
        };
        Ok(Self {
            runtime,
            listener,
            file,
        })
    }
}

/// Removes what a VMM has left there that was killed, and nothing else.
fn make_way(path: &Path) -> Result<(), SocketError> {
    let path_buf = || path.to_owned();
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket { path: path_buf() });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(source) => {
            return Err(SocketError::Make {
                path: path_buf(),
                source,
            })
        }
        Ok(_) => return Err(SocketError::InUse { path: path_buf() }),
    }
    fs::remove_file(path).map_err(|source| SocketError::Make {
        path: path_buf(),
        source,
    })?;
    eprintln!("coopvirt: {path:?} was left by a machine that is gone; it is replaced");
    Ok(())
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
