//! Asks a running machine, as a user does.

use std::path::Path;
use std::process::Command;

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
