//! What `--vsock` says: the guest's CID, and who moves the data. Nothing here touches a file.

use std::path::PathBuf;

use super::{once, ConfigError};

/// A guest's socket device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VsockConfig {
    /// Its context identifier.
    pub cid: u32,
    /// The UNIX socket through which programs of the host reach the guest, and whose name the sockets
    /// begin with that the guest reaches; `None`: the host's kernel moves the data (vhost-vsock).
    pub socket: Option<PathBuf>,
}

/// Reads `CID` or `cid=N[,socket=PATH]`.
pub fn vsock(text: &str) -> Result<VsockConfig, ConfigError> {
    let bad = |reason: String| ConfigError::Vsock {
        text: text.to_owned(),
        reason,
    };
    if !text.contains('=') {
        return Ok(VsockConfig {
            cid: cid(text)?,
            socket: None,
        });
    }
    let (mut number, mut socket) = (None, None);
    let mut said = Vec::new();
    // The path comes last and may have commas.
    let mut rest = Some(text);
    while let Some(words) = rest {
        let (word, behind) = match words.split_once(',') {
            Some((word, behind)) if !word.starts_with("socket=") => (word, Some(behind)),
            _ => (words, None),
        };
        let name = word.split_once('=').map_or(word, |(name, _)| name);
        once(&mut said, name).map_err(bad)?;
        match word.split_once('=') {
            Some(("cid", value)) => number = Some(cid(value)?),
            Some(("socket", "")) => return Err(bad("the socket's path is empty".into())),
            Some(("socket", path)) => socket = Some(PathBuf::from(path)),
            _ => return Err(bad(format!("unknown word {word:?}"))),
        }
        rest = behind;
    }
    Ok(VsockConfig {
        cid: number.ok_or_else(|| bad("cid=N is missing; it comes first".into()))?,
        socket,
    })
}

/// Reads a CID that a guest can have: 0, 1 and 2 are hypervisor, local and host, the last is anybody.
fn cid(text: &str) -> Result<u32, ConfigError> {
    let number = text.parse().ok();
    number
        .filter(|cid| (3..u32::MAX).contains(cid))
        .ok_or_else(|| ConfigError::Cid(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let read = |text: &str| vsock(text).map(|vsock| (vsock.cid, vsock.socket));
        assert_eq!(read("42"), Ok((42, None)));
        assert_eq!(read("cid=3"), Ok((3, None)));
        let socket = Some(PathBuf::from("/run/a,b=c.sock"));
        assert_eq!(read("cid=4,socket=/run/a,b=c.sock"), Ok((4, socket)));
    }

    #[test]
    fn wrong_words_are_refused_with_their_reason() {
        for (text, reason) in [
            ("", "3 to 4294967294"),
            ("2", "3 to 4294967294"),
            ("cid=4294967295", "3 to 4294967294"),
            ("cid=x,socket=a", "3 to 4294967294"),
            ("42,socket=a", "unknown word \"42\""),
            ("socket=a", "cid=N is missing"),
            ("cid=3,socket=", "path is empty"),
            ("cid=3,uds=a", "unknown word \"uds=a\""),
            ("cid=3,", "unknown word \"\""),
            ("cid=3,cid=4", "cid is said twice"),
        ] {
            let error = vsock(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
