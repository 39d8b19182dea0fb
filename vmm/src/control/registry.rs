//! Where running machines are found: a folder with a link to the control socket of each.
//!
//! A machine with `--control PATH` leaves a link `PID.sock` there and takes it away at its end;
//! `coopvirt top` looks there when it is given no socket. The folder is `/run/coopvirt` for root and
//! `$XDG_RUNTIME_DIR/coopvirt` for others, so both lie where nobody else can write. A machine of a user
//! without either is not found by itself, and works as well.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{symlink, DirBuilderExt};
use std::path::{Path, PathBuf};

const NAME: &str = "coopvirt";
const ENDING: &str = ".sock";
/// The folder is its owner's alone.
const MODE: u32 = 0o700;

/// The link of this process's machine; dropping it takes it away.
#[derive(Debug)]
pub struct Entry(PathBuf);

impl Entry {
    /// Makes the socket at `path` known. `None` where there is no folder for it.
    pub fn new(path: &Path) -> Option<Self> {
        Self::below(&folder()?, path).ok()
    }

    fn below(folder: &Path, path: &Path) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(MODE).create(folder)?;
        let link = folder.join(format!("{}{ENDING}", std::process::id()));
        // A process of this number is gone, or it would not be ours.
        let _ = fs::remove_file(&link);
        symlink(std::path::absolute(path)?, &link)?;
        Ok(Self(link))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The folder of this user.
pub fn folder() -> Option<PathBuf> {
    // sudo may keep the XDG_RUNTIME_DIR of somebody else.
    let runtime = match is_root() {
        true => Some(OsString::from("/run")),
        false => std::env::var_os("XDG_RUNTIME_DIR"),
    };
    let runtime = PathBuf::from(runtime.filter(|path| !path.is_empty())?);
    runtime.is_absolute().then(|| runtime.join(NAME))
}

/// The links in the folder, in the order of their process numbers. Some may be of machines that were
/// killed.
pub fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let listing = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing?,
    };
    let numbered = listing.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let pid: u32 = name.strip_suffix(ENDING)?.parse().ok()?;
        Some((pid, entry.path()))
    });
    let mut numbered: Vec<_> = numbered.collect();
    numbered.sort();
    Ok(numbered.into_iter().map(|(_, path)| path).collect())
}

/// A link as it was when its socket was asked, so that no other one is taken away in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    link: PathBuf,
    number: (u64, i64, i64),
}

impl Seen {
    /// The link now; `None` if it is none.
    pub fn new(link: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::symlink_metadata(link).ok()?;
        metadata.is_symlink().then(|| Self {
            link: link.to_owned(),
            number: (metadata.ino(), metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Takes the link away of a machine that was killed, if the socket said so: nobody listens on it, or
    /// it is gone too and its process with it.
    pub fn forget_if_dead(&self, answer: io::ErrorKind) {
        let is_dead = match answer {
            io::ErrorKind::ConnectionRefused => true,
            // It may be in a place that only other processes see.
            io::ErrorKind::NotFound => !self.is_process_there(),
            _ => false,
        };
        if is_dead && Self::new(&self.link).as_ref() == Some(self) {
            // Whoever may not remove it does without.
            let _ = fs::remove_file(&self.link);
        }
    }

    fn is_process_there(&self) -> bool {
        let pid = self.link.file_stem().unwrap_or_default();
        Path::new("/proc").join(pid).exists()
    }
}

fn is_root() -> bool {
    // The owner of what this process makes is its effective user.
    fs::metadata("/proc/self").is_ok_and(|metadata| {
        use std::os::unix::fs::MetadataExt;
        metadata.uid() == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::tempdir::TempDir;

    #[test]
    fn the_link_of_a_killed_machine_goes_and_no_other_one() {
        let folder = TempDir::new().unwrap();
        let link = |name: &str, to: &str| {
            let link = folder.as_path().join(name);
            symlink(to, &link).unwrap();
            (Seen::new(&link).unwrap(), link)
        };
        use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
        let own = format!("{}.sock", std::process::id());
        let (seen, path) = link(&own, "/nowhere");
        seen.forget_if_dead(PermissionDenied);
        // Its process is there, so the socket may be as well.
        seen.forget_if_dead(NotFound);
        assert!(path.is_symlink());
        // Replaced meanwhile.
        fs::remove_file(&path).unwrap();
        symlink("/other", &path).unwrap();
        seen.forget_if_dead(ConnectionRefused);
        assert!(path.is_symlink());
        Seen::new(&path).unwrap().forget_if_dead(ConnectionRefused);
        assert!(!path.is_symlink());
        // No process has such a number.
        let (seen, path) = link("4294967295.sock", "/nowhere");
        seen.forget_if_dead(NotFound);
        assert!(!path.is_symlink());
        // What is no link was left by nobody of ours.
        fs::write(folder.as_path().join("3.sock"), "").unwrap();
        assert_eq!(Seen::new(&folder.as_path().join("3.sock")), None);
    }

    #[test]
    fn an_entry_links_to_the_socket_and_goes_with_its_owner() {
        let temporary = TempDir::new().unwrap();
        let folder = temporary.as_path().join("coopvirt");
        assert!(entries(&folder).unwrap().is_empty());
        let socket = temporary.as_path().join("vm.sock");
        let entry = Entry::below(&folder, &socket).unwrap();
        for other in ["12.sock", "x.sock", "7.txt", "3.sock"] {
            fs::write(folder.join(other), "").unwrap();
        }
        let found = entries(&folder).unwrap();
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap()).collect();
        assert_eq!(names[..2], ["3.sock", "12.sock"]);
        assert_eq!(fs::read_link(found.last().unwrap()).unwrap(), socket);
        // A link that a killed process of the same number has left is replaced.
        let again = Entry::below(&folder, Path::new("/other.sock")).unwrap();
        assert_eq!(fs::read_link(&again.0).unwrap(), Path::new("/other.sock"));
        drop((entry, again));
        assert_eq!(entries(&folder).unwrap().len(), 2);
    }
}
