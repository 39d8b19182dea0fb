//! What `--vhost-user-blk` and `--fs` say: devices that other processes serve, each by its socket.
//! Nothing here touches a file.

use std::path::PathBuf;
use std::time::Duration;

use super::{once, ConfigError, MAX_VCPUS};

/// Longest name of a shared folder (virtio 1.2, 5.11.4).
pub const MAX_TAG_BYTES: usize = 36;
/// How long requests to a disk wait for its back end.
pub const DEFAULT_RECONNECT: Duration = Duration::from_secs(60);

/// A disk that another process serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostUserBlkConfig {
    /// The process's socket.
    pub socket: PathBuf,
    /// Most queues; `None`: one per vCPU. There are never more than vCPUs, nor than it serves.
    pub queues: Option<u16>,
    /// How long requests wait for a process that has ended, before they fail.
    pub reconnect: Duration,
}

/// A folder that another process serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsConfig {
    /// The process's socket.
    pub socket: PathBuf,
    /// What the guest mounts it by.
    pub tag: String,
    /// Most queues for requests, beside the one that overtakes; `None`: one per vCPU.
    pub queues: Option<u16>,
}

/// Reads `SOCKET[,queues=N][,reconnect=SECONDS]`.
pub fn vhost_user_blk(text: &str) -> Result<VhostUserBlkConfig, ConfigError> {
    let bad = |reason: String| ConfigError::VhostUserBlk {
        text: text.to_owned(),
        reason,
    };
    let mut words = text.split(',');
    let mut disk = VhostUserBlkConfig {
        socket: socket(words.next()).map_err(bad)?,
        queues: None,
        reconnect: DEFAULT_RECONNECT,
    };
    let mut said = Vec::new();
    for word in words {
        let name = word.split_once('=').map_or(word, |(name, _)| name);
        once(&mut said, name).map_err(bad)?;
        match word.split_once('=') {
            Some(("queues", value)) => disk.queues = Some(queues(value).map_err(bad)?),
            Some(("reconnect", value)) => {
                let seconds = value.parse::<u32>();
                let seconds = seconds
                    .map_err(|_| bad(format!("reconnect {value:?} is no number of seconds")))?;
                disk.reconnect = Duration::from_secs(seconds.into());
            }
            _ => return Err(bad(format!("unknown word {word:?}"))),
        }
    }
    Ok(disk)
}

/// Reads `SOCKET,tag=TAG[,queues=N]`.
pub fn fs(text: &str) -> Result<FsConfig, ConfigError> {
    let bad = |reason: String| ConfigError::Fs {
        text: text.to_owned(),
        reason,
    };
    let mut words = text.split(',');
    let socket = socket(words.next()).map_err(bad)?;
    let (mut tag, mut most) = (None, None);
    let mut said = Vec::new();
    for word in words {
        let name = word.split_once('=').map_or(word, |(name, _)| name);
        once(&mut said, name).map_err(bad)?;
        match word.split_once('=') {
            Some(("tag", "")) => return Err(bad("the tag is empty".into())),
            Some(("tag", value)) if value.len() > MAX_TAG_BYTES => {
                return Err(bad(format!("the tag is longer than {MAX_TAG_BYTES} bytes")))
            }
            Some(("tag", value)) => tag = Some(value.to_owned()),
            Some(("queues", value)) => most = Some(queues(value).map_err(bad)?),
            _ => return Err(bad(format!("unknown word {word:?}"))),
        }
    }
    Ok(FsConfig {
        socket,
        tag: tag.ok_or_else(|| bad("tag=TAG is missing".into()))?,
        queues: most,
    })
}

fn socket(word: Option<&str>) -> Result<PathBuf, String> {
    match word {
        None | Some("") => Err("the socket's path is missing".into()),
        // Another VMM's way to say it.
        Some(path) if path.starts_with("socket=") || path.starts_with("tag=") => {
            Err("the socket's path comes first, without a name".into())
        }
        Some(path) => Ok(path.into()),
    }
}

fn queues(value: &str) -> Result<u16, String> {
    let count = value.parse().ok();
    count
        .filter(|count| (1..=u16::from(MAX_VCPUS)).contains(count))
        .ok_or_else(|| format!("queues {value:?} is not a number from 1 to {MAX_VCPUS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_words_are_read() {
        let disk = vhost_user_blk("/run/a.sock,queues=2,reconnect=5").unwrap();
        assert_eq!(disk.socket, PathBuf::from("/run/a.sock"));
        assert_eq!(disk.queues, Some(2));
        assert_eq!(disk.reconnect, Duration::from_secs(5));
        assert_eq!(
            vhost_user_blk("a").unwrap().reconnect,
            Duration::from_secs(60)
        );
        let share = fs("b.sock,tag=home,queues=1").unwrap();
        assert_eq!(share.socket, PathBuf::from("b.sock"));
        assert_eq!((share.tag.as_str(), share.queues), ("home", Some(1)));
    }

    #[test]
    fn wrong_words_are_refused_with_their_reason() {
        for (text, reason) in [
            ("", "path is missing"),
            (",queues=1", "path is missing"),
            ("socket=a", "comes first"),
            ("a,queues=0", "from 1 to 64"),
            ("a,queues=65", "from 1 to 64"),
            ("a,reconnect=soon", "number of seconds"),
            ("a,ro", "unknown word \"ro\""),
            ("a,queues=1,queues=1", "queues is said twice"),
        ] {
            let error = vhost_user_blk(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let long = format!("a,tag={}", "x".repeat(37));
        for (text, reason) in [
            ("", "path is missing"),
            ("tag=a,socket=b", "comes first"),
            ("a", "tag=TAG is missing"),
            ("a,tag=", "the tag is empty"),
            (long.as_str(), "longer than 36"),
            ("a,tag=b,cache=auto", "unknown word"),
            ("a,tag=b,tag=c", "tag is said twice"),
        ] {
            let error = fs(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
