//! The socket that listens, and the runtime that serves it.

use std::io;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixSocket};
use tokio::runtime::{Builder, Runtime};

use crate::socket_file::{keep_private, make_way, PathTaken, SocketFile};

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
    // The first to be dropped.
    pub(super) file: SocketFile,
    pub(super) runtime: Runtime,
    pub(super) listener: UnixListener,
}

impl ControlSocket {
    /// Makes the socket. Clients can connect from now on, and are answered once there is a server.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let _claim = make_way(path).map_err(|why| taken(path, why))?;
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
        keep_private(&socket).map_err(failed)?;
        socket.bind(path).map_err(failed)?;
        let file = SocketFile::of(path).map_err(failed)?;
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

fn taken(path: &Path, why: PathTaken) -> SocketError {
    let path = path.to_owned();
    match why {
        PathTaken::InUse => SocketError::InUse { path },
        PathTaken::NotASocket => SocketError::NotASocket { path },
        PathTaken::Io(source) => SocketError::Make { path, source },
    }
}
