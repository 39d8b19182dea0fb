//! What the integration tests share: runs that must be refused, and places for their files.

pub(crate) mod kernels;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder of its own for one test; what an earlier run left there is gone.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes the folder; `name` must be the test's own.
    pub(crate) fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("target/tmp can be written");
        Self(path)
    }

    /// A file with this content.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.0.join(name);
        fs::write(&path, content).expect("target/tmp can be written");
        path.into_os_string().into_string().expect("a UTF-8 path")
    }

    /// A file of this size that takes no space.
    pub(crate) fn sparse(&self, name: &str, bytes: u64) -> String {
        let path = self.file(name, b"");
        let file = File::options().write(true).open(&path).expect("just made");
        file.set_len(bytes).expect("a sparse file takes no space");
        path
    }

    /// The path of a file that is not there.
    pub(crate) fn missing(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left over is removed by the next run.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `coopvirt` with these arguments, which it has to refuse: nothing on standard output, one
/// line on standard error, status 1 (or 2: wrong arguments). Returns that line.
pub(crate) fn refused(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coopvirt"));
    let output = command.args(arguments).output();
    check_refusal(arguments, &output.expect("coopvirt has been built"))
}

/// As [`refused`], and the status is that of wrong arguments.
pub(crate) fn refused_as_wrong(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coopvirt"));
    let output = command.args(arguments).output();
    let output = output.expect("coopvirt has been built");
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    check_refusal(arguments, &output)
}

/// As [`refused`], for a user without any privilege: root's rights to all files are given up.
pub(crate) fn refused_without_privilege(arguments: &[&str]) -> String {
    if !is_root() {
        return refused(arguments);
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]);
    command.arg(env!("CARGO_BIN_EXE_coopvirt"));
    let output = command.args(arguments).output();
    check_refusal(arguments, &output.expect("setpriv (util-linux) is there"))
}

/// Whether files without any permission are open to this process all the same.
fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
}

fn check_refusal(arguments: &[&str], output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let status = output.status;
    assert!(
        matches!(status.code(), Some(1 | 2)),
        "{arguments:?} ended with {status}: {stderr}"
    );
    assert!(output.stdout.is_empty(), "{arguments:?} wrote to stdout");
    let lines: Vec<&str> = stderr.lines().collect();
    let [line] = lines[..] else {
        panic!("{arguments:?}: one line expected, found:\n{stderr}");
    };
    assert!(line.starts_with("coopvirt: "), "{line}");
    line.to_owned()
}

/// Checks that a message names all of these.
pub(crate) fn assert_names(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
}
