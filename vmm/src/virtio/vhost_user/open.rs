//! Finding a back end for the first time, and what can be wrong with it.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::connection::{Connection, ConnectionError};
use super::keeper::Search;

/// A script starts the back end just before: it may not listen yet.
const STARTING: Duration = Duration::from_secs(5);

/// Why a device of a back end cannot be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum VhostUserError {
    #[error(
        "no vhost-user back end listens at {0}; start it first ({hint})",
        hint = "coopvirt run --help shows how"
    )]
    Missing(PathBuf),
    #[error("no permission to connect to the vhost-user back end at {0}; check the socket's")]
    Permission(PathBuf),
    #[error("the vhost-user back end at {path} cannot be used")]
    Unusable {
        path: PathBuf,
        source: ConnectionError,
    },
    #[error("could not {what} for the vhost-user back end at {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("guest memory is private to this process: no back end can reach it")]
    PrivateMemory,
}

/// Connects to a back end that is there, or will be soon.
pub(super) fn find(search: &Search) -> Result<Connection, VhostUserError> {
    connect(search, STARTING).map_err(|error| refused(&search.path, error))
}

fn refused(path: &Path, source: ConnectionError) -> VhostUserError {
    let path = path.to_owned();
    match &source {
        ConnectionError::Connect(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                VhostUserError::Missing(path)
            }
            io::ErrorKind::PermissionDenied => VhostUserError::Permission(path),
            _ => VhostUserError::Unusable { path, source },
        },
        _ => VhostUserError::Unusable { path, source },
    }
}

/// Waits a little for a back end that is just starting.
fn connect(search: &Search, patience: Duration) -> Result<Connection, ConnectionError> {
    let until = Instant::now() + patience;
    let path: &Path = &search.path;
    loop {
        match Connection::open(path, &search.needs) {
            Err(ConnectionError::Connect(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) && Instant::now() < until =>
            {
                thread::sleep(Duration::from_millis(100));
            }
            result => return result,
        }
    }
}
