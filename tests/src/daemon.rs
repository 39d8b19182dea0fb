//! Processes of Debian's qemu-system-common that serve a guest's disk or folder on a socket.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Emulated, a daemon takes seconds to start.
const STARTS: Duration = Duration::from_secs(60);

/// A back end that listens. It never outlives its test.
#[derive(Debug)]
pub struct Daemon(Child);

impl Daemon {
    /// A raw image with two queues.
    pub fn raw(socket: &Path, image: &Path) -> Self {
        Self::disk(socket, image, &[], "node-name=file")
    }

    /// A qcow2 image with two queues. Its tables are written with the data: the next daemon has to find
    /// them if this one is killed.
    pub fn qcow2(socket: &Path, image: &Path) -> Self {
        let format = "driver=qcow2,node-name=format,file=file";
        Self::disk(socket, image, &[format], "node-name=format,writethrough=on")
    }

    /// A raw image that cannot be flushed.
    pub fn without_flush(socket: &Path, image: &Path) -> Self {
        let fault = "driver=blkdebug,node-name=fault,image=file,inject-error.0.event=none,\
                     inject-error.0.iotype=flush";
        Self::disk(socket, image, &[fault], "node-name=fault")
    }

    /// An image with what lies above it; `node` names the top.
    fn disk(socket: &Path, image: &Path, above: &[&str], node: &str) -> Self {
        let mut command = Command::new("qemu-storage-daemon");
        let file = format!("driver=file,node-name=file,filename={}", image.display());
        for layer in [file.as_str()].iter().chain(above) {
            command.args(["--blockdev", layer]);
        }
        let export = format!(
            "type=vhost-user-blk,id=export,{node},writable=on,num-queues=2,addr.type=unix,addr.path={}",
            socket.display()
        );
        Self::start(command.args(["--export", &export]), socket)
    }

    /// A folder, for one guest.
    pub fn folder(socket: &Path, source: &Path) -> Self {
        let mut command = Command::new("/usr/lib/qemu/virtiofsd");
        command
            .arg(format!("--socket-path={}", socket.display()))
            .args(["-o", &format!("source={},log_level=err", source.display())]);
        Self::start(&mut command, socket)
    }

    fn start(command: &mut Command, socket: &Path) -> Self {
        // What a killed one has left must not be taken for the new one's.
        let _ = fs::remove_file(socket);
        command.stdin(Stdio::null());
        let mut child = command.spawn().expect("qemu-system-common is installed");
        let until = Instant::now() + STARTS;
        while !socket.exists() {
            let ended = child.try_wait().expect("our own child");
            assert!(ended.is_none(), "{command:?} has ended: {ended:?}");
            assert!(Instant::now() < until, "{command:?} does not listen");
            thread::sleep(Duration::from_millis(50));
        }
        Self(child)
    }

    /// Ends it as a crash would.
    pub fn kill(mut self) {
        self.0.kill().expect("our own child");
        self.0.wait().expect("our own child");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
