//! The file of a UNIX socket: made for its owner alone, taken over from a dead VMM, removed at the end.
//!
//! For the control socket and for a socket device's. VMMs that start at the same time on one path take
//! turns by a lock on its folder, or two of them could find the same dead socket, and the second one remove
//! what the first has just made.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;
use rustix::net::{connect, socket_with, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Others have the lock for as long as it takes to make a socket.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
const LOCK_AGAIN: Duration = Duration::from_millis(5);

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

/// The file that was made; dropping it removes it. To be dropped before the socket is closed: after that
/// somebody else may have taken the path, and the file's number too.
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

/// The right to make sockets in a folder, as long as this lives.
#[derive(Debug)]
pub(crate) struct Claim {
    _locked: Option<File>,
}

impl Claim {
    fn new(path: &Path) -> io::Result<Self> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // Who may make files in a folder but not list it, and on file systems without such locks, has
        // to do without.
        let Ok(folder) = File::open(folder) else {
            return Ok(Self { _locked: None });
        };
        let started = Instant::now();
        loop {
            match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if started.elapsed() < LOCK_LIMIT => sleep(LOCK_AGAIN),
                Err(Errno::WOULDBLOCK) => {
                    let what = "somebody else keeps its folder locked (flock)";
                    return Err(io::Error::new(io::ErrorKind::WouldBlock, what));
                }
                Err(_) => return Ok(Self { _locked: None }),
            }
        }
        Ok(Self {
            _locked: Some(folder),
        })
    }
}

/// Removes what a VMM has left there that was killed, and nothing else. The claim is to be kept until
/// somebody listens on the new socket: before, others take it for one that was left.
pub(crate) fn make_way(path: &Path) -> Result<Claim, PathTaken> {
    let claim = Claim::new(path).map_err(PathTaken::Io)?;
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(claim);
    };
    if !metadata.file_type().is_socket() {
        return Err(PathTaken::NotASocket);
    }
    match try_connect(path) {
        Err(Errno::CONNREFUSED) => {}
        // Whoever listens has not answered for so long that no more can wait there.
        Ok(_) | Err(Errno::AGAIN) => return Err(PathTaken::InUse),
        Err(error) => return Err(PathTaken::Io(error.into())),
    }
    fs::remove_file(path).map_err(PathTaken::Io)?;
    complain!("coopvirt: {path:?} was left by a machine that is gone; it is replaced");
    Ok(claim)
}

/// Connects without waiting: others wait for the folder's lock meanwhile.
fn try_connect(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
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
        // Somebody else's by now, perhaps. While the socket is open, nobody else's file has its number.
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode);
        if is_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::Barrier;
    use std::thread;

    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    fn own(path: &Path) -> Result<(SocketFile, UnixListener), PathTaken> {
        let _claim = make_way(path)?;
        let listener = UnixListener::bind(path).map_err(PathTaken::Io)?;
        Ok((SocketFile::of(path).map_err(PathTaken::Io)?, listener))
    }

    #[test]
    fn of_two_that_find_the_same_dead_socket_one_gets_its_path() {
        let folder = TempDir::new().unwrap();
        let path = folder.as_path().join("vm.sock");
        for _ in 0..200 {
            drop(UnixListener::bind(&path).unwrap());
            let start = Barrier::new(4);
            let owned = thread::scope(|scope| {
                let claim = || {
                    start.wait();
                    own(&path)
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(claim)).collect();
                let each = threads.into_iter().map(|thread| thread.join().unwrap());
                // All of them kept, so that nobody's end makes room for another one.
                each.collect::<Vec<_>>()
            });
            assert_eq!(owned.iter().filter(|own| own.is_ok()).count(), 1);
            let refused = owned.iter().filter_map(|own| own.as_ref().err());
            refused.for_each(|why| assert!(matches!(why, PathTaken::InUse), "{why:?}"));
            assert!(UnixStream::connect(&path).is_ok());
            drop(owned);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_machine_that_has_stopped_answering_still_has_its_socket() {
        let folder = TempDir::new().unwrap();
        let path = folder.as_path().join("vm.sock");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let waiting = std::iter::repeat_with(|| try_connect(&path));
        let _waiting: Vec<_> = waiting.take_while(Result::is_ok).collect();
        let why = make_way(&path).map(drop).unwrap_err();
        assert!(matches!(why, PathTaken::InUse), "{why:?}");
    }

    #[test]
    fn a_folder_that_somebody_keeps_locked_is_an_error_and_a_name_alone_is_a_path() {
        let folder = TempDir::new().unwrap();
        let _kept = Claim::new(&folder.as_path().join("a.sock")).unwrap();
        let error = Claim::new(&folder.as_path().join("b.sock")).unwrap_err();
        assert!(error.to_string().contains("folder locked"), "{error}");
        assert!(Claim::new(Path::new("c.sock")).unwrap()._locked.is_some());
    }
}
