//! Which machines are watched: those whose sockets are given, else all of this user's that are found.

use std::path::PathBuf;

use crate::control::client::{self, ClientError};
use crate::control::registry;
use crate::control::State;

/// Why there is nothing to watch.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum FindError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the answer of {path:?} is not understood; is it of another version?")]
    NotUnderstood {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(
        "no machine of yours with a control socket is running; start one with `coopvirt run --control \
         PATH`, or name the sockets of others"
    )]
    Nothing,
    #[error(
        "there is no folder in which machines could be found (XDG_RUNTIME_DIR is not set); name their \
         control sockets"
    )]
    NoFolder,
    #[error("could not look for machines in {folder:?}; name their control sockets")]
    Folder {
        folder: PathBuf,
        source: std::io::Error,
    },
}

/// A machine that answers.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its socket.
    pub path: PathBuf,
    /// What it is.
    pub state: State,
}

/// The machines of these sockets, each of which has to answer, or without any all that are found.
pub fn find(sockets: &[PathBuf]) -> Result<Vec<Found>, FindError> {
    if !sockets.is_empty() {
        return sockets.iter().map(|path| ask(path.clone())).collect();
    }
    let found = registered(&[])?;
    if found.is_empty() {
        return Err(FindError::Nothing);
    }
    Ok(found)
}

/// Machines of this user's that are not among those known.
pub(super) fn registered(known: &[PathBuf]) -> Result<Vec<Found>, FindError> {
    let folder = registry::folder().ok_or(FindError::NoFolder)?;
    let paths =
        registry::entries(&folder).map_err(|source| FindError::Folder { folder, source })?;
    let new = paths.into_iter().filter(|path| !known.contains(path));
    // What does not answer has been killed, or is about to end.
    Ok(new.filter_map(|path| ask(path).ok()).collect())
}

fn ask(path: PathBuf) -> Result<Found, FindError> {
    let answer = client::request(&path, "GET", "/state", String::new())?;
    match serde_json::from_str(&answer) {
        Ok(state) => Ok(Found { path, state }),
        Err(source) => Err(FindError::NotUnderstood { path, source }),
    }
}
