//! A whole Debian as a guest: systemd, network and ssh, a file carried over and summed there, an orderly end, and a
//! file system in which `e2fsck` finds nothing. In `kvm` and, with the guest's module loaded, in `coop`; and behind
//! a NAT, with a package that `apt` fetches from a server beyond this host.
//!
//! Needs root, as the lab has it, and the disk of `scripts/guest-image`; takes minutes where hardware is emulated.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use coopvirt_tests::beyond::{self, Beyond};
use coopvirt_tests::files::{set_mode, Folder};
use coopvirt_tests::lab::{self, Lab, MODULE_KERNEL};
use coopvirt_tests::{tap, Guest, Running};

const TAP: &str = "cvdebian";
const ADDRESS: &str = "192.168.77.2";
/// Longest life of a guest: it boots in seconds on hardware, in minutes where that is emulated.
const LIMIT: Duration = Duration::from_secs(1500);
/// From the first instruction to the first command by ssh.
const LOGIN_LIMIT: Duration = Duration::from_secs(900);
/// Bytes of the file that is carried over.
const FILE_BYTES: usize = 4 << 20;

/// The host's end of the guest's network.
struct Tap;

impl Tap {
    fn up(words: &[&str]) -> Self {
        let output = tap::script(&[&["up", TAP], words].concat());
        assert!(output.status.success(), "{output:?}");
        Self
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        tap::script(&["down", TAP]);
    }
}

/// A copy of the disk, with what ssh needs.
struct Disk {
    folder: Folder,
}

impl Disk {
    fn copy() -> Self {
        let source = lab::path_from("COOPVIRT_DEBIAN");
        let folder = Folder::new();
        let copy = |name: &&str| {
            // `cp` leaves holes where the disk has them: it is copied to memory here.
            let mut command = Command::new("cp");
            command.arg("--sparse=always");
            command.args([source.join(name), folder.path(name)]);
            assert!(command.status().expect("cp can be run").success(), "{name}");
        };
        ["disk.img", "key", "known_hosts"].iter().for_each(copy);
        set_mode(&folder.path("key"), 0o600);
        Self { folder }
    }

    fn image(&self) -> PathBuf {
        self.folder.path("disk.img")
    }

    /// `ssh` to the guest with this command.
    fn ssh(&self, words: &str) -> Command {
        let mut command = Command::new("ssh");
        let known_hosts = self.folder.path("known_hosts");
        command
            .arg("-i")
            .arg(self.folder.path("key"))
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", known_hosts.display()))
            .args(["-F", "none", "-o", "BatchMode=yes"])
            .args(["-o", "StrictHostKeyChecking=yes"])
            .args(["-o", "ConnectTimeout=120"])
            .arg(format!("root@{ADDRESS}"))
            .arg(words);
        command
    }

    /// What the command prints; it must succeed.
    #[track_caller]
    fn run(&self, words: &str) -> String {
        let output = self.ssh(words).stdin(Stdio::null()).output();
        let output = output.expect("ssh can be run: scripts/setup --guest-image");
        assert!(output.status.success(), "{words}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Tries until somebody answers; panics if the guest ends or the time is over.
    #[track_caller]
    fn wait_for_login(&self, running: &mut Running) -> Duration {
        let started = Instant::now();
        running.wait_for("login");
        loop {
            let output = self.ssh("true").stdin(Stdio::null()).output();
            let output = output.expect("ssh can be run: scripts/setup --guest-image");
            if output.status.success() {
                return started.elapsed();
            }
            assert!(
                started.elapsed() < LOGIN_LIMIT,
                "no login by ssh: {output:?}\n{}",
                running.text()
            );
            thread::sleep(Duration::from_secs(1));
        }
    }

    /// Carries the bytes into a file of the guest.
    #[track_caller]
    fn send(&self, bytes: &[u8], path: &str) {
        let mut child = self
            .ssh(&format!("cat >{path} && sync"))
            .stdin(Stdio::piped())
            .spawn()
            .expect("ssh has been run before");
        let mut input = child.stdin.take().expect("piped above");
        input.write_all(bytes).expect("ssh takes it");
        drop(input);
        assert!(child.wait().expect("our own child").success());
    }

    /// Checks the file system without changing it.
    #[track_caller]
    fn check(&self) {
        let mut command = Command::new("e2fsck");
        let output = command.args(["-f", "-n"]).arg(self.image()).output();
        let output = output.expect("e2fsck can be run: scripts/setup --guest-image");
        eprintln!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{output:?}");
    }
}

/// Bytes that no two blocks have alike.
fn content() -> Vec<u8> {
    let words = (0..FILE_BYTES as u64 / 8).map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).collect()
}

/// The sum as this machine's own program sees it.
fn sum_of(folder: &Folder, bytes: &[u8]) -> String {
    let path = folder.file("sent", bytes);
    let output = Command::new("sha256sum").arg(path).output();
    let output = output.expect("sha256sum can be run");
    let text = String::from_utf8_lossy(&output.stdout);
    text.split(' ').next().expect("a sum").to_owned()
}

/// Boots it, works in it by ssh, lets it power off and looks at its disk.
#[track_caller]
fn whole_life(mode: &str, words: &str, look: impl Fn(&Disk)) {
    whole_life_behind(&Tap::up(&[]), mode, words, look);
}

/// The same on a tap that is there.
#[track_caller]
fn whole_life_behind(_tap: &Tap, mode: &str, words: &str, look: impl Fn(&Disk)) {
    let disk = Disk::copy();
    let lab = Lab::find();
    let mut running = Guest::with_file(&lab.kernel_file(MODULE_KERNEL, "vmlinux"))
        .cpus(2)
        .memory("512M")
        .arguments(["--mode", mode, "--net", &format!("tap={TAP}")])
        .arguments(["--disk".into(), disk.image()])
        .cmdline("root=/dev/vda ro tsc=reliable no_timer_check systemd.show_status=yes")
        .cmdline(words)
        .limit(LIMIT)
        .start();
    let login = disk.wait_for_login(&mut running);
    eprintln!("{mode}: first login by ssh after {} s", login.as_secs());

    let release = lab.release(MODULE_KERNEL);
    assert_eq!(disk.run("uname -r"), release);
    assert_eq!(
        disk.run(". /etc/os-release; echo $ID $VERSION_ID"),
        "debian 12"
    );
    // Jobs may still be queued: then this waits for them. `degraded` has another status, but names come first.
    let failed = disk.run(
        "systemctl is-system-running --wait >/dev/null; systemctl --failed --no-legend --plain",
    );
    assert_eq!(failed, "", "units have failed");
    assert_eq!(disk.run("systemctl is-system-running"), "running");
    eprintln!("{mode}: {}", disk.run("systemd-analyze time"));
    let checked = disk.run("systemctl is-active systemd-fsck-root.service");
    assert_eq!(checked, "active", "the guest has not checked its disk");

    let bytes = content();
    disk.send(&bytes, "/root/sent");
    let sum = sum_of(&disk.folder, &bytes);
    assert_eq!(disk.run("sha256sum </root/sent"), format!("{sum}  -"));
    look(&disk);

    // The connection may end before the answer comes.
    let _ = disk.ssh("systemctl poweroff").stdin(Stdio::null()).status();
    let outcome = running.finish();
    outcome.assert_ended(0, "the guest powered off");
    disk.check();
    // What the guest was given is on the disk, not only in its memory.
    let image = disk.image();
    let output = Command::new("debugfs")
        .args(["-R", "cat /root/sent"])
        .arg(&image)
        .output();
    let output = output.expect("debugfs comes with e2fsck");
    assert!(
        output.stdout == bytes,
        "the file on the disk is another one"
    );
    fs::remove_file(&image).expect("our own copy");
}

#[test]
fn debian_under_kvm() {
    whole_life("kvm", "", |_| {});
}

#[test]
fn debian_with_the_module() {
    whole_life("coop", "modules_load=coopvirt", |disk| {
        let loaded = disk.run("cat /sys/module/coopvirt/initstate");
        assert_eq!(loaded, "live");
        let driver = disk.run("cat /sys/devices/system/cpu/cpuidle/current_driver");
        assert_eq!(driver, "coopvirt");
    });
}

#[test]
fn debian_behind_nat_installs_a_package() {
    let server = Beyond::start();
    let tap = Tap::up(&["--nat"]);
    whole_life_behind(&tap, "kvm", "", |disk| {
        // Instead of all other sources, which no lab reaches.
        let apt = "apt-get -o Dir::Etc::sourcelist=/etc/apt/beyond.list -o Dir::Etc::sourceparts=- -o Acquire::Retries=3";
        let line = server.source();
        disk.run(&format!("echo '{line}' >/etc/apt/beyond.list"));
        eprintln!("{}", disk.run(&format!("{apt} update")));
        let install = format!("{apt} -q -y install {}", beyond::PACKAGE);
        eprintln!("{}", disk.run(&install));
        assert_eq!(
            disk.run(&format!("cat {}", beyond::INSTALLED)),
            beyond::WORD
        );
        // The server has seen this host and nobody else.
        let (log, host) = (server.log(), server.host());
        let asked: Vec<&str> = log.lines().filter(|line| line.contains("url:")).collect();
        assert!(asked.iter().any(|line| line.contains(".deb")), "{log}");
        assert!(asked.iter().all(|line| line.contains(host)), "{log}");
        assert!(!log.contains(ADDRESS), "{log}");
    });
}
