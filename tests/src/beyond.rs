//! A server beyond this host: what a guest reaches only if its packets are forwarded and translated.
//!
//! It sits in a network namespace behind a pair of interfaces and knows nothing but the network of that pair: what
//! comes from a guest's own address it cannot answer. It serves a folder by HTTP (busybox), in which a small Debian
//! package lies as `apt` wants it. Needs root, as the lab has it.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::files::Folder;

const NAMESPACE: &str = "cvbeyond";
/// The ends of the pair: the host's, and the server's.
const ENDS: [&str; 2] = ["cvnear", "cvfar"];
/// Addresses for documentation (RFC 5737): nobody's.
const HOST: &str = "198.51.100.1";
const SERVER: &str = "198.51.100.2";
const STARTS: Duration = Duration::from_secs(60);

/// The package, and the one file in it.
pub const PACKAGE: &str = "coopvirt-beyond";
/// Where `apt` puts that file.
pub const INSTALLED: &str = "/usr/share/coopvirt-beyond/word";
/// Its content.
pub const WORD: &str = "from beyond the tap";

/// The server, with its network and its folder; all goes away with it.
#[derive(Debug)]
pub struct Beyond {
    server: Option<Child>,
    folder: Folder,
}

impl Beyond {
    /// Makes the network and the package and starts the server.
    pub fn start() -> Self {
        let folder = Folder::new();
        make_repository(&folder);
        let mut beyond = Self {
            server: None,
            folder,
        };
        let [near, far] = ENDS;
        for words in [
            format!("netns add {NAMESPACE}"),
            format!("link add {near} type veth peer name {far} netns {NAMESPACE}"),
            format!("addr add {HOST}/24 dev {near}"),
            format!("link set {near} up"),
            format!("-n {NAMESPACE} addr add {SERVER}/24 dev {far}"),
            format!("-n {NAMESPACE} link set {far} up"),
        ] {
            run("ip", &words.split(' ').collect::<Vec<_>>());
        }
        let log = File::create(beyond.folder.path("log")).expect("our own folder");
        let server = Command::new("ip")
            .args(["netns", "exec", NAMESPACE, "busybox", "httpd", "-f", "-vv"])
            .args(["-p", &format!("{SERVER}:80"), "-h"])
            .arg(beyond.folder.path("www"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        beyond.server = Some(server.expect("busybox is installed: scripts/setup"));
        beyond.wait();
        beyond
    }

    /// The repository, as a line of `sources.list`. It is signed by nobody.
    pub fn source(&self) -> String {
        format!("deb [trusted=yes] http://{SERVER}/ ./")
    }

    /// From which addresses the server was asked, and for what: a line each.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path("log")).expect("our own file")
    }

    /// The address that this host has there.
    pub fn host(&self) -> &str {
        HOST
    }

    /// Waits until somebody listens.
    fn wait(&self) {
        let until = Instant::now() + STARTS;
        while std::net::TcpStream::connect((SERVER, 80)).is_err() {
            assert!(Instant::now() < until, "no server: {}", self.log());
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            // It may have ended by itself.
            let _ = server.kill();
            let _ = server.wait();
        }
        // The pair goes with the namespace, once no process is in it.
        let _ = Command::new("ip")
            .args(["netns", "del", NAMESPACE])
            .status();
        let _ = Command::new("ip").args(["link", "del", ENDS[0]]).output();
    }
}

/// A package with one file, and the index in which `apt` finds it.
fn make_repository(folder: &Folder) {
    let (www, tree) = (folder.path("www"), folder.path("tree"));
    let file = tree.join(INSTALLED.trim_start_matches('/'));
    for dir in [&www, &tree.join("DEBIAN"), &file.with_file_name("")] {
        fs::create_dir_all(dir).expect("our own folder");
    }
    let control = format!(
        "Package: {PACKAGE}\nVersion: 1\nArchitecture: all\nMaintainer: Coopvirt <nobody@localhost>\n\
         Description: one file, to see that it arrives\n"
    );
    fs::write(tree.join("DEBIAN/control"), &control).expect("our own folder");
    fs::write(&file, WORD).expect("our own folder");
    let name = format!("{PACKAGE}_1_all.deb");
    let package = www.join(&name);
    let [from, to] = [&tree, &package].map(|path| path.display().to_string());
    run("dpkg-deb", &["--root-owner-group", "--build", &from, &to]);
    let sum = run("sha256sum", &[&to]);
    let sum = sum.split(' ').next().expect("a sum");
    let bytes = fs::metadata(&package).expect("it has been built").len();
    let index = format!("{control}Filename: ./{name}\nSize: {bytes}\nSHA256: {sum}\n");
    fs::write(www.join("Packages"), index).expect("our own folder");
}

/// Runs it to its end and returns what it says.
#[track_caller]
fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{program} cannot be run: {error}"));
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
