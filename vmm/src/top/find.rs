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
    those_that_answer(ask_registered(&[])?)
}

/// Those that answer; if none does, why one does not that is there.
fn those_that_answer(asked: Vec<Result<Found, FindError>>) -> Result<Vec<Found>, FindError> {
    let (mut found, mut trouble) = (Vec::new(), FindError::Nothing);
    for answer in asked {
        match answer {
            Ok(machine) => found.push(machine),
            Err(error) if !is_gone(&error) => trouble = error,
            Err(_) => {}
        }
    }
    if found.is_empty() {
        return Err(trouble);
    }
    Ok(found)
}

/// Whether a machine has been killed, or has just ended.
fn is_gone(error: &FindError) -> bool {
    matches!(error, FindError::Client(ClientError::Connect { .. }))
}

/// Machines of this user's that are not among those known.
pub(super) fn registered(known: &[PathBuf]) -> Result<Vec<Found>, FindError> {
    // What does not answer now is asked again the next time.
    Ok(ask_registered(known)?.into_iter().flatten().collect())
}

fn ask_registered(known: &[PathBuf]) -> Result<Vec<Result<Found, FindError>>, FindError> {
    let folder = registry::folder().ok_or(FindError::NoFolder)?;
    let paths =
        registry::entries(&folder).map_err(|source| FindError::Folder { folder, source })?;
    let new = paths.into_iter().filter(|path| !known.contains(path));
    Ok(new.map(ask).collect())
}

fn ask(path: PathBuf) -> Result<Found, FindError> {
    let answer = client::request(&path, "GET", "/state", String::new())?;
    match serde_json::from_str(&answer) {
        Ok(state) => Ok(Found { path, state }),
        Err(source) => Err(FindError::NotUnderstood { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::machine::RunState;

    #[test]
    fn a_machine_that_is_there_but_stands_still_is_not_taken_for_none() {
        let path = || PathBuf::from("7.sock");
        let silent = || Err(FindError::Client(ClientError::Silent { path: path() }));
        let killed = || {
            let source = io::ErrorKind::ConnectionRefused.into();
            Err(FindError::Client(ClientError::Connect {
                path: path(),
                source,
            }))
        };
        let alive = Found {
            path: path(),
            state: State {
                state: RunState::Running,
                mode: "kvm".into(),
                vcpus: 1,
                memory_bytes: 1 << 29,
                pid: 7,
                version: "0".into(),
            },
        };
        let error = |asked| those_that_answer(asked).unwrap_err().to_string();
        assert!(error(vec![killed()]).contains("no machine of yours"));
        assert!(error(vec![silent(), killed()]).contains("did not answer within"));
        let found = those_that_answer(vec![silent(), Ok(alive), killed()]).unwrap();
        assert_eq!(found.len(), 1);
    }
}
