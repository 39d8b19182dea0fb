//! Asks a running machine, as a user does.

use std::path::Path;
use std::process::Command;

use coopvirt::control::metrics::Metrics;

use crate::Lab;

/// `coopvirt ctl SOCKET ARGUMENTS`: its output, or what it said was wrong.
pub fn ctl(socket: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(&Lab::find().program);
    let output = command.arg("ctl").arg(socket).args(arguments).output();
    let output = output.expect("coopvirt can be started");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

/// Its counts.
///
/// # Panics
/// If it does not answer.
#[track_caller]
pub fn metrics(socket: &Path) -> Metrics {
    let text = ctl(socket, &["metrics", "--json"]).expect("an answer");
    serde_json::from_str(&text).expect("metrics")
}
