//! A tree of files in a folder of the host's (virtio-fs), if `coopvirt.share` asks for it.
//!
//! Called by `runner` before the works; not measured. The host has put a tree there, which is read and
//! checked; this side writes as large a one, and reads it again after the folder was unmounted in
//! between, so that nothing comes from this guest's memory. Every word says which file and place it
//! belongs to (`coopvirt_spec::stream`).

use crate::options::SharePlan;
use crate::sys::boot;
use coopvirt_spec::stream;
use serde_json::{json, Value};
use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

const TARGET: &CStr = c"/mnt";
const FOLDER: &str = "/mnt";
/// How long the folder may live when it is to go away.
const PATIENCE: Duration = Duration::from_secs(120);

/// Reads and writes both trees; returns the record, and whether all went well.
pub(crate) fn run(plan: &SharePlan) -> (Value, bool) {
    let started = Instant::now();
    let mut counts = [0; 2];
    let result = trees(plan, &mut counts);
    let record = json!({
        "type": "share",
        "ok": result.is_ok(),
        "error": result.as_ref().err().map(ToString::to_string),
        "from_host": counts[0],
        "from_guest": counts[1],
        "elapsed_ms": u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    });
    (record, result.is_ok())
}

/// Waits until the folder fails; returns the record with the error, and whether it came.
pub(crate) fn wait_for_loss() -> (Value, bool) {
    let until = Instant::now() + PATIENCE;
    let lost = loop {
        // A new name each time: what is known already is not asked for again.
        let name = format!("lost-{}", (until - Instant::now()).as_millis());
        match fs::write(Path::new(FOLDER).join(name), b"x") {
            Err(error) => break Some(error),
            Ok(()) if Instant::now() > until => break None,
            Ok(()) => thread::sleep(Duration::from_millis(20)),
        }
    };
    let record = json!({
        "type": "share-lost",
        "errno": lost.as_ref().and_then(io::Error::raw_os_error),
    });
    (record, lost.is_some())
}

fn trees(plan: &SharePlan, counts: &mut [u64; 2]) -> io::Result<()> {
    let tag = CString::new(plan.tag.as_str())?;
    boot::mount_from(&tag, c"virtiofs", TARGET)?;
    for number in 0..plan.files {
        check("host", stream::FROM_HOST, number)?;
        counts[0] += 1;
    }
    let mut bytes = Vec::new();
    for number in 0..plan.files {
        let path = path("guest", number);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        bytes.resize(stream::file_words(number) * stream::WORD_BYTES, 0);
        stream::fill(&mut bytes, stream::FROM_GUEST, stream::file_start(number));
        fs::write(&path, &bytes)?;
    }
    boot::sync();
    boot::unmount(TARGET)?;
    boot::mount_from(&tag, c"virtiofs", TARGET)?;
    for number in 0..plan.files {
        check("guest", stream::FROM_GUEST, number)?;
        counts[1] += 1;
    }
    Ok(())
}

fn path(side: &str, number: u64) -> PathBuf {
    Path::new(FOLDER).join(format!("{side}/{}/{number}", number / 100))
}

fn check(side: &str, stream: u64, number: u64) -> io::Result<()> {
    let path = path(side, number);
    let bytes = fs::read(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let wrong = stream::first_wrong(&bytes, stream, stream::file_start(number));
    if bytes.len() != stream::file_words(number) * stream::WORD_BYTES || wrong.is_some() {
        return Err(io::Error::other(format!(
            "{}: {} bytes, wrong from word {wrong:?} on",
            path.display(),
            bytes.len()
        )));
    }
    Ok(())
}
