//! Which machines are watched: those whose sockets are given, else all of this user's that are found.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::thread::Builder;

use crate::control::client::{self, ClientError};
use crate::control::registry::{self, Seen};
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

/// The machines of these sockets, each of which has to answer, or without any all that are found. All are
/// asked at once: however many do not answer, it takes as long as one of them.
pub fn find(sockets: &[PathBuf]) -> Result<Vec<Found>, FindError> {
    let mut asking = Asking::new();
    if sockets.is_empty() {
        asking.look(&[])?;
        return those_that_answer(asking.finish());
    }
    for path in sockets {
        asking.ask(path.clone(), None);
    }
    let mut answers = asking.finish();
    let place = |path: &Path| sockets.iter().position(|socket| socket == path);
    answers.sort_by_key(|(path, _)| place(path));
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Those that answer; if none does, why one does not that is there.
fn those_that_answer(
    mut asked: Vec<(PathBuf, Result<Found, FindError>)>,
) -> Result<Vec<Found>, FindError> {
    let number = |path: &Path| path.file_stem()?.to_str()?.parse::<u32>().ok();
    asked.sort_by_key(|(path, _)| number(path));
    let (mut found, mut silent) = (Vec::new(), Vec::new());
    for (_, answer) in asked {
        match answer {
            Ok(machine) => found.push(machine),
            Err(error) if !is_gone(&error) => silent.push(error),
            Err(_) => {}
        }
    }
    if found.is_empty() {
        return Err(silent.pop().unwrap_or(FindError::Nothing));
    }
    // Nobody shall take those that answer for all.
    silent
        .iter()
        .for_each(|error| complain!("coopvirt: a machine is left out: {error}"));
    Ok(found)
}

/// Whether a machine has been killed, or has just ended.
fn is_gone(error: &FindError) -> bool {
    matches!(error, FindError::Client(ClientError::Connect { .. }))
}

type Answer = (PathBuf, Result<Found, FindError>);

/// Machines that are being asked what they are, each on a thread of its own: one that stands still
/// holds up nobody.
pub(super) struct Asking {
    asked: BTreeSet<PathBuf>,
    sender: Sender<Answer>,
    answers: Receiver<Answer>,
}

impl Asking {
    pub(super) fn new() -> Self {
        let (sender, answers) = channel();
        Self {
            asked: BTreeSet::new(),
            sender,
            answers,
        }
    }

    /// Asks machines of this user's that are not among those known, nor being asked.
    pub(super) fn look(&mut self, known: &[PathBuf]) -> Result<(), FindError> {
        let folder = registry::folder().ok_or(FindError::NoFolder)?;
        let paths =
            registry::entries(&folder).map_err(|source| FindError::Folder { folder, source })?;
        paths
            .into_iter()
            .filter(|path| !known.contains(path))
            .for_each(|path| {
                let link = Seen::new(&path);
                self.ask(path, link);
            });
        Ok(())
    }

    /// `link`: to be taken away if its machine was killed.
    fn ask(&mut self, path: PathBuf, link: Option<Seen>) {
        if !self.asked.insert(path.clone()) {
            return;
        }
        let (sender, of_thread) = (self.sender.clone(), path.clone());
        let work = move || {
            let answer = ask(of_thread.clone(), link.as_ref());
            // Nobody may want it any more.
            let _ = sender.send((of_thread, answer));
        };
        // Without another thread this one waits.
        if Builder::new().name("ask".into()).spawn(work).is_err() {
            let answer = ask(path.clone(), None);
            let _ = self.sender.send((path, answer));
        }
    }

    /// Those that have answered. What has not is asked again the next time.
    pub(super) fn found(&mut self) -> Vec<Found> {
        let answers: Vec<Answer> = self.answers.try_iter().collect();
        answers.iter().for_each(|(path, _)| {
            self.asked.remove(path);
        });
        let found = answers.into_iter().filter_map(|(_, answer)| answer.ok());
        found.collect()
    }

    /// Waits for all answers.
    fn finish(self) -> Vec<Answer> {
        // Each asked thread has a sender until it has answered.
        drop(self.sender);
        self.answers.iter().collect()
    }
}

fn ask(path: PathBuf, link: Option<&Seen>) -> Result<Found, FindError> {
    let answer = client::request(&path, "GET", "/state", String::new());
    if let (Err(ClientError::Connect { source, .. }), Some(link)) = (&answer, link) {
        link.forget_if_dead(source.kind());
    }
    match serde_json::from_str(&answer?) {
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
        let silent = || {
            let silent = ClientError::Silent { path: path() };
            (path(), Err(FindError::Client(silent)))
        };
        let killed = || {
            let source = io::ErrorKind::ConnectionRefused.into();
            let killed = ClientError::Connect {
                path: path(),
                source,
            };
            (path(), Err(FindError::Client(killed)))
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
        let found = those_that_answer(vec![silent(), (path(), Ok(alive)), killed()]).unwrap();
        assert_eq!(found.len(), 1);
    }
}
