//! The text of `--disk`: a path, and what else is said of a disk.
//!
//! `config` re-exports it. Nothing here touches a file.

use std::path::PathBuf;

use crate::config::{ConfigError, MAX_VCPUS};
use crate::virtio::NotifyPolicy;

/// A disk of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// Raw image file or block device.
    pub path: PathBuf,
    /// Whether the guest is refused writes.
    pub read_only: bool,
    /// How requests are carried out; `None`: by io_uring where there is one, but images in memory
    /// one by one.
    pub io: Option<DiskIo>,
    /// Most queues; `None`: one per vCPU. There are never more than vCPUs.
    pub queues: Option<u16>,
    /// Serial number that the guest sees.
    pub serial: Option<String>,
    /// Who receives the guest's notifications.
    pub notify: NotifyPolicy,
}

/// How the requests of a disk are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskIo {
    /// Many at once, by io_uring.
    Uring,
    /// One after the other.
    Sync,
}

/// Reads `PATH[,ro][,io=uring|sync][,queues=N][,serial=S][,notify=auto|thread|vcpu]`. What is no option
/// belongs to the path, which may have commas.
pub fn disk(text: &str) -> Result<DiskConfig, ConfigError> {
    let bad = || ConfigError::Disk(text.to_owned());
    let mut disk = DiskConfig {
        path: PathBuf::new(),
        read_only: false,
        io: None,
        queues: None,
        serial: None,
        notify: NotifyPolicy::Auto,
    };
    let mut rest = text;
    while let Some((path, word)) = rest.rsplit_once(',') {
        match word.split_once('=') {
            None if word == "ro" => disk.read_only = true,
            None if word == "rw" => {}
            None => break,
            Some(("io", "uring")) => disk.io = Some(DiskIo::Uring),
            Some(("io", "sync")) => disk.io = Some(DiskIo::Sync),
            Some(("notify", "auto")) => disk.notify = NotifyPolicy::Auto,
            Some(("notify", "thread")) => disk.notify = NotifyPolicy::Thread,
            Some(("notify", "vcpu")) => disk.notify = NotifyPolicy::Vcpu,
            Some(("queues", count)) => {
                let count = count.parse().map_err(|_| bad())?;
                if !(1..=u16::from(MAX_VCPUS)).contains(&count) {
                    return Err(bad());
                }
                disk.queues = Some(count);
            }
            Some(("serial", serial)) => disk.serial = Some(serial.to_owned()),
            // A misspelt option rather than the end of a path.
            Some((key, _)) if key.bytes().all(|byte| byte.is_ascii_lowercase()) => {
                return Err(bad());
            }
            Some(_) => break,
        }
        rest = path;
    }
    if rest.is_empty() {
        return Err(bad());
    }
    disk.path = rest.into();
    Ok(disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_behind_the_path_in_any_order() {
        let plain = disk("a").unwrap();
        assert_eq!(plain.path, PathBuf::from("a"));
        assert_eq!(
            (plain.read_only, plain.io, plain.queues, plain.notify),
            (false, None, None, NotifyPolicy::Auto)
        );
        let all = disk("a,b,serial=x-1,queues=2,io=sync,ro").unwrap();
        assert_eq!(all.path, PathBuf::from("a,b"));
        assert!(all.read_only);
        assert_eq!((all.io, all.queues), (Some(DiskIo::Sync), Some(2)));
        assert_eq!(all.serial.as_deref(), Some("x-1"));
        assert_eq!(disk("a,ro,io=uring").unwrap().io, Some(DiskIo::Uring));
        for (word, policy) in [
            ("auto", NotifyPolicy::Auto),
            ("thread", NotifyPolicy::Thread),
            ("vcpu", NotifyPolicy::Vcpu),
        ] {
            assert_eq!(disk(&format!("a,notify={word}")).unwrap().notify, policy);
        }
    }

    #[test]
    fn what_is_no_option_belongs_to_the_path_but_misspelt_options_are_refused() {
        for path in ["a,b", "a,readonly", "a,b/c=d", "a,B=1"] {
            assert_eq!(disk(path).unwrap().path, PathBuf::from(path), "{path}");
        }
        for bad in [
            "",
            ",ro",
            "a,io=",
            "a,io=aio",
            "a,queues=0",
            "a,queues=65",
            "a,queues=x",
            "a,cache=none",
            "a,notify=",
            "a,notify=io",
            "a,notify=vCPU",
        ] {
            assert_eq!(disk(bad), Err(ConfigError::Disk(bad.into())), "{bad}");
        }
    }
}
